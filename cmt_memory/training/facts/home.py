# ruff: noqa: E501 -- word lists and phrasings are data
"""Facts about nobody in particular: "the door code", "our landlord", "my flight"."""

from __future__ import annotations

from cmt_memory.training.facts import pools as p
from cmt_memory.training.facts.phrasings import Attribute, attribute

_SAYS = (
    "{p} {n} is {v}.|{p} {n} is {v}.|{p} {n} has changed to {v}.|we set {p} {n} to {v}.|the new {n} is {v}.|{p} {n} will be {v}.|"
    "please use {v} as {p} {n}.|you will need {p} {n}, which is {v}.|do not forget {p} {n}: {v}.|{n}: {v}."
)
_ASKS = "what is {p} {n}?|what is {p} {n}?|what's {p} {n}?|can you tell me {p} {n}?|{p} {n}?|what is the new {n}?|which {n} do we have?"
_HELD = "it was agreed that {p} {n} is {v}.|write down {v} for {p} {n}.||what should I write down for {p} {n}?|what did we agree on for {p} {n}?"


def _home(kind: str, nouns: str, make: p.Maker | None, asks: str = "") -> Attribute:
    return attribute(kind, f"={nouns}", make, _SAYS, f"{_ASKS}|{asks}", _HELD)


HOME = (
    _home(
        "codes",
        "wifi code|door code|alarm code|garage code|gate code|PIN|booking number|order number|reference number|safe combination|"
        "licence plate|customer number|invoice number|locker code|meeting ID|flight number|voucher code|room code|member number",
        p.code,
    ),
    _home(
        "codes",
        "wifi password|guest password|email password|admin password|network name|username|router password|door password",
        p.password,
    ),
    _home(
        "times",
        "checkout time|check-in time|breakfast|dinner|departure|train|boarding time|closing time|opening time|start|pick-up time|"
        "bus|lunch|doors open|last call|curfew|meeting",
        p.clock,
        "when is {p} {n}?|at what time is {p} {n}?|what time is {p} {n}?",
    ),
    _home(
        "times",
        "due date|deadline|moving date|start date|end date|exam date|release date|delivery date|wedding date|renewal date|trip|party",
        p.date,
        "when is {p} {n}?|on what date is {p} {n}?|on which day is {p} {n}?",
    ),
    _home(
        "times",
        "bin day|cleaning day|market day|laundry day|pay day|rest day",
        p.choice(p.WEEKDAYS),
        "when is {p} {n}?|which day is {p} {n}?",
    ),
    _home(
        "prices",
        "rent|deposit|entrance fee|parking fee|monthly fee|heating bill|total|budget|fine|delivery fee|insurance|electricity bill|price",
        p.price,
        "how much is {p} {n}?|how high is {p} {n}?",
    ),
    _home(
        "places",
        "emergency number|plumber's number|landlord's number|office number|hotline|doctor's number|school number|taxi number",
        p.phone,
        "which number is {p} {n}?",
    ),
    _home(
        "people",
        "landlord|plumber|electrician|neighbour|caretaker|teacher|doctor|guide|driver|host|cleaner|coach|captain|contact person",
        None,
        "who is {p} {n}?|who is {p} {n}?|what is the name of {p} {n}?|what is {p} {n} called?",
    ),
    _home(
        "places",
        "meeting room|classroom|meeting point|office|new room",
        p.room,
        "where is {p} {n}?|which room is {p} {n}?",
    ),
    _home("places", "address|new address|delivery address|office address|hotel", p.address, "where is {p} {n}?"),
    _home("places", "destination|next stop|home town|next city", p.city, "where is {p} {n}?"),
)
