# ruff: noqa: SIM905 -- word lists and phrasings are data
"""Python signatures with docstrings, and questions about what a function takes, returns and raises."""

from __future__ import annotations

import random
from dataclasses import dataclass

from cmt_memory.training.facts import pools as p

VERBS = (
    "load save read write fetch send parse build make find count merge split sort filter check update delete "
    "create open close render compute convert encode decode validate resolve compress format print start "
    "stop copy move list get set add remove rename export import scan match group sum clean draw round index "
    "upload download lock"
).split()
NOUNS = (
    "orders users files rows items pages invoices tokens keys words lines images records events messages "
    "tables prices dates names paths codes reports cells nodes edges scores labels batches tasks jobs "
    "sessions tickets emails folders lists blocks frames colors points routes logs tags links groups parts "
    "titles vectors buckets"
).split()
PARAMETERS = (
    "path limit name size timeout text key width height index url query mode encoding depth start end step "
    "count delimiter prefix suffix seed offset level port host user token color weight rate factor threshold "
    "flag unit"
).split()
TYPES = (
    "int|str|float|bool|bytes|list[str]|list[int]|dict[str, int]|Path|tuple[int, int]|set[str]|None|dict|object"
).split("|")
EXCEPTIONS = (
    "ValueError KeyError TypeError OSError IndexError RuntimeError FileNotFoundError PermissionError "
    "TimeoutError LookupError AttributeError OverflowError ConnectionError NotImplementedError UnicodeError "
    "EOFError ZeroDivisionError ImportError MemoryError InvalidOrderError ParseError LockedError QuotaError"
).split()
WHAT = (
    "number list sum set average name total copy length order table size date hash index position median "
    "version count iterator mapping path maximum"
).split()
ADJECTIVE = (
    "new open valid sorted missing first last oldest largest unique changed empty hidden remaining active"
).split()
REASONS = (
    "the {x} is missing|the {x} is empty|the {x} is negative|no {y} are found|the {x} is too long|"
    "the {y} are locked|the {x} does not exist|the {y} are not sorted|the {x} has the wrong type|"
    "the {x} is unknown"
).split("|")


@dataclass(frozen=True, slots=True)
class FunctionFact:
    """One thing a docstring says: the questions that ask for it and the literal answer."""

    asks: tuple[str, ...]
    asks_heldout: tuple[str, ...]
    answer: str


RETURNS = (
    (
        "what does `{f}` return?",
        "what does the function {f} return?",
        "what is the return value of {f}?",
        "what does {f} give back?",
        "what do I get from {f}?",
        "what is returned by `{f}`?",
        "which value does {f} return?",
        "{f} returns what?",
        "what is the result of {f}?",
        "what does {f}() return?",
        "what does a call to {f} return?",
        "what will {f} give me?",
        "what is the output of `{f}`?",
        "what value comes out of {f}?",
    ),
    ("calling `{f}` gives me what?", "describe what {f} returns.", "what comes back from {f}?"),
)
RAISES = (
    (
        "what does `{f}` raise?",
        "which exception does {f} raise?",
        "what error does `{f}` raise?",
        "which error can {f} raise?",
        "what exception does {f}() raise?",
        "what does {f} raise when it fails?",
        "what is raised by {f}?",
        "which exception should I catch from {f}?",
        "what kind of error comes from {f}?",
        "what exception is raised by `{f}`?",
        "what can go wrong in {f}, which error is it?",
        "which exception is raised by {f}?",
        "what error should I expect from {f}?",
        "with which exception does {f} fail?",
        "what do I have to catch around {f}()?",
    ),
    ("name the exception that {f} raises.", "if {f} fails, which error do I see?", "what might `{f}` throw?"),
)
WHEN = (
    (
        "when does `{f}` raise {e}?",
        "when does {f} raise {e}?",
        "why does {f} raise {e}?",
        "in which case does {f} raise {e}?",
        "when is {e} raised by {f}?",
        "what makes {f} raise {e}?",
        "under what condition does {f} raise {e}?",
        "{f} raises {e} if what?",
        "when do I get {e} from {f}?",
        "for what reason does {f} raise {e}?",
        "what is the reason for {e} in `{f}`?",
        "when will {f} fail with {e}?",
        "what leads to {e} in {f}?",
        "in what situation does {f}() raise {e}?",
    ),
    ("{f} gives {e}: in which case?", "what must happen so that {f} raises {e}?"),
)
DEFAULT = (
    (
        "what is the default of `{x}` in {f}?",
        "what is the default value of {x} in {f}?",
        "what default does {f} use for {x}?",
        "what is {x} by default in `{f}`?",
        "which default does {x} have in {f}?",
        "what is the default {x} of {f}?",
        "default {x} of {f}?",
        "what value does {x} have by default in {f}()?",
        "if I do not pass {x} to {f}, what is it?",
        "which value is used for {x} in {f} if I give none?",
        "what does {x} default to in {f}?",
        "to what does {x} default in `{f}`?",
        "what is the standard value of {x} in {f}?",
        "without {x}, which value does {f} use?",
    ),
    ("leaving {x} out of {f} means which value?", "in {f}, {x} is preset to what?"),
)
TYPE = (
    (
        "what type does `{f}` return?",
        "what is the return type of {f}?",
        "which type does {f} return?",
        "of what type is the result of {f}?",
        "what type is returned by {f}?",
        "return type of {f}?",
        "what type do I get from {f}()?",
        "what type of value does {f} return?",
        "what is the type of the value from {f}?",
        "what kind of object does {f} return?",
        "which type comes back from `{f}`?",
        "what type should I expect from {f}?",
        "as which type does {f} return its result?",
        "what type has the result of {f}?",
    ),
    ("the result of {f} has which type?", "{f} is annotated to return which type?"),
)
TAKES = (
    (
        "what does `{f}` take?",
        "what does {f} take?",
        "which argument does {f} take?",
        "what argument does `{f}` need?",
        "what is the first argument of {f}?",
        "what is the first parameter of {f}?",
        "what do I pass to {f}?",
        "which parameter does {f} expect?",
        "what must be passed to {f}()?",
        "which argument should I give to {f}?",
        "what is the argument of `{f}` called?",
        "what is the name of the first parameter of {f}?",
        "what does {f} need as an argument?",
        "which argument comes first in {f}?",
        "what do I have to give to {f}?",
    ),
    ("name the argument that {f} wants.", "what goes into {f} first?"),
)
MEANS = (
    (
        "what is `{x}` in {f}?",
        "what is the {x} argument of {f}?",
        "what does {x} mean in {f}?",
        "what is the parameter {x} of `{f}`?",
        "what does the argument {x} of {f} stand for?",
        "what do I pass as {x} to {f}?",
        "what is {x} in {f}()?",
        "what should {x} be in {f}?",
        "what does {f} use {x} for?",
        "what is meant by {x} in {f}?",
        "what does the parameter {x} of {f} mean?",
        "what is {x} for in `{f}`?",
        "what is given to {f} as {x}?",
        "what does `{x}` stand for in {f}?",
    ),
    ("explain the argument {x} of {f}.", "{f} expects {x} to be what?"),
)


def _word(rng: random.Random, words: list[str], pool: p.Pool) -> str:
    return pool.draw(rng, lambda r: r.choice(words) if r.random() < 0.75 else p.word(r, 1, 2))


def sample_function(rng: random.Random, facts: int, pool: p.Pool) -> tuple[str, str, list[FunctionFact]]:
    """Draw a function with a docstring.

    Args:
        rng: Source of randomness.
        facts: Number of facts wanted, 1 to 6.
        pool: Where names and values come from.

    Returns:
        The function's name, its source text, and what can be asked about it.
    """
    verb, noun = _word(rng, VERBS, pool), _word(rng, NOUNS, pool)
    name = f"{verb}_{noun}" if rng.random() < 0.8 else f"{verb}_{pool.draw(rng, lambda r: p.word(r, 1, 2))}_{noun}"
    first = _word(rng, PARAMETERS, pool)
    while (second := _word(rng, PARAMETERS, pool)) == first:
        pass
    adjective, what = rng.choice(ADJECTIVE), rng.choice(WHAT)
    returned = rng.choice(
        (
            f"the {what} of {adjective} {noun}",
            f"the {what} of the {noun}",
            f"a {what} of {noun}",
            f"the {adjective} {noun}",
        )
    )
    kind, error = (
        rng.choice(TYPES),
        pool.draw(rng, lambda r: r.choice(EXCEPTIONS) if r.random() < 0.4 else p.made_name(r) + "Error"),
    )
    reason = rng.choice(REASONS).format(x=first, y=noun)
    default = rng.choice(
        (
            str(rng.randint(0, 5000)),
            str(rng.randint(0, 60)),
            f'"{pool.draw(rng, p.word)}"',
            "None",
            "True",
            "False",
            f"{rng.random():.2f}",
        )
    )
    meaning = rng.choice(
        (
            "the {x} of the {y}",
            "where the {y} are kept",
            "the {a} {x}",
            "which {y} to use",
            "the {x} to look for",
            "how many {y} to keep",
            "the name of the {x}",
        )
    ).format(x=rng.choice(WHAT), y=rng.choice(NOUNS), a=adjective)
    groups = {
        "return": FunctionFact(*RETURNS, returned),
        "raise": FunctionFact(*RAISES, error),
        "when": FunctionFact(*WHEN, reason),
        "default": FunctionFact(*DEFAULT, default),
        "type": FunctionFact(*TYPE, kind),
        "take": FunctionFact(*TAKES, first),
        "mean": FunctionFact(*MEANS, meaning),
    }
    keep = set(rng.sample(sorted(groups), min(facts, len(groups))))
    if "when" in keep:
        keep = keep - {"mean"} | {"raise"} if len(keep) >= facts and "raise" not in keep else keep | {"raise"}
    annotate = "type" in keep
    first_type, second_type = rng.choice(("str", "int", "list", "Path")), rng.choice(("int", "str", "float"))
    signature = f"{first}: {first_type}" if annotate else first
    if "default" in keep:
        signature += f", {second}: {second_type} = {default}" if annotate else f", {second}={default}"
    lines = [f"def {name}({signature})" + (f" -> {kind}:" if annotate else ":")]
    verb_line = f"{verb.capitalize()} {rng.choice(('the', 'all', 'some', 'new'))} {noun}."
    doc = _docstring(rng, verb_line, first, {k: groups[k].answer for k in keep})
    lines += ["    " + line if line else "" for line in doc]
    facts_out = []
    for key in groups:
        if key in keep:
            x = second if key == "default" else first
            filled = [
                tuple(ask.format(x=x, f=name, e=error) for ask in asks)
                for asks in (groups[key].asks, groups[key].asks_heldout)
            ]
            facts_out.append(FunctionFact(filled[0], filled[1], groups[key].answer))
    return name, "\n".join(lines), facts_out


def _docstring(rng: random.Random, opening: str, first: str, said: dict[str, str]) -> list[str]:
    """Render what a docstring says as Google, Sphinx or plain prose style."""
    style = rng.choice(("google", "sphinx", "prose", "prose"))
    returned, error, reason = said.get("return"), said.get("raise"), said.get("when")
    meaning = said.get("mean")
    body: list[str] = []
    if style == "google":
        if meaning:
            body += ["", "Args:", f"    {first}: {meaning}."]
        if returned:
            body += ["", "Returns:", f"    {returned}."]
        if error:
            body += ["", "Raises:", f"    {error}: if {reason}." if reason else f"    {error}: on bad input."]
    elif style == "sphinx":
        body += [f":param {first}: {meaning}"] if meaning else []
        body += [f":return: {returned}"] if returned else []
        body += [f":raises {error}: if {reason}" if reason else f":raises {error}: on bad input"] if error else []
    else:
        body += [f"The argument {first} is {meaning}."] if meaning else []
        body += [rng.choice((f"Returns {returned}.", f"It returns {returned}."))] if returned else []
        if error:
            body += [
                f"Raises {error} if {reason}."
                if reason
                else rng.choice((f"May raise {error}.", f"Raises {error} on failure."))
            ]
    return [f'"""{opening}', *body, '"""'] if body else [f'"""{opening}"""']
