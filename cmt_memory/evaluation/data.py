"""Documents to search and questions about them, from files or from the facts generator."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cmt_memory.errors import InvalidInputError
from cmt_memory.evaluation.config import (
    ArchivalQAQuestions,
    EvalConfig,
    FactsQuestions,
    JsonlQuestions,
    SquadQuestions,
    StreamingQAQuestions,
    SwappedQuestions,
)
from cmt_memory.training import readers
from cmt_memory.training.facts import FactWorld


@dataclass(frozen=True, slots=True)
class Question:
    """A question.

    Attributes:
        number: its place among all questions of the data.
        text: its words.
        answers: all that count as right.
        gold: ids of the documents that hold the answer, all of them needed.
        kind: the kind of fact, where it is known.
        partner: id of the pair's other document, where documents come in pairs.
    """

    number: int
    text: str
    answers: tuple[str, ...]
    gold: tuple[str, ...]
    kind: str = ""
    partner: str = ""

    @property
    def documents(self) -> tuple[str, ...]:
        """The documents that this question and those like it are about: their answers are right or wrong together."""
        return tuple(sorted((*self.gold, self.partner))) if self.partner else self.gold


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is searched and what is asked.

    Attributes:
        documents: text by id, in the data's order.
        questions: those that are asked, in the data's order.
        available: how many questions about these documents there are.
    """

    documents: dict[str, str]
    questions: tuple[Question, ...]
    available: int

    @property
    def digest(self) -> str:
        """A digest of documents and questions."""
        asked = [(q.number, q.text, q.answers, q.gold) for q in self.questions]
        return hashlib.sha256(json.dumps([self.documents, asked]).encode()).hexdigest()


_Raw = tuple[tuple[str, ...], str, tuple[str, ...], str, str]
"""Texts of the documents that a question needs, its words, its answers, its kind, and the text of a pair's other."""


def read_data(config: EvalConfig) -> Dataset:
    """Documents and questions of a configuration; the same ones each time.

    Raises:
        InvalidInputError: a file cannot be read or is not of its layout, or no question is left.
    """
    texts: Sequence[str]
    raw: Iterable[_Raw]
    if isinstance(config.data, FactsQuestions):
        texts, raw = _facts(config.data, config.seed)
    elif isinstance(config.data, SwappedQuestions):
        texts, raw = _swapped(config.data, config.seed)
    else:
        groups = _groups(config.data)
        texts, raw = groups.corpus(), _asked(groups)
    names = {text: f"d{number}" for number, text in enumerate(dict.fromkeys(texts))}
    if config.documents is not None:
        names = dict(list(names.items())[: config.documents])
    questions = [
        Question(
            number,
            text,
            answers,
            tuple(names[document] for document in dict.fromkeys(needed)),
            kind,
            names[partner] if partner else "",
        )
        for number, (needed, text, answers, kind, partner) in enumerate(raw)
        if text.strip() and all(document in names for document in (*needed, *filter(None, (partner,))))
    ]
    if not questions:
        raise InvalidInputError("The data has no question about these documents; raise `documents`.")
    available = len(questions)
    if config.questions is not None and config.questions < available:
        size = 2 if config.has_pairs else 1  # the two questions of a pair follow each other
        groups_wanted = max(1, config.questions // size)
        chosen = random.Random(f"{config.seed}/questions").sample(range(available // size), groups_wanted)
        questions = [questions[size * place + i] for place in sorted(chosen) for i in range(size)]
    return Dataset({name: text for text, name in names.items()}, tuple(questions), available)


def _groups(
    data: SquadQuestions | JsonlQuestions | StreamingQAQuestions | ArchivalQAQuestions,
) -> readers.Groups:
    match data:
        case SquadQuestions():
            return readers.squad(Path(data.path), data.part)
        case JsonlQuestions():
            return readers.jsonl(Path(data.path), data.part)
        case StreamingQAQuestions():
            return readers.streamingqa(Path(data.path), Path(data.documents), data.part)
        case ArchivalQAQuestions():
            return readers.archivalqa(Path(data.path), Path(data.documents), data.part)


def _asked(groups: readers.Groups) -> Iterator[_Raw]:
    for place in range(len(groups)):
        group = groups[place]
        for (question, _), answers in zip(group.questions, group.answers, strict=True):
            yield group.documents, question, answers, "", ""


def _facts(data: FactsQuestions, seed: int) -> tuple[list[str], list[_Raw]]:
    rng = random.Random(f"{seed}/facts")
    world = FactWorld(rng, data.split, data.phrasings)
    documents = [world.document(rng.randint(*data.facts)) for _ in range(data.count)]
    raw: list[_Raw] = [((d.text,), q.text, (q.answer,), q.kind, "") for d in documents for q in d.questions]
    return [document.text for document in documents], raw


def _swapped(data: SwappedQuestions, seed: int) -> tuple[list[str], list[_Raw]]:
    """Pairs, and of each one of its two questions, asked of both documents."""
    rng = random.Random(f"{seed}/swapped")
    world = FactWorld(rng, data.split, data.phrasings)
    texts: list[str] = []
    raw: list[_Raw] = []
    for _ in range(data.pairs):
        pair = world.swapped_pair(rng.randint(*data.facts), data.values).documents
        place = rng.randrange(2)
        for own, other in (pair, pair[::-1]):
            asked = own.questions[place]
            raw.append(((own.text,), asked.text, (asked.answer,), asked.kind, other.text))
        texts += [document.text for document in pair]
    return texts, raw
