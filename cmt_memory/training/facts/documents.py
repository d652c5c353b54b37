"""Documents of synthetic facts with questions, drawn from a seeded world without name clashes."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from cmt_memory.training.facts import composing, functions, home, people, phrasings, pools, things, wordings
from cmt_memory.training.facts.phrasings import Attribute
from cmt_memory.training.facts.rendering import (
    Entity,
    EntityKind,
    Fact,
    Phrasings,
    Statement,
    capitalise,
    fill,
    fixed,
    render,
)

UNKNOWN = "unknown"
"""The answer to a question that the documents do not answer."""

ATTRIBUTES: dict[EntityKind, tuple[Attribute, ...]] = {
    "person": wordings.reworded("person", people.PEOPLE),
    "place": wordings.reworded("place", things.PLACES),
    "device": wordings.reworded("device", things.DEVICES),
    "event": wordings.reworded("event", things.EVENTS),
    "goods": wordings.reworded("goods", things.GOODS),
    "home": wordings.reworded("home", home.HOME),
}
KIND_WEIGHTS: dict[EntityKind, int] = {"person": 42, "place": 13, "device": 12, "event": 12, "goods": 13, "home": 8}
SwappedValues = Literal["dates", "any"]
"""What is exchanged in a `SwappedPair`: dates, as in the paper's example, or also codes, prices, times and numbers."""
_EXCHANGED: dict[SwappedValues, tuple[pools.Maker, ...]] = {
    "dates": (pools.date,),
    "any": (pools.date, pools.clock, pools.price, pools.code, pools.phone),
}


@dataclass(frozen=True, slots=True)
class Question:
    """A question, its literal answer and the kind of fact it asks for."""

    text: str
    answer: str
    kind: str


@dataclass(frozen=True, slots=True)
class FactDocument:
    """A document, one question per fact, questions it cannot answer, and where it tells what."""

    text: str
    questions: tuple[Question, ...]
    unanswerable: tuple[Question, ...]
    statements: tuple[Statement, ...] = ()


@dataclass(frozen=True, slots=True)
class SwappedPair:
    """Two documents of the same words, in the second of which two values have changed places.

    Both have the same two questions, whose answers have changed places too: what tells them apart is which value is
    told of what, so a memory that forgets the order in a document answers both alike.

    Attributes:
        documents: each with two questions, in the same order and the same words.
    """

    documents: tuple[FactDocument, FactDocument]


class FactWorld:
    """A seeded source of documents whose names and values do not clash with one another.

    Args:
        rng: Source of randomness.
        split: Pool of names and values.
        phrasings: Pool of statements and questions.
        respelled: Share of names and values whose letters are changed, see ``pools.Pool``.

    Example:
        >>> world = FactWorld(random.Random(0))
        >>> document = world.document(facts=2)
        >>> len(document.questions)
        2
    """

    def __init__(
        self,
        rng: random.Random,
        split: pools.Split = "train",
        phrasings: Phrasings = "train",
        respelled: float = 0.0,
    ) -> None:
        self.rng = rng
        self.pool = pools.Pool(split, respelled)
        self.phrasings = phrasings
        self._names: set[str] = set()
        self._values: set[str] = set()

    def document(self, facts: int = 8, asks: int = 1) -> FactDocument:
        """Draw a document with at most ``asks`` differently worded questions for each of its facts."""
        if self.rng.random() < 0.12:
            return self._function_document(facts, asks)
        kinds: list[EntityKind] = [self._kind()]
        if facts >= 4 and self.rng.random() < 0.25:
            kinds.append(self._kind())
        drawn: list[Fact] = []
        for index, kind in enumerate(kinds):
            share = facts // len(kinds) + (index < facts % len(kinds))
            drawn += self._facts(kind, share)
        text, statements = render(self.rng, drawn, self.phrasings)
        questions = list(dict.fromkeys(self._ask(fact, drawn) for fact in drawn for _ in range(asks)))
        self.rng.shuffle(questions)
        literal = tuple(replace(q, answer=_literal(q.answer, text)) for q in questions)
        return FactDocument(text, literal, (self._unanswerable(drawn), self.unanswerable()), statements)

    def swapped_pair(self, facts: int = 2, values: SwappedValues = "dates") -> SwappedPair:
        """Draw two documents that differ in which of two values belongs to what; see `SwappedPair`.

        Either two things have the same attribute or one thing has two. With more than two ``facts`` the documents tell
        others too, the same ones.
        """
        while True:
            told = self._exchangeable(values)
            first, second = (fact.value for fact in told)
            drawn = [*told, *(self._facts(self._kind(), facts - 2) if facts > 2 else ())]
            text, _ = render(self.rng, drawn, self.phrasings)
            if first != second and text.count(first) == text.count(second) == 1:
                break
        start, middle, end = re.split(f"{re.escape(first)}|{re.escape(second)}", text)
        values_in_order = (first, second) if text.index(first) < text.index(second) else (second, first)
        other = f"{start}{values_in_order[1]}{middle}{values_in_order[0]}{end}"
        asked = [self._ask(fact, drawn, backward=False) for fact in told]
        exchanged = [replace(asked[0], answer=second), replace(asked[1], answer=first)]
        absent = (self.unanswerable(),)
        return SwappedPair(
            (FactDocument(text, tuple(asked), absent), FactDocument(other, tuple(exchanged), absent)),
        )

    def _exchangeable(self, values: SwappedValues) -> tuple[Fact, Fact]:
        """Two facts whose values are of one sort: of two things, or two of one thing."""
        rng, makers = self.rng, _EXCHANGED[values]
        kinds = [k for k in ATTRIBUTES if k != "home" and any(a.make in makers for a in ATTRIBUTES[k])]
        kind = rng.choice(kinds)
        attribute = rng.choice([a for a in ATTRIBUTES[kind] if a.make in makers])
        others = [a for a in ATTRIBUTES[kind] if a.make is attribute.make and a is not attribute]
        noun = self._noun(attribute)
        thing = self._entity(kind)
        fact = Fact(thing, attribute, noun, *self._value(attribute))
        if others and rng.random() < 0.5:
            other = rng.choice(others)
            return fact, Fact(thing, other, self._noun(other), *self._value(other))
        return fact, Fact(self._entity(kind), attribute, noun, *self._value(attribute))

    def unanswerable(self) -> Question:
        """Ask about somebody or something that no document of this world names."""
        entity = self._entity(self._kind())
        attribute = self.rng.choice(ATTRIBUTES[entity.kind])
        fact = Fact(entity, attribute, self._noun(attribute), "", unique=False)
        return Question(self._ask(fact, [fact], backward=False).text, UNKNOWN, "unanswerable")

    def _unanswerable(self, drawn: Sequence[Fact]) -> Question:
        """Ask for an attribute that a known entity is not given in the document."""
        entity = self.rng.choice(drawn).entity
        had = {fact.attribute for fact in drawn if fact.entity is entity}
        kinds = {fact.attribute.kind for fact in drawn if fact.entity is entity}
        pool = [a for a in ATTRIBUTES[entity.kind] if a not in had and a.nouns and (a.kind not in kinds or fixed(a))]
        if not pool:
            return self.unanswerable()
        attribute = self.rng.choice(pool)
        noun = self._noun(attribute)
        asks = phrasings.ASKS_HELDOUT if self.phrasings == "heldout" else phrasings.ASKS
        ask = self.rng.choice(attribute.asks if entity.kind == "home" else asks)
        if self.phrasings == "composed":
            ask = self._compose(ask, general=True, backward=False, noun=noun, entity=entity)
        return Question(self._style_question(fill(ask, entity, entity.full, noun, "")), UNKNOWN, "unanswerable")

    def _kind(self) -> EntityKind:
        kind = self.rng.choices(list(KIND_WEIGHTS), weights=list(KIND_WEIGHTS.values()))[0]
        return "person" if kind == "home" and "home" in self._names else kind

    def _fresh(self, make: pools.Maker) -> str:
        while (name := make(self.rng)).lower() in self._names:
            pass
        self._names.add(name.lower())
        return name

    def _person(self, rng: random.Random) -> tuple[str, tuple[str, str, str]]:
        woman = rng.random() < 0.5
        pronouns = ("she", "her", "her") if woman else ("he", "him", "his")
        pool = pools.WOMEN if woman else pools.MEN
        first = self.pool.draw(rng, lambda r: r.choice(pool) if r.random() < 0.5 else pools.made_name(r))
        last = self.pool.draw(rng, pools.surname)
        return f"{first} {last}", pronouns

    def _entity(self, kind: EntityKind) -> Entity:
        rng, draw = self.rng, self.pool.draw
        it = ("it", "it", "its")
        if kind == "home":
            self._names.add("home")
            ours = ("we", "us", rng.choice(("the", "the", "our", "my")))
            return Entity(kind, "we", "we", "we", ours, "thing")
        if kind == "person":
            while True:
                name, pronouns = self._person(rng)
                first = name.split()[0].lower()
                if first not in self._names or (rng.random() < 0.1 and name.lower() not in self._names):
                    break
            shared = first in self._names
            self._names |= {first, name.lower()}
            title = rng.random()
            if title < 0.06:
                name = ("Dr. " if title < 0.03 else "Mrs. " if pronouns[0] == "she" else "Mr. ") + name.split()[1]
                return Entity(kind, name, name, name, pronouns, "person")
            if title < 0.16 and not shared:
                return Entity(kind, name.split()[0], name.split()[0], name.split()[0], pronouns, "person")
            return Entity(kind, name, name, name if shared else name.split()[0], pronouns, "person")
        if kind == "place":
            venue = rng.choice(pools.VENUES)
            base = self._fresh(lambda r: draw(r, lambda q: q.choice((pools.made_name, pools.surname, pools.city))(q)))
            form = rng.random()
            if form < 0.35:
                return Entity(kind, f"{venue} {base}", f"{venue} {base}", f"the {venue.lower()}", it, venue.lower())
            bare = f"{base} {venue}" if form < 0.75 else f"{base} {venue.lower()}"
            return Entity(kind, f"the {bare}", bare, f"the {venue.lower()}", it, venue.lower())
        if kind == "device":
            bare = self._fresh(self._device)
            return Entity(kind, f"the {bare}", bare, f"the {bare}", it, "room or device")
        if kind == "event":
            bare = self._fresh(lambda r: draw(r, _event))
            return Entity(kind, f"the {bare}", bare, f"the {bare.split()[-1]}", it, "event")
        if rng.random() < 0.25:
            bare = self._fresh(lambda r: f"{r.choice(('order', 'parcel', 'invoice', 'ticket'))} {draw(r, pools.code)}")
            return Entity(kind, bare, bare, bare, it, bare.split()[0])
        bare = self._fresh(lambda r: draw(r, _product))
        return Entity(kind, f"the {bare}", bare, f"the {bare}", it, "product")

    def _device(self, rng: random.Random) -> str:
        base = self.pool.draw(rng, lambda r: r.choice((*pools.ROOMS, *pools.THINGS)))
        form = rng.random()
        if form < 0.35:
            return base
        if form < 0.65:
            return f"{rng.choice(pools.ADJECTIVES)} {base}"
        if form < 0.8:
            return f"{base} {rng.randint(1, 40)}"
        return f"{self.pool.draw(rng, pools.made_name)} {base}"

    def _noun(self, attribute: Attribute) -> str:
        return self.rng.choice(attribute.nouns).removeprefix("=") if attribute.nouns else ""

    def _value(self, attribute: Attribute) -> tuple[str, bool]:
        """Draw a value no other fact of the world has, if twelve tries find one."""
        value = ""
        for _ in range(12):
            if attribute.make is None:
                value = self._entity("person").full
                return value, True
            value = self.pool.draw(self.rng, attribute.make)
            if value.lower() not in self._values:
                self._values.add(value.lower())
                return value, True
        return value, False

    def _facts(self, kind: EntityKind, count: int) -> list[Fact]:
        """Draw facts: several entities share the same few attributes, which makes them easy to confuse."""
        rng = self.rng
        several = 1 if kind == "home" else min(count, rng.choice((1, 2, 2, 2, 3, 3, 4, 4, 5, 8)))
        entities = [self._entity(kind) for _ in range(several)]
        per_entity = -(-count // several)
        size = min(len(ATTRIBUTES[kind]), per_entity + rng.choice((0, 0, 1, 2)))
        shared = rng.sample(ATTRIBUTES[kind], size)
        pairs: list[tuple[Entity, Attribute, str]] = []
        nouns = {attribute: self._noun(attribute) for attribute in shared}
        for index, entity in enumerate(entities):
            own = count // several + (index < count % several)
            chosen = rng.sample(shared, min(own, size))
            pairs += [(entity, a, nouns[a] if rng.random() < 0.6 or fixed(a) else self._noun(a)) for a in chosen]
            doubles = [a for a in ATTRIBUTES[kind] if fixed(a) and _repeatable(a)]
            while doubles and own > len(chosen):
                attribute = rng.choice(doubles)
                noun = self._noun(attribute)
                if (entity, attribute, noun) not in pairs:
                    pairs.append((entity, attribute, noun))
                    own -= 1
        return [Fact(e, a, noun, *self._value(a)) for e, a, noun in pairs]

    def _ask(self, fact: Fact, drawn: Sequence[Fact], backward: bool | None = None) -> Question:
        rng, entity, attribute = self.rng, fact.entity, fact.attribute
        heldout, composed = self.phrasings == "heldout", self.phrasings == "composed"
        if backward is None:
            backward = fact.unique and entity.kind != "home" and rng.random() < 0.15
        noun = fact.noun if fixed(attribute) or rng.random() < 0.7 else self._noun(attribute)
        general: tuple[str, ...] = phrasings.ASKS_HELDOUT if heldout else phrasings.ASKS
        special: tuple[str, ...] = attribute.asks_heldout if heldout else attribute.asks
        special += attribute.more_asks if composed else ()
        if backward:
            person = entity.kind == "person"
            who: tuple[str, ...] = phrasings.WHO_HELDOUT if heldout else phrasings.WHO
            which: tuple[str, ...] = phrasings.WHICH_HELDOUT if heldout else phrasings.WHICH
            general, special = who if person else which, () if heldout else attribute.backward
            special += attribute.more_backward if composed else ()
        share = 0.35 if composed else 0.5
        use_general = bool(noun) and (not special or rng.random() < share) and entity.kind != "home"
        if not use_general and not special:
            use_general, general = False, ()
            special = attribute.asks
            backward = False
        ask = rng.choice(general if use_general else special)
        if composed:
            ask = self._compose(ask, use_general, backward, noun, entity)
        short = entity.kind == "person" and entity.short != entity.full and rng.random() < 0.12
        text = fill(ask, entity, entity.short if short else entity.full, noun, fact.value)
        return Question(self._style_question(text), entity.bare if backward else fact.value, attribute.kind)

    def _compose(self, ask: str, general: bool, backward: bool, noun: str, entity: Entity) -> str:
        """Replace a training question by one made of parts, or wrap it in an opener or a closer."""
        rng, home, roll = self.rng, entity.kind == "home", self.rng.random()
        if roll < 0.04 and noun:
            return composing.scatter(rng, ("{n}", "{v}") if backward else ("{p} {n}",), "?")
        if roll < (0.52 if general else 0.2) and noun:
            if backward:
                return composing.backward_question(rng, entity.kind == "person")
            return composing.question(rng, home)
        return composing.wrap_question(rng, ask) if roll < (0.62 if general else 0.4) else ask

    def _style_question(self, text: str) -> str:
        roll = self.rng.random()
        if roll < 0.05:
            return text[:1].lower() + text[1:]
        if roll < 0.1:
            return capitalise(text).rstrip("?.")
        return capitalise(text)

    def _function_document(self, facts: int, asks: int) -> FactDocument:
        rng = self.rng
        several = min(facts, max(-(-facts // 5), rng.choice((1, 2, 2, 3, 4))))
        texts: list[str] = []
        questions: list[Question] = []
        for index in range(several):
            own = facts // several + (index < facts % several)
            while True:
                name, text, said = functions.sample_function(rng, own, self.pool)
                if name not in self._names:
                    break
            self._names.add(name)
            texts.append(text)
            for fact in said[: facts - len(questions) // asks]:
                pool = fact.asks_heldout if self.phrasings == "heldout" else fact.asks
                for ask in rng.sample(pool, min(asks, len(pool))):
                    text = capitalise(ask) if rng.random() < 0.9 else ask
                    questions.append(Question(text, fact.answer, "functions"))
        rng.shuffle(questions)
        return FactDocument("\n\n".join(texts), tuple(questions), (self.unanswerable(),))


def sample_document(
    rng: random.Random, facts: int = 8, split: pools.Split = "train", phrasings: Phrasings = "train"
) -> FactDocument:
    """Draw one document from a fresh world."""
    return FactWorld(rng, split, phrasings).document(facts)


def sample_documents(
    rng: random.Random, count: int, facts: int = 8, split: pools.Split = "train", phrasings: Phrasings = "train"
) -> list[FactDocument]:
    """Draw documents from one world: they speak of different people and things with the same kinds of facts."""
    world = FactWorld(rng, split, phrasings)
    return [world.document(facts) for _ in range(count)]


def _literal(answer: str, text: str) -> str:
    """Return the answer in the case it has in the document: a name in lower case may open a line there."""
    return answer if answer in text else capitalise(answer)


def _repeatable(attribute: Attribute) -> bool:
    return all("{n}" in text for text in (*attribute.says, *attribute.asks, *attribute.backward))


def _event(rng: random.Random) -> str:
    base = rng.choice(pools.EVENTS)
    form = rng.random()
    if form < 0.5:
        return base
    return (
        f"{pools.made_name(rng)} {base}"
        if form < 0.8
        else f"{rng.choice(('weekly', 'monthly', 'second', 'spring', 'autumn', 'annual', 'final'))} {base}"
    )


def _product(rng: random.Random) -> str:
    thing = rng.choice(pools.THINGS)
    first = rng.choice(
        (pools.made_name, lambda r: r.choice(pools.MATERIALS), lambda r: r.choice(pools.COLOURS), pools.made_name)
    )(rng)
    return f"{first} {thing}" if rng.random() < 0.9 else f"{thing} {rng.choice('ABCDEFGHXZ')}{rng.randint(1, 99)}"
