"""Question → the passages whose memories to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.filters import Condition, Filter, parse
from cmt_memory.bank.records import PassageRow, Vector
from cmt_memory.documents import MemoryHit
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.retrieval.encoders import Encoder
from cmt_memory.retrieval.fusion import reciprocal_rank_fusion
from cmt_memory.retrieval.lexical import QuestionWords, Words, bm25, idf_share

CHANNELS = ("dense", "bm25", "memory")
DEFAULT_CHANNELS = ("dense", "bm25")

_MIN_DEPTH = 32
_DEPTH = 4
_AGAIN = 4


class Selector(Protocol):
    """What picks the memories for a question."""

    def select(
        self, question: str, k: int = 4, filter: Filter | None = None, min_score: float | None = None
    ) -> list[MemoryHit]:
        """The at most ``k`` most relevant passages, best first."""
        ...


class HybridSelector:
    """Dense vectors, BM25 and the memories' own vectors, fused. Words are searched beside the vectors.

    Args:
        bank: The bank to search.
        encoder: The encoder of the bank's vectors; None for BM25 alone.
        channels: Any of ``"dense"``, ``"bm25"`` and ``"memory"``. A channel that the bank cannot serve (no
            encoder, no kept text, no model) is left out as long as another remains.
        compress: A question to the vector ``[d]`` that its memory would have, for ``"memory"``.

    Raises:
        InvalidInputError: An unknown channel, or none that the bank can serve.
    """

    def __init__(
        self,
        bank: MemoryBank,
        encoder: Encoder | None,
        channels: Sequence[str] = DEFAULT_CHANNELS,
        compress: Callable[[str], Vector] | None = None,
    ) -> None:
        unknown = [channel for channel in channels if channel not in CHANNELS]
        if isinstance(channels, str) or unknown or not channels:
            raise InvalidInputError(f"channels is {channels!r}; expected one or more of {list(CHANNELS)}.")
        served = {"dense": encoder is not None, "bm25": bank.keep_text, "memory": compress is not None}
        self.channels = tuple(channel for channel in CHANNELS if channel in channels and served[channel])
        if not self.channels:
            raise InvalidInputError(
                f"channels {list(channels)} cannot be searched: dense needs an encoder, bm25 a store with keep_text."
            )
        self._bank, self._encoder = bank, encoder if "dense" in self.channels else None
        self._compress = compress if "memory" in self.channels else None
        self._words = Words()
        self._question_words = QuestionWords(bank)

    def warm_up(self) -> None:
        """Begin in the background what the first question would wait for."""
        if "bm25" in self.channels:
            self._question_words.warm_up()

    def select(
        self, question: str, k: int = 4, filter: Filter | None = None, min_score: float | None = None
    ) -> list[MemoryHit]:
        """The at most ``k`` most relevant passages, best first.

        Fusion decides the order; ``score`` is the cosine mapped to [0, 1], or without an encoder the share of
        the question's idf weight found in the passage, or by memories alone the cosine of the memories.

        Args:
            question: Any text that is not empty.
            k: Most hits to return.
            filter: On the documents' metadata, see :mod:`cmt_memory.bank.filters`.
            min_score: Leave out hits with a lower ``score``.

        Raises:
            InvalidInputError: An empty question, ``k`` below 1, a filter outside the dialect, or a
                ``min_score`` that is not a number.
            FingerprintMismatchError: Another encoder has made the vectors anew since the bank was opened.
        """
        _check(question, k, min_score)
        condition = parse(filter)
        depth = max(_MIN_DEPTH, _DEPTH * k)
        search = _Search({}, {}, {}, {})
        with ThreadPoolExecutor(1, thread_name_prefix="cmt-memory-bm25") as beside:
            words = beside.submit(self._by_words, search, question, depth, condition)
            vector = self._by_vectors(search, question, depth, condition)
            words.result()
        ranking = reciprocal_rank_fusion([list(search.dense), list(search.bm25), list(search.memory)])
        return self._hits(search, vector, ranking, k, min_score)

    def select_by_vector(
        self, vector: Sequence[float] | Vector, k: int = 4, filter: Filter | None = None, min_score: float | None = None
    ) -> list[MemoryHit]:
        """The at most ``k`` passages nearest to a vector, nearest first; ``score`` is the cosine mapped to [0, 1].

        Args:
            vector: ``[dimension]`` numbers by the bank's encoder, of any length above 0.
            k: Most hits to return.
            filter: See :meth:`select`.
            min_score: See :meth:`select`.

        Raises:
            InvalidInputError: The bank has no vectors, or the vector has another dimension, is zero or not finite;
                or an argument as in :meth:`select`.
        """
        _check_limits(k, min_score)
        condition = parse(filter)
        stored = self._bank.encoder
        if stored is None or not stored["dimension"]:
            raise InvalidInputError("the store has no vectors to compare with: it was made without an encoder.")
        given = np.asarray(vector, np.float32)
        length = float(np.linalg.norm(given)) if given.shape == (stored["dimension"],) else 0.0
        if not 0 < length < math.inf:
            raise InvalidInputError(
                f"the vector has the shape {given.shape}; expected {stored['dimension']} finite numbers, not all zero."
            )
        found = dict(self._bank.search_vectors(given / length, k, condition))
        rows = self._bank.passages(list(found))
        search = _Search(found, {}, {}, {})
        hits = [_hit(rows[key], _share(cosine), search) for key, cosine in found.items() if key in rows]
        return [hit for hit in hits if min_score is None or hit.score >= min_score]

    def _by_words(self, search: _Search, question: str, depth: int, condition: Condition | None) -> None:
        if "bm25" in self.channels:
            search.weights, words, also = self._question_words.weigh(self._words.of(question))
            most = _AGAIN * depth if also else depth
            found = dict(self._bank.search_words(words, most, condition))
            if also and len(found) < depth:  # few pass the filter
                found = dict(self._bank.search_words([*words, *also], depth, condition))
            elif also:
                found = self._weighed(list(found), {word: search.weights[word] for word in (*words, *also)}, depth)
            search.bm25 = found

    def _weighed(self, keys: list[int], weights: dict[str, float], depth: int) -> dict[int, float]:
        """The first ``depth`` of some passages by the BM25 of all words, with that."""
        rows = list(self._bank.passages(keys).values())
        texts = [row.text for row in rows]
        values = bm25(weights, self._words.counts(texts, list(weights)), [len(text.split()) for text in texts])
        order = sorted(range(len(rows)), key=lambda place: (-values[place], rows[place].key))
        return {rows[place].key: values[place] for place in order[:depth]}

    def _by_vectors(self, search: _Search, question: str, depth: int, condition: Condition | None) -> Vector | None:
        """Search the dense channel and the memories' own; return the question's dense vector if there is one."""
        if not self._bank.count_passages():
            return None
        if self._compress is not None:
            search.memory = dict(self._bank.search_memories(self._compress(question), depth, condition))
        if self._encoder is None:
            return None
        stored = self._bank.encoder
        if stored is not None and stored["id"] != self._encoder.id:
            raise FingerprintMismatchError(
                f"the store's vectors were made anew by the encoder {stored['id']} since it was opened here; open it "
                "again, with that encoder."
            )
        vector = self._encoder.encode_query(question)
        search.dense = dict(self._bank.search_vectors(vector, depth, condition))
        return vector

    def _hits(
        self, search: _Search, vector: Vector | None, ranking: list[int], k: int, min_score: float | None
    ) -> list[MemoryHit]:
        """The first ``k`` of the ranking that reach ``min_score``, read from the ledger ``k`` at a time."""
        hits: list[MemoryHit] = []
        for start in range(0, len(ranking), k):
            some = ranking[start : start + k]
            rows = self._bank.passages(some)
            if vector is not None:
                search.dense |= self._bank.cosines(vector, [key for key in some if key not in search.dense])
            for key in some:
                if key in rows:
                    score = self._score(search, rows[key])
                    if min_score is None or score >= min_score:
                        hits.append(_hit(rows[key], score, search))
            if len(hits) >= k:
                break
        return hits[:k]

    def _score(self, search: _Search, row: PassageRow) -> float:
        if self._encoder is not None:
            return _share(search.dense.get(row.key, -1.0))
        if "bm25" not in self.channels:
            return _share(search.memory.get(row.key, -1.0))
        return idf_share(search.weights, set(self._words.of(row.text)))


@dataclass(slots=True)
class _Search:
    """Cosine, BM25 value and memories' cosine by passage key, and the idf weight of each word of the question."""

    dense: dict[int, float]
    bm25: dict[int, float]
    memory: dict[int, float]
    weights: dict[str, float]


def _hit(row: PassageRow, score: float, search: _Search) -> MemoryHit:
    channels = {"dense": search.dense, "bm25": search.bm25, "memory": search.memory}
    scores = {name: values[row.key] for name, values in channels.items() if row.key in values}
    passage = f"{row.document}#{row.n}"
    return MemoryHit(row.document, passage, (row.start, row.end), score, scores, row.text, row.metadata)


def _share(cosine: float) -> float:
    """A cosine mapped to [0, 1]."""
    return (1 + min(1.0, max(-1.0, cosine))) / 2


def check_k(k: int) -> None:
    """Refuse a number of hits that is not a whole number of at least 1."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise InvalidInputError(f"k is {k!r}; expected an int of at least 1.")


def _check(question: str, k: int, min_score: float | None) -> None:
    if not isinstance(question, str) or not question.strip():
        raise InvalidInputError(f"the question is {question!r}; expected a text that is not empty.")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise InvalidInputError("the question has a lone surrogate; decode its source with errors='replace'.")
    _check_limits(k, min_score)


def _check_limits(k: int, min_score: float | None) -> None:
    check_k(k)
    if min_score is not None and (isinstance(min_score, bool) or not isinstance(min_score, int | float)):
        raise InvalidInputError(f"min_score is {min_score!r}; expected a number or None.")
    if min_score is not None and math.isnan(min_score):
        raise InvalidInputError("min_score is NaN; expected a number or None.")
