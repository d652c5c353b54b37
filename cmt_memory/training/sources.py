"""Where episodes come from: any of them by number, so that a run can go on in the middle of an epoch."""

from __future__ import annotations

import copy
import random
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Protocol

from cmt_memory.training import readers
from cmt_memory.training.bm25 import BM25
from cmt_memory.training.data import (
    ArchivalQAData,
    FactsData,
    JsonlData,
    Source,
    SquadData,
    StreamingQAData,
    SwappedData,
    TextData,
)
from cmt_memory.training.facts import FactDocument, FactWorld
from cmt_memory.training.readers import Groups, Passages


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its answer, which of the episode's documents hold it, and the kind of fact where it is known."""

    question: str
    answer: str
    gold: tuple[int, ...]
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Episode:
    """Documents in the order they are given to the LM, and what is asked about them."""

    documents: tuple[str, ...]
    asked: tuple[Asked, ...]


class EpisodeSource(Protocol):
    """Episodes and passages of one file or generator."""

    def __len__(self) -> int:
        """How many different ones there are; 0 where there is no end."""

    def episode(self, number: int, rng: random.Random, documents: int, questions: int) -> Episode:
        """The episode about one group of documents, with `documents` in all unless it needs more."""

    def passage(self, number: int, rng: random.Random) -> str:
        """Text to pretrain on."""


class FileSource:
    """Questions of a file, before documents that BM25 finds most like the question and that do not hold the answer.

    Args:
        groups: what the file holds.
        hard_negatives: among how many documents a wrong one is drawn.
    """

    def __init__(self, groups: Groups, hard_negatives: int) -> None:
        self._groups = groups
        self._hard = hard_negatives

    def __len__(self) -> int:
        return len(self._groups)

    @cached_property
    def _corpus(self) -> Sequence[str]:
        return self._groups.corpus()

    @cached_property
    def _index(self) -> BM25:
        return BM25(self._corpus)

    def episode(self, number: int, rng: random.Random, documents: int, questions: int) -> Episode:
        """See `EpisodeSource.episode`; no documents at all where `documents` is 0."""
        group = self._groups[number]
        numbers = rng.sample(range(len(group.questions)), min(questions, len(group.questions)))
        asked = [group.questions[i] for i in numbers]
        if documents == 0:
            return Episode((), tuple(Asked(question, answer, ()) for question, answer in asked))
        own = list(group.documents)
        right = {answer.lower() for i in numbers for answer in group.answers[i]}
        texts = own + self._wrong(own, asked[0][0], right, rng, documents - len(own))
        order = list(range(len(texts)))
        rng.shuffle(order)
        gold = tuple(sorted(order.index(i) for i in range(len(own))))
        return Episode(
            tuple(texts[i] for i in order), tuple(Asked(question, answer, gold) for question, answer in asked)
        )

    def passage(self, number: int, rng: random.Random) -> str:
        """See `EpisodeSource.passage`."""
        return rng.choice(self._groups[number].documents)

    def _wrong(self, own: list[str], question: str, answers: set[str], rng: random.Random, count: int) -> list[str]:
        """Documents that hold none of the answers."""
        if count <= 0:
            return []

        def fits(text: str) -> bool:
            return text not in own and not any(answer in text.lower() for answer in answers)

        chosen: list[str] = []
        if self._hard < len(self._corpus):  # otherwise any document will do, and a search would only cost
            # As many again, because the right document and others with the answer are among the nearest.
            near = self._index.nearest(question, 2 * self._hard + count + len(own))
            hard = [self._corpus[i] for i in near if fits(self._corpus[i])][: max(self._hard, count)]
            chosen = rng.sample(hard, min(count, len(hard)))
        for _ in range(50 * count):
            if len(chosen) == count:
                break
            text = rng.choice(self._corpus)
            if fits(text) and text not in chosen:
                chosen.append(text)
        return chosen


class TextSource:
    """Passages of plain text, for pretraining alone."""

    def __init__(self, passages: Passages) -> None:
        self._passages = passages

    def __len__(self) -> int:
        return len(self._passages)

    def episode(self, number: int, rng: random.Random, documents: int, questions: int) -> Episode:
        """There are no questions about plain text."""
        raise NotImplementedError

    def passage(self, number: int, rng: random.Random) -> str:
        """See `EpisodeSource.passage`."""
        return self._passages[number]


class FactsSource:
    """Synthetic documents of one world, which speak of different people and things with the same kinds of facts.

    Args:
        settings: for `SwappedData` each document is one of a pair; an episode never holds the other.
    """

    def __init__(self, settings: FactsData | SwappedData) -> None:
        self._settings = settings

    def __len__(self) -> int:
        return 0

    def episode(self, number: int, rng: random.Random, documents: int, questions: int) -> Episode:
        """See `EpisodeSource.episode`; questions are about any of the documents, and may have no answer."""
        world = self._world(rng)
        drawn = [self._document(world) for _ in range(documents)]
        pool = [(place, question) for place, document in enumerate(drawn) for question in document.questions]
        asked = [
            Asked(question.text, question.answer, (place,), question.kind)
            for place, question in rng.sample(pool, min(questions, len(pool)))
        ]
        if not drawn or rng.random() < self._settings.unknown:
            absent = rng.choice(rng.choice(drawn).unanswerable) if drawn else world.unanswerable()
            asked = [*asked[: questions - 1], Asked(absent.text, absent.answer, (), absent.kind)]
        return Episode(tuple(document.text for document in drawn), tuple(asked))

    def passage(self, number: int, rng: random.Random) -> str:
        """See `EpisodeSource.passage`."""
        return self._document(self._world(rng)).text

    def _document(self, world: FactWorld) -> FactDocument:
        facts = world.rng.randint(*self._settings.facts)
        if isinstance(self._settings, SwappedData):
            return world.rng.choice(world.swapped_pair(facts, self._settings.values).documents)
        return world.document(facts)

    def _world(self, rng: random.Random) -> FactWorld:
        settings = self._settings
        phrasings = rng.choice(("train", "composed")) if settings.phrasings == "mixed" else settings.phrasings
        return FactWorld(rng, settings.split, phrasings, settings.respelled)


def open_source(settings: Source, hard_negatives: int) -> EpisodeSource:
    """Open what a configuration names."""
    match settings:
        case FactsData() | SwappedData():
            return FactsSource(settings)
        case TextData():
            return TextSource(Passages(Path(settings.path), settings.part))
        case SquadData():
            groups = readers.squad(Path(settings.path), settings.part)
        case JsonlData():
            groups = readers.jsonl(Path(settings.path), settings.part)
        case StreamingQAData():
            groups = readers.streamingqa(Path(settings.path), Path(settings.documents), settings.part)
        case ArchivalQAData():
            groups = readers.archivalqa(Path(settings.path), Path(settings.documents), settings.part)
    return FileSource(groups, hard_negatives)


class Mixture:
    """Episodes of several sources by number: each in its share, every source without repeating until its end.

    Args:
        sources: with their weights.
        seed: of the order within each source, and of every draw within an episode.
    """

    def __init__(self, sources: Sequence[tuple[EpisodeSource, float]], seed: str) -> None:
        self._change: Callable[[Episode], Episode] | None = None
        self._sources = [source for source, _ in sources]
        self._seed = seed
        total = sum(weight for _, weight in sources)
        counts = [max(1, round(_CYCLE * weight / total)) for _, weight in sources] if len(sources) > 1 else [1]
        labels = [place for place, count in enumerate(counts) for _ in range(count)]
        random.Random(f"{seed}/cycle").shuffle(labels)
        self._labels = labels
        self._places = [[at for at, label in enumerate(labels) if label == place] for place in range(len(sources))]

    def __len__(self) -> int:
        """Episodes of an epoch, in which the largest source is read once; 0 where a source has no end."""
        sizes = [
            len(source) * len(self._labels) // len(at) for source, at in zip(self._sources, self._places, strict=True)
        ]
        return max(sizes) if all(sizes) else 0

    def episode(self, number: int, documents: dict[int, float], questions: int) -> Episode:
        """One episode, of a number of documents drawn by weight."""
        source, index, rng = self._draw(number)
        count = rng.choices(list(documents), weights=list(documents.values()))[0]
        episode = source.episode(index, rng, count, questions)
        return episode if self._change is None else self._change(episode)

    def changed(self, change: Callable[[Episode], Episode]) -> Mixture:
        """The same episodes, changed."""
        other = copy.copy(self)
        other._change = change
        return other

    def passage(self, number: int) -> str:
        """One text to pretrain on."""
        source, index, rng = self._draw(number)
        return source.passage(index, rng)

    def passages(self) -> Iterator[str]:
        """Texts to pretrain on, without end."""
        number = 0
        while True:
            yield self.passage(number)
            number += 1

    def _draw(self, number: int) -> tuple[EpisodeSource, int, random.Random]:
        cycle, at = divmod(number, len(self._labels))
        label = self._labels[at]
        source, places = self._sources[label], self._places[label]
        index = cycle * len(places) + bisect_right(places, at) - 1
        if len(source):
            epoch, place = divmod(index, len(source))
            index = _order(f"{self._seed}/{label}/{epoch}", len(source))[place]
        return source, index, random.Random(f"{self._seed}/{number}")


_CYCLE = 100


@lru_cache(maxsize=8)
def _order(seed: str, count: int) -> list[int]:
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order
