"""Ways to state and to ask a fact that fit every attribute which has a noun ("locker code").

Fields: ``{s}`` subject, ``{o}`` object, ``{p}`` possessive, ``{r}`` reflexive possessive, ``{n}`` noun,
``{v}`` value, ``{a}`` the article of the value. A sentence is capitalised after it is filled in.
"""

from __future__ import annotations

from dataclasses import dataclass

from cmt_memory.training.facts.pools import Maker

SAYS = (
    "{p} {n} is {v}.",
    "{p} {n} is {v}.",
    "{p} {n} is {v}.",
    "the {n} of {o} is {v}.",
    "the {n} of {o} is {v}.",
    "the {n} for {o} is {v}.",
    "for {o}, the {n} is {v}.",
    "{v} is {p} {n}.",
    "{v} is the {n} of {o}.",
    "as for {o}, the {n} is {v}.",
    "{p} {n}: {v}.",
    "{n} of {o}: {v}.",
    "{n} for {o}: {v}",
    "we have {v} as {p} {n}.",
    "{s} has {v} as {r} {n}.",
    "{s} has the {n} {v}.",
    "the {n} listed for {o} is {v}.",
    "note that {p} {n} is {v}.",
    "remember that {p} {n} is {v}.",
    "if anyone asks for {p} {n}, it is {v}.",
    "the {n} belonging to {o} is {v}.",
    "{p} {n} was recorded as {v}.",
    "{p} {n} is now {v}.",
    "{p} {n}, by the way, is {v}.",
    "{s}: {n} {v}.",
    "when it comes to the {n} of {o}, it is {v}.",
    "use {v} as the {n} for {o}.",
    "please note {p} {n}: {v}.",
    "{s} comes with the {n} {v}.",
    "under {n}, {o} is listed with {v}.",
    "{p} {n} happens to be {v}.",
    "{p} {n} has been changed to {v}.",
    "{s} ({n}: {v}) is on the list.",
    "{s}, whose {n} is {v}, is mentioned here.",
)
SAYS_HELDOUT = (
    "anyone looking for {p} {n} should write down {v}.",
    "the records give {v} as the {n} of {o}.",
    "on file for {o} there is the {n} {v}.",
    "{p} {n} turned out to be {v}.",
    "it is {v} that we use as {p} {n}.",
    "{s} can be found with the {n} {v}.",
    "they told us that {v} is the {n} for {o}.",
    "regarding {p} {n}, we wrote down {v}.",
)
ASKS = (
    "what is {p} {n}?",
    "what is {p} {n}?",
    "what is {p} {n}?",
    "what's {p} {n}?",
    "what is the {n} of {o}?",
    "what is the {n} of {o}?",
    "what is the {n} for {o}?",
    "what's the {n} for {o}?",
    "which {n} does {s} have?",
    "what {n} does {s} have?",
    "what {n} is listed for {o}?",
    "tell me {p} {n}.",
    "tell me the {n} of {o}.",
    "please give me the {n} of {o}.",
    "give me {p} {n}.",
    "I need {p} {n}.",
    "I need the {n} for {o}.",
    "{p} {n}?",
    "{n} of {o}?",
    "{o} {n}",
    "do you know {p} {n}?",
    "do you know the {n} of {o}?",
    "I'm looking for {p} {n}.",
    "what was {p} {n} again?",
    "find {p} {n}.",
    "can you tell me {p} {n}?",
    "can you give me the {n} for {o}?",
    "what do we have as {p} {n}?",
    "look up the {n} of {o}.",
    "for {o}, what is the {n}?",
    "what is {o}'s {n}",
    "{o}: {n}?",
    "which {n} belongs to {o}?",
    "I forgot {p} {n}. What is it?",
    "can you tell me what {p} {n} is?",
)
ASKS_HELDOUT = (
    "could you remind me what the {n} of {o} is?",
    "someone asked about {p} {n}. What should I say?",
    "according to the text, what {n} was given for {o}?",
    "say what {p} {n} is.",
    "how does {p} {n} read?",
    "I would like to know the {n} that {s} has.",
    "the {n} of {o} is what?",
    "please check which {n} {s} has.",
)
WHO = (
    "who has the {n} {v}?",
    "whose {n} is {v}?",
    "whose {n} is {v}?",
    "who has {v} as {n}?",
    "{v} is whose {n}?",
    "{v} is the {n} of whom?",
    "whom does the {n} {v} belong to?",
    "for whom is the {n} {v}?",
)
WHO_HELDOUT = ("name the person whose {n} is {v}.", "{v}: whose {n} would that be?")
WHICH = (
    "which {t} has the {n} {v}?",
    "what has the {n} {v}?",
    "the {n} {v} belongs to which {t}?",
    "which {t} has {v} as {n}?",
    "what {t} is the {n} {v} for?",
    "{v} is the {n} of which {t}?",
)
WHICH_HELDOUT = ("name the {t} whose {n} is {v}.", "{v}: that is the {n} of which {t}?")

FILLERS = (
    "The weather was mild all week.",
    "Please keep this note up to date.",
    "Nobody had any questions.",
    "The coffee machine is working again.",
    "More details will follow soon.",
    "This page was checked last month.",
    "Thanks to everyone who helped.",
    "The lift is slow in the morning.",
    "There is free parking behind the house.",
    "Most people arrive by train.",
    "The old list is no longer valid.",
    "Everything else stays as it was.",
    "The windows were cleaned yesterday.",
    "A short break is planned at noon.",
    "It rained for most of the day.",
    "The report is still being written.",
    "We look forward to seeing you.",
    "Some of this may change next year.",
    "The keys are at the front desk.",
    "Please ask if something is unclear.",
    "The meeting went well.",
    "The new carpet looks nice.",
    "Last year was rather busy.",
    "All of this was confirmed by phone.",
)
OPENERS = (
    "Notes",
    "Summary",
    "Here is what we know.",
    "Some notes for later.",
    "Overview",
    "Memo",
    "For your information:",
    "Hello all,",
    "Dear team,",
    "Update",
    "Please read this carefully.",
    "Internal note",
    "What follows is a short list.",
    "Details",
    "Reference",
    "Hi,",
    "Quick notes:",
    "Important",
    "FYI",
    "Directory",
)
LINKS = ("also, ", "in addition, ", "besides, ", "meanwhile, ", "as you know, ", "by the way, ", "finally, ", "then, ")

SUFFIXES = (
    " as of today",
    " according to the list",
    " until further notice",
    ", as before",
    " (confirmed)",
    " this year",
    ", if I remember correctly",
    ", please note",
    " for now",
    " again",
    ", as agreed",
    " at the moment",
    " by the way",
    ", which is new",
    " since last month",
    ", so do not forget",
    " these days",
    ", as everyone knows",
)
ASIDES = (
    "{s} was in a good mood today.",
    "{s} will send an email soon.",
    "{s} asked for a copy of this note.",
    "we talked to {o} last week.",
    "{s} is on holiday next month.",
    "thanks go to {o} for the help.",
    "{s} has been with us for a while.",
    "nobody has seen {o} since Friday.",
    "please say hello to {o}.",
    "{s} forgot the umbrella yesterday.",
    "{s} could not come to the party.",
    "everybody likes {o}.",
)
THING_ASIDES = (
    "{s} is very popular.",
    "we are quite happy with {o}.",
    "there were some questions about {o}.",
    "please tell us what you think of {o}.",
    "{s} was mentioned in the newspaper.",
    "nothing has changed for {o}.",
    "somebody asked about {o} yesterday.",
    "there is a photo of {o} on the wall.",
    "we took a look at {o} last week.",
)


@dataclass(frozen=True, slots=True)
class Attribute:
    """One kind of fact about an entity.

    Attributes:
        kind: The kind reported by the evaluation ("people", "codes", …).
        nouns: Interchangeable names of the attribute; the general phrasings use them. May be empty.
        make: Draws a value.
        says: Statements for this attribute alone.
        asks: Questions for this attribute alone.
        says_heldout: Statements kept for evaluation.
        asks_heldout: Questions kept for evaluation.
        backward: Questions that give the value and ask for the entity.
        more_says: Statements beside ``says`` for composed documents.
        more_asks: Questions beside ``asks`` for composed documents.
        more_backward: Questions beside ``backward`` for composed documents.
    """

    kind: str
    nouns: tuple[str, ...]
    make: Maker | None
    says: tuple[str, ...] = ()
    asks: tuple[str, ...] = ()
    says_heldout: tuple[str, ...] = ()
    asks_heldout: tuple[str, ...] = ()
    backward: tuple[str, ...] = ()
    more_says: tuple[str, ...] = ()
    more_asks: tuple[str, ...] = ()
    more_backward: tuple[str, ...] = ()


def attribute(
    kind: str, nouns: str, make: Maker | None, says: str = "", asks: str = "", held: str = "", back: str = ""
) -> Attribute:
    """Build an attribute from ``|``-separated phrasings; ``held`` is statements ``||`` questions."""

    def split(text: str) -> tuple[str, ...]:
        return tuple(part.strip() for part in text.split("|") if part.strip())

    held_says, _, held_asks = held.partition("||")
    return Attribute(
        kind, split(nouns), make, split(says), split(asks), split(held_says), split(held_asks), split(back)
    )
