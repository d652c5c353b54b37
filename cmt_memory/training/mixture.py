"""What the bundled LM is pretrained on: stages of synthetic facts, and extractive questions over SQuAD train."""

from __future__ import annotations

import gzip
import json
import os
import random
import string
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from cmt_memory.training.facts import FactWorld, Question, composing, pools
from cmt_memory.training.facts.pools import Split
from cmt_memory.training.facts.rendering import Phrasings, Statement, locate
from cmt_memory.training.packing import TAIL, Episode


def _letters(rng: random.Random) -> str:
    """Return random letters, so that every token of the vocabulary comes to be copied."""
    text = "".join(rng.choices(string.ascii_lowercase, k=rng.randint(2, 9)))
    return text.capitalize() if rng.random() < 0.5 else text


_KEYS = (
    _letters,
    pools.made_name,
    pools.surname,
    pools.city,
    pools.code,
    lambda r: f"{pools.made_name(r)} {pools.surname(r)}",
)
_VALUES = (*_KEYS, pools.code, pools.password, pools.phone, pools.price, pools.clock, pools.date, pools.address)

_FORMS = (
    ("{}: {}", "What is {}?"),
    ("{} is {}.", "What is {}?"),
    ("{} {}", "{}?"),
    ("{} = {}", "What is {}?"),
    ("{} has {}.", "What does {} have?"),
    ("{}, {}", "{}?"),
    ("{}'s code is {}.", "What is {}'s code?"),
    ("The number of {} is {}.", "What is the number of {}?"),
    ("{} can be found under {}.", "Where can I find {}?"),
    ("For {}, we have {}.", "What do we have for {}?"),
    ("{} got {} today.", "What did {} get?"),
    ("{} likes {}.", "What does {} like?"),
)

_SHORT = tuple(w for w in dict.fromkeys((*pools.THINGS, *pools.COLOURS, *composing.WORDS)) if len(w) <= 5)

Squad = tuple[tuple[str, tuple[tuple[str, str], ...]], ...]


class Stage(BaseModel):
    """A part of the curriculum.

    Attributes:
        tokens: Tokens spent on it.
        facts: Fewest and most facts of a document.
        several: Share of episodes with two to four documents.
        squad: Share of episodes from SQuAD, where its file is given.
        recall: Share of episodes that are bare ``key: value`` lists, from which looking up is learned first.
        plain: Share of those whose keys and values are short words, all said in one way.
        gap: Most words between key and value in the others.
        composed: Share of fact episodes whose phrasings are put together from parts.
        respelled: Share of names and values that get other letters, so that hardly any is learned by heart.
        unknown: Chance of a document's episode to hold a question it does not answer.
        asks: Questions asked about each fact.
        questions: Most questions of an episode.
        text_loss: Weight of the loss on document text beside that on answers.
        batch_tokens: Tokens of a process's batch, where not the run's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tokens: int = Field(gt=0)
    facts: tuple[int, int]
    several: float = Field(0.0, ge=0, le=1)
    squad: float = Field(0.0, ge=0, le=1)
    recall: float = Field(0.0, ge=0, le=1)
    plain: float = Field(0.0, ge=0, le=1)
    gap: int = Field(6, ge=0)
    composed: float = Field(0.3, ge=0, le=1)
    respelled: float = Field(0.0, ge=0, le=1)
    unknown: float = Field(0.3, ge=0, le=1)
    asks: int = Field(1, ge=1)
    questions: int = Field(12, ge=1)
    text_loss: float = Field(0.2, ge=0)
    batch_tokens: int | None = Field(None, ge=64)


def load_squad(path: str | None) -> Squad:
    """Read SQuAD v1.1 train as paragraphs with questions; empty where there is no file.

    Args:
        path: The JSON or JSON.gz file; ``$CMT_DATA`` in it is replaced. ``None`` for no SQuAD.
    """
    if path is None:
        return ()
    file = Path(os.path.expandvars(path))
    if not file.exists():
        return ()
    raw = gzip.decompress(file.read_bytes()) if file.suffix == ".gz" else file.read_bytes()
    articles = json.loads(raw)["data"]
    kept = articles[: len(articles) * 9 // 10]
    return tuple(
        (p["context"], tuple((q["question"].strip(), q["answers"][0]["text"]) for q in p["qas"]))
        for article in kept
        for p in article["paragraphs"]
        if p["qas"]
    )


def tokenizer_texts(seed: int, squad: Squad) -> Iterator[str]:
    """Yield the text the tokenizer is trained on."""
    for index in range(6000):
        world = FactWorld(random.Random(f"tokenizer/{seed}/{index}"))
        document = world.document(8)
        yield document.text
        yield TAIL
        for question in document.questions:
            yield question.text
            yield question.answer
    for context, _ in squad[::6]:
        yield context


def sample_episodes(rng: random.Random, stage: Stage, count: int, squad: Squad) -> list[Episode]:
    """Draw episodes of a stage."""
    return [_episode(rng, stage, squad) for _ in range(count)]


def _episode(rng: random.Random, stage: Stage, squad: Squad) -> Episode:
    roll = rng.random()
    if roll < stage.recall:
        return _recall_episode(rng, stage)
    if squad and roll < stage.recall + stage.squad:
        return _squad_episode(rng, squad)
    return _fact_episode(rng, stage)


def _recall_episode(rng: random.Random, stage: Stage) -> Episode:
    """Draw a list of pairs, sometimes said twice in two orders, and ask for every value by its key."""
    plain = rng.random() < stage.plain
    pool = pools.Pool("train", stage.respelled)
    keys: dict[str, str] = {}
    for _ in range(rng.randint(*stage.facts) + 1):
        key = rng.choice(_SHORT) if plain else pool.draw(rng, rng.choice(_KEYS))
        keys[key] = rng.choice(_SHORT) if plain else pool.draw(rng, rng.choice(_VALUES))
    fixed = rng.choice(_FORMS) if plain else _form(rng, stage.gap) if rng.random() < 0.5 else None
    gap = rng.choice(("\n", " ", "; "))
    pairs = list(keys.items())
    said = pairs + (rng.sample(pairs, len(pairs)) if not plain and rng.random() < 0.2 else [])
    lines = [(fixed or _form(rng, stage.gap))[0].format(*pair) for pair in said]
    text = gap.join(lines)
    questions = [((fixed or _form(rng, stage.gap))[1].format(k), v) for k, v in rng.sample(pairs, len(pairs))]
    statements: list[Statement] = []
    for line, (key, value) in zip(lines, said, strict=True):
        told = locate(text, line, statements[-1].end if statements else 0, value, key)
        statements += [told] if told else []
    return Episode((text,), tuple(questions), (tuple(statements),))


def _form(rng: random.Random, gap: int) -> tuple[str, str]:
    """Draw how a pair is said, a random number of random words around key and value, and how it is asked for."""
    if gap == 0 or rng.random() < 0.4:
        return rng.choice(_FORMS)
    before, between, after, *asked = (
        " ".join(rng.choices(composing.WORDS, k=rng.randint(0, n))) for n in (3, gap, 2, 3, 3)
    )
    order = ("{0}", "{1}") if rng.random() < 0.8 else ("{1}", "{0}")
    said = " ".join(part for part in (before, order[0], between, order[1], after) if part)
    return f"{said}.", " ".join(part for part in (asked[0], "{}", asked[1]) if part) + "?"


def _squad_episode(rng: random.Random, squad: Squad) -> Episode:
    context, questions = rng.choice(squad)
    return Episode((context,), tuple(rng.sample(questions, min(5, len(questions)))))


def _fact_episode(rng: random.Random, stage: Stage) -> Episode:
    phrasings: Phrasings = "composed" if rng.random() < stage.composed else "train"
    world = FactWorld(rng, phrasings=phrasings, respelled=stage.respelled)
    if rng.random() < 0.01:
        return Episode((), tuple((q.text, q.answer) for q in (world.unanswerable() for _ in range(3))))
    several = rng.random() < stage.several
    documents = [
        world.document(rng.randint(*stage.facts), stage.asks) for _ in range(rng.choice((2, 3, 4, 4)) if several else 1)
    ]
    questions = [question for document in documents for question in document.questions]
    rng.shuffle(questions)
    questions = questions[: stage.questions]
    if rng.random() < stage.unknown:
        questions.append(rng.choice(rng.choice(documents).unanswerable))
    return Episode(
        tuple(d.text for d in documents),
        tuple((q.text, q.answer) for q in questions),
        tuple(d.statements for d in documents),
    )


def gates(documents: int, seed: str = "gate") -> dict[str, tuple[list[Episode], list[str]]]:
    """Return the evaluation gates: episodes and the kind of each question.

    Args:
        documents: Episodes of each gate.
        seed: Names another draw.
    """
    plans: dict[str, tuple[Split, Phrasings, int]] = {
        "seen": ("train", "train", 1),
        "names": ("eval", "train", 1),
        "phrasings": ("eval", "heldout", 1),
        "one_of_four": ("eval", "train", 4),
    }
    result: dict[str, tuple[list[Episode], list[str]]] = {}
    unknown: list[Episode] = []
    for name, (split, phrasings, count) in plans.items():
        episodes, kinds = [], []
        for index in range(documents if count == 1 else max(1, documents // 2)):
            world = FactWorld(random.Random(f"{seed}/{name}/{index}"), split, phrasings)
            drawn = [world.document(8) for _ in range(count)]
            asked: list[Question] = [q for d in drawn for q in d.questions]
            if count > 1:
                asked = random.Random(index).sample(asked, 16)
            episodes.append(Episode(tuple(d.text for d in drawn), tuple((q.text, q.answer) for q in asked)))
            kinds += [q.kind for q in asked]
            if name == "names":
                unknown.append(Episode((drawn[0].text,), tuple((q.text, q.answer) for q in drawn[0].unanswerable)))
        result[name] = (episodes, kinds)
    result["unanswerable"] = (unknown, ["unanswerable"] * sum(len(e.questions) for e in unknown))
    return result
