"""Searching, opening and rebuilding a store of many memories."""

from __future__ import annotations

import multiprocessing
import random
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError
from cmt_memory.evaluation.latency import random_lm
from cmt_memory.evaluation.measuring import machine
from cmt_memory.model import CMTModel
from cmt_memory.model.latent import calibration_texts
from cmt_memory.retrieval.encoders import Vectors
from cmt_memory.store import CMTMemoryStore

_AT_ONCE = 5_000
_WORDS = 24
_FIRST = 20
_QUESTION_WORDS = 8


@dataclass(frozen=True, slots=True)
class SearchSettings:
    """What to measure.

    Args:
        memories: documents in the store, a passage each.
        dimension: numbers of a retrieval vector.
        questions: questions asked of each kind.
        k: hits of a question.
    """

    memories: int = 100_000
    dimension: int = 384
    questions: int = 200
    k: int = 10

    def __post_init__(self) -> None:
        """Refuse what cannot be measured."""
        if self.memories < 100 or self.questions < 1 or not 1 <= self.k <= self.memories or self.dimension < 8:
            raise InvalidInputError(
                "memories must be at least 100, dimension at least 8, questions at least 1 and k at most memories."
            )


class ClusteredEncoder:
    """Vectors that lie as those of sentences do, without a model: topics, subtopics in them, and what is a text's own.

    A text is known by the number that it starts with; a question about it lies near it.

    Args:
        settings: how many texts, and how long a vector.
    """

    def __init__(self, settings: SearchSettings) -> None:
        self.id, self.dimension = f"clustered-{settings.dimension}", settings.dimension
        rng = np.random.default_rng(0)
        topics = max(8, settings.memories // 2_000)
        self._topics = _unit(rng.standard_normal((topics, settings.dimension), np.float32) + 1.0)
        self._subtopics = _unit(rng.standard_normal((topics * 16, settings.dimension), np.float32))
        self.seconds = 0.0

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """Vectors ``[n, dimension]`` of numbered texts."""
        return np.stack([self._vector(int(text.split(" ", 1)[0])) for text in texts])

    def encode_query(self, text: str) -> Vectors:
        """The vector of a question that starts with a text's number, on the clock."""
        started = time.perf_counter()
        number = int(text.split(" ", 1)[0])
        noise = np.random.default_rng((1, number)).standard_normal(self.dimension, np.float32)
        vector: Vectors = _unit(self._vector(number)[None] + 0.5 * _unit(noise[None]))[0]
        self.seconds += time.perf_counter() - started
        return vector

    def _vector(self, number: int) -> Vectors:
        rng = np.random.default_rng((0, number))
        subtopic = int(rng.integers(len(self._subtopics)))
        own = _unit(rng.standard_normal((1, self.dimension), np.float32))
        vector: Vectors = _unit(0.7 * self._topics[subtopic // 16] + 0.5 * self._subtopics[subtopic] + 0.6 * own)[0]
        return vector


def measure_search(
    settings: SearchSettings, folder: Path | None = None, on_documents: Callable[[int], None] | None = None
) -> dict[str, Any]:
    """Fill a store by its own path, then search, open and rebuild it in a process of its own.

    Args:
        settings: what to measure.
        folder: where the store is made, and kept; by default a temporary one. One that was filled before is used.
        on_documents: called with the number of documents added.

    Returns:
        `search_ms` beyond the question's encoding (hybrid, dense alone, and the `first` 20 hybrid ones, beside what
        an opening does in the background: median, p95), `recall` of the index against exact search,
        `open_s` of a clean store in a new process, `first_search_s` right after it, which waits until Chroma is
        loaded, `rebuild_s` and its rate, `peak_rss_mb`, `bytes`.
    """
    with tempfile.TemporaryDirectory(prefix="cmt-memory-bench-", ignore_cleanup_errors=True) as temporary:
        path = folder or Path(temporary) / "store"
        started = time.perf_counter()
        _fill(settings, path, on_documents)
        filled = time.perf_counter() - started
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            result = pool.apply(_measure, (settings, path))
    return {"fill_s": round(filled, 1), **result, "settings": asdict(settings), "machine": machine("cpu")}


def _model() -> CMTModel:
    lm, tokenizer = random_lm("tiny", "float32", "cpu")
    return CMTModel.from_llm(lm, tokenizer=tokenizer, ratio=16, latent=64)


def _texts(settings: SearchSettings) -> Iterator[str]:
    """Numbered texts whose words are as common as in real text."""
    words = _words()
    for number in range(settings.memories):
        rng = random.Random(number)
        yield f"{number} " + " ".join(rng.choices(words, k=_WORDS))


def _fill(settings: SearchSettings, path: Path, on_documents: Callable[[int], None] | None) -> None:
    with CMTMemoryStore(path, _model(), encoder=ClusteredEncoder(settings)) as store:
        some: list[Document] = []
        for number, text in enumerate(_texts(settings), 1):
            some.append(Document(text, id=str(number - 1)))
            if len(some) == _AT_ONCE or number == settings.memories:
                store.add_documents(some)
                if on_documents is not None:
                    on_documents(len(some))
                some = []


def _measure(settings: SearchSettings, path: Path) -> dict[str, Any]:
    encoder, model = ClusteredEncoder(settings), _model()
    opened, first, store = _open(path, model, encoder)
    with store:
        rng, words = random.Random(1), _words()
        asked = [_question(settings, rng, words) for _ in range(settings.questions)]
        earlier = [_timed(store, encoder, _question(settings, rng, words), settings.k) for _ in range(_FIRST)]
        for thread in threading.enumerate():
            if thread.name.startswith("cmt-memory"):
                thread.join()
        hybrid = [_timed(store, encoder, question, settings.k) for question in asked]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        size = store.stats()
    with CMTMemoryStore(path, model, encoder=encoder, channels=("dense",)) as dense:
        alone = [_timed(dense, encoder, question, settings.k) for question in asked]
        recall = _recall(settings, dense, encoder, asked)
    shutil.rmtree(path / "chroma")
    opened_anew, first_anew, store = _open(path, model, encoder)
    rebuilt = opened_anew + first_anew
    store.close()
    return {
        "search_ms": {
            "hybrid": _percentiles(hybrid),
            "dense": _percentiles(alone),
            "first": _percentiles(earlier),
        },
        "recall": round(recall, 4),
        "open_s": round(opened, 3),
        "first_search_s": round(first, 3),
        "rebuild_s": round(rebuilt, 1),
        "rebuilt_per_s": round(settings.memories / rebuilt),
        "peak_rss_mb": round(peak),
        "bytes": {name: value for name, value in size.items() if name.endswith("_bytes")},
    }


def _open(path: Path, model: CMTModel, encoder: ClusteredEncoder) -> tuple[float, float, CMTMemoryStore]:
    """Open a store and search once: seconds of each."""
    started = time.perf_counter()
    store = CMTMemoryStore(path, model, encoder=encoder)
    opened = time.perf_counter() - started
    store.search("0 anything", k=1)
    return opened, time.perf_counter() - started - opened, store


def _words() -> list[str]:
    return [word for text in calibration_texts() for word in text.split()]


def _question(settings: SearchSettings, rng: random.Random, words: Sequence[str]) -> str:
    return f"{rng.randrange(settings.memories)} " + " ".join(rng.choices(words, k=_QUESTION_WORDS))


def _timed(store: CMTMemoryStore, encoder: ClusteredEncoder, question: str, k: int) -> float:
    """Milliseconds of a search without its question's encoding."""
    before, started = encoder.seconds, time.perf_counter()
    store.search(question, k=k)
    return 1000 * (time.perf_counter() - started - (encoder.seconds - before))


def _recall(
    settings: SearchSettings, store: CMTMemoryStore, encoder: ClusteredEncoder, questions: Sequence[str]
) -> float:
    """Share of the exactly nearest that the index finds."""
    queries = np.stack([encoder.encode_query(question) for question in questions])
    best = np.full((len(questions), 0), -1.0, np.float32)
    names = np.zeros((len(questions), 0), np.int64)
    for start in range(0, settings.memories, _AT_ONCE):
        numbers = range(start, min(start + _AT_ONCE, settings.memories))
        products = queries @ encoder.encode_documents([str(number) for number in numbers]).T
        best = np.concatenate((best, products), 1)
        names = np.concatenate((names, np.tile(np.array(numbers), (len(questions), 1))), 1)
        order = np.argsort(-best, 1)[:, : settings.k]
        best, names = np.take_along_axis(best, order, 1), np.take_along_axis(names, order, 1)
    found = [{int(hit.id) for hit in store.search(question, k=settings.k)} for question in questions]
    same = [len(set(row.tolist()) & hits) / settings.k for row, hits in zip(names, found, strict=True)]
    return float(np.mean(same))


def _percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    middle, high = np.percentile(milliseconds, [50, 95])
    return {"p50": round(float(middle), 2), "p95": round(float(high), 2)}


def _unit(vectors: Vectors) -> Vectors:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    unit: Vectors = vectors / lengths
    return unit
