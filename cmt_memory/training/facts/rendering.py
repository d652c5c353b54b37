"""Texts from facts: how they are said, in which order, and how a person or thing is referred to."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cmt_memory.training.facts import composing, phrasings
from cmt_memory.training.facts.phrasings import Attribute

EntityKind = Literal["person", "place", "device", "event", "goods", "home"]
Phrasings = Literal["train", "composed", "heldout"]
"""``train`` draws from the listed phrasings, ``composed`` from more, and puts many together from parts as well."""


@dataclass(frozen=True, slots=True)
class Entity:
    """Something that facts are about; ``full`` is how it is first named, ``bare`` the answer that names it."""

    kind: EntityKind
    full: str
    bare: str
    short: str
    pronouns: tuple[str, str, str]
    type: str


@dataclass(frozen=True, slots=True)
class Fact:
    """An attribute of an entity with the noun chosen for it and its value."""

    entity: Entity
    attribute: Attribute
    noun: str
    value: str
    unique: bool


@dataclass(frozen=True, slots=True)
class Statement:
    """Where a text tells a value and whose it is, in characters.

    Attributes:
        end: Where the statement ends, its full stop left out.
        value: The value.
        value_at: Where the value begins.
        name: What names its subject, empty where nothing does.
        name_from: From where in the statement the subject is known.
        names_at: Where names of the subject begin, in the statement and before it.
    """

    end: int
    value: str
    value_at: int
    name: str
    name_from: int
    names_at: tuple[int, ...]


def locate(text: str, said: str, after: int, value: str, name: str, mentions: Sequence[str] = ()) -> Statement | None:
    """Find a statement in a text.

    Args:
        text: The text.
        said: The statement; its first letter may have another case in the text and its full stop may be gone.
        after: Where to begin looking; the whole text is searched if it is not found there.
        value: The value it tells.
        name: The name of its subject.
        mentions: How the statement may refer to the subject instead.

    Returns:
        The statement, or ``None`` if the text does not hold it or it does not hold the value.
    """
    core = said.rstrip(".!?")
    rest = core[1:] if len(core) > 1 else core
    at = text.find(rest, after)
    at = at if at >= 0 else text.find(rest)
    begin, end = max(0, at - len(core) + len(rest)), at + len(rest)
    lower = text.lower()
    value_at = lower.find(value.lower(), begin, end)
    if at < 0 or value_at < 0:
        return None
    names = tuple(m.start() for m in _whole(name).finditer(text) if m.start() < end) if name else ()
    known = [m.start() for word in (name, *mentions) if word for m in _whole(word).finditer(text, begin, end)]
    known = [place for place in known if not value_at <= place < value_at + len(value)]
    return Statement(end, value, value_at, name, min(known, default=begin), names)


def _whole(words: str) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w){re.escape(words)}(?!\w)", re.IGNORECASE)


def capitalise(text: str) -> str:
    """Upper-case the first character and leave the rest."""
    return text[:1].upper() + text[1:]


def render(rng: random.Random, drawn: list[Fact], phrased: Phrasings) -> tuple[str, tuple[Statement, ...]]:
    """Render facts as a text: prose, bullets, headed blocks, lines or a table; held-out phrasings are always prose.

    Returns:
        The text, and where in it each fact is told.
    """
    told: list[tuple[Fact, str]] = []
    named = all(fact.noun and fact.entity.kind != "home" for fact in drawn) and phrased != "heldout"
    style = rng.random()
    if named and style < 0.1:
        body = _blocks(rng, drawn, told)
    elif named and style < 0.17:
        body = _lines(rng, drawn, told)
    elif named and style < 0.23 and len({f.entity for f in drawn}) > 1:
        body = _table(rng, drawn, told)
    else:
        body = _prose(rng, drawn, phrased, told)
    roll = rng.random()
    if roll < 0.12:
        text = f"{rng.choice(phrasings.OPENERS)}\n{body}"
    else:
        text = f"# {rng.choice(phrasings.OPENERS).rstrip('.:,')}\n\n{body}" if roll < 0.16 else body
    return text, _located(text, told)


def _located(text: str, told: list[tuple[Fact, str]]) -> tuple[Statement, ...]:
    statements: list[Statement] = []
    after = 0
    for fact, said in told:
        entity = fact.entity
        name, mentions = ("", ()) if entity.kind == "home" else (entity.bare, (entity.short, *entity.pronouns))
        statement = locate(text, said, after, fact.value, name, mentions)
        if statement is not None:
            statements.append(statement)
            after = statement.end
    return tuple(statements)


def _say(rng: random.Random, fact: Fact, mention: str, phrased: Phrasings) -> str:
    """State a fact as a sentence; a lower-case value never opens it."""
    heldout, composed = phrased == "heldout", phrased == "composed"
    general = phrasings.SAYS_HELDOUT if heldout else phrasings.SAYS
    special = fact.attribute.says_heldout if heldout else fact.attribute.says
    special += fact.attribute.more_says if composed else ()
    home = fact.entity.kind == "home"
    while True:
        use_general = bool(fact.noun) and (not special or rng.random() < (0.3 if composed else 0.45)) and not home
        roll = rng.random() if composed else 1.0
        if roll < 0.04 and fact.noun:
            says = composing.scatter(rng, ("{p} {n}", "{v}"), ".")
        elif roll < (0.52 if use_general else 0.2) and fact.noun:
            says = composing.statement(rng, home)
        else:
            says = rng.choice(general if use_general else special or fact.attribute.says)
            if not use_general and roll < 0.35:
                says = composing.wrap_statement(rng, says)
        if not (says.startswith("{v}") and fact.value[0].islower()):
            return fill(says, fact.entity, mention, fact.noun, fact.value)


def _prose(rng: random.Random, drawn: list[Fact], phrased: Phrasings, told: list[tuple[Fact, str]]) -> str:
    """Render facts as sentences with short references, joins, suffixes and sentences that say nothing."""
    facts = drawn[:]
    if rng.random() < 0.4:
        rng.shuffle(facts)
    filler, suffixes, joins = rng.choice((0.0, 0.0, 0.1, 0.25)), rng.choice((0.0, 0.0, 0.15)), rng.choice((0.1, 0.35))
    opened, plain = False, True
    bullets = rng.random() < 0.12
    seen: set[Entity] = set()
    last: Entity | None = None
    sentences: list[str] = []
    for fact in facts:
        entity, roll = fact.entity, rng.random()
        mention = entity.full
        if entity is last and roll < 0.3:
            mention = entity.pronouns[0]
        elif entity in seen and roll < 0.4 and _short_is_clear(entity, drawn):
            mention = entity.short
        sentence = _say(rng, fact, mention, phrased)
        opens = sentence.startswith(f"{mention} ") and not sentence.startswith(f"{mention} (")
        link = rng.random()
        if sentence.endswith(f"{fact.value}.") and rng.random() < suffixes:
            sentence = sentence[:-1] + rng.choice(phrasings.SUFFIXES) + "."
        if sentences and plain and entity is last and link < joins and sentences[-1][-1] == "." and sentence[-1] == ".":
            subject = f"{entity.pronouns[0]} "
            if sentence.startswith(subject) and opened and rng.random() < 0.7:
                sentence = sentence.removeprefix(subject)
            sentences[-1] = sentences[-1][:-1] + rng.choice((", and ", "; ", " and ", " and ")) + sentence
        elif sentences and link < 0.16:
            sentences.append(capitalise(rng.choice(phrasings.LINKS) + sentence))
        else:
            sentences.append(capitalise(sentence))
        told.append((fact, sentence))
        plain = True
        if rng.random() < filler:
            sentences.append(rng.choice(phrasings.FILLERS))
            plain = False
        if rng.random() < filler / 2 and entity.kind != "home":
            aside = rng.choice(phrasings.ASIDES if entity.kind == "person" else phrasings.THING_ASIDES)
            sentences.append(capitalise(fill(aside, entity, entity.full, "", "")))
            plain = False
        seen.add(entity)
        last, opened = entity, opens
    if bullets:
        return "\n".join(f"{rng.choice('-*')} {s}" for s in sentences)
    sentences = [s if s[-1] in ".!?:" else s + "." for s in sentences]
    gap = rng.choice((" ", " ", " ", " ", "\n"))
    return gap.join(sentences)


def _short_is_clear(entity: Entity, drawn: Sequence[Fact]) -> bool:
    return all(entity is f.entity or f.entity.short != entity.short for f in drawn)


def _blocks(rng: random.Random, drawn: list[Fact], told: list[tuple[Fact, str]]) -> str:
    """Render a heading for each entity with its attributes under it."""
    bullet, mark = rng.choice(("- ", "* ", "  ", "")), rng.choice((": ", " = ", " - ", ": "))
    head = rng.choice(("{}:", "## {}", "{}", "**{}**"))
    blocks = []
    for entity in dict.fromkeys(fact.entity for fact in drawn):
        own = [(f, f"{bullet}{capitalise(f.noun)}{mark}{f.value}") for f in drawn if f.entity is entity]
        blocks.append("\n".join([head.format(capitalise(entity.full)), *(line for _, line in own)]))
        told += own
    return rng.choice(("\n\n", "\n")).join(blocks)


def _lines(rng: random.Random, drawn: list[Fact], told: list[tuple[Fact, str]]) -> str:
    """Render one ``name, attribute: value`` line for each fact, in any order."""
    facts = rng.sample(drawn, len(drawn))
    form = rng.choice(
        ("{e}, {n}: {v}", "{e} / {n}: {v}", "{n} ({e}): {v}", "{e} - {n} - {v}", "{e}'s {n} = {v}", "{n} {e}: {v}")
    )
    told += [(f, capitalise(form.format(e=f.entity.bare, n=f.noun, v=f.value))) for f in facts]
    return "\n".join(line for _, line in told)


def fixed(attribute: Attribute) -> bool:
    """Tell whether the attribute's nouns are different things (``=`` first) instead of synonyms."""
    return bool(attribute.nouns) and attribute.nouns[0].startswith("=")


def _article(value: str) -> str:
    return "an" if value[:1].lower() in "aeiou" else "a"


def fill(template: str, entity: Entity, mention: str, noun: str, value: str) -> str:
    """Fill a phrasing in; ``mention`` is a name or the entity's own pronoun."""
    subject, objective, possessive = entity.pronouns
    pronoun = mention == subject
    return template.format(
        s=mention,
        o=objective if pronoun else mention,
        p=possessive if pronoun else f"{mention}'s",
        r=possessive,
        n=noun,
        v=value,
        a=_article(value),
        t=entity.type,
    ).replace(f"{objective}'s", possessive if pronoun else f"{objective}'s")


def _table(rng: random.Random, drawn: list[Fact], told: list[tuple[Fact, str]]) -> str:
    """Render entities as rows and attributes as columns."""
    columns = list(dict.fromkeys((f.attribute, f.noun if fixed(f.attribute) else "") for f in drawn))
    titles = [next(f.noun for f in drawn if f.attribute is a and (not n or f.noun == n)) for a, n in columns]
    rows = [["name", *titles]]
    told += [(fact, fact.value) for fact in drawn]
    for entity in dict.fromkeys(f.entity for f in drawn):
        cells = []
        for a, n in columns:
            cells.append(
                next(
                    (f.value for f in drawn if f.entity is entity and f.attribute is a and (not n or f.noun == n)), "-"
                )
            )
        rows.append([entity.bare, *cells])
    if rng.random() < 0.3:
        return "\n".join("; ".join(row) for row in rows)
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])
