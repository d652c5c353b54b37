"""Question → the passages whose memories to use."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.filters import Condition, Filter, parse
from cmt_memory.bank.records import PassageRow, Vector
from cmt_memory.documents import MemoryHit
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.retrieval.encoders import Encoder
from cmt_memory.retrieval.fusion import reciprocal_rank_fusion
from cmt_memory.retrieval.lexical import QuestionWords, Words, bm25, idf_share

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

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
        self,
        question: str | None,
        k: int = 4,
        filter: Filter | None = None,
        min_score: float | None = None,
        *,
        vector: ArrayLike | None = None,
        channels: Sequence[str] | Mapping[str, float] | None = None,
    ) -> list[MemoryHit]:
        """The at most ``k`` most relevant passages, best first.

        Fusion decides the order; ``score`` is the cosine mapped to [0, 1], or without an encoder the share of
        the question's idf weight found in the passage, or by memories alone the cosine of the memories.

        Args:
            question: Any text that is not empty; None where there is only a ``vector``.
            k: Most hits to return.
            filter: On the documents' metadata, see `cmt_memory.bank.filters`.
            min_score: Leave out hits with a lower ``score``.
            vector: The question's vector ``[d]`` in place of the one that the encoder makes of it.
            channels: Some of the selector's channels, to search by these alone this time; or the weight of each.

        Raises:
            InvalidInputError: An empty question, ``k`` below 1, a filter outside the dialect, a ``min_score`` that
                is not a number, a vector that does not fit, or a channel that is not the selector's.
            FingerprintMismatchError: Another encoder has made the vectors anew since the bank was opened.
        """
        if question is not None or vector is None:
            _check_question(question)
        check_k(k)
        _check_min_score(min_score)
        condition = parse(filter)
        depth = max(_MIN_DEPTH, _DEPTH * k)
        search = _Search(self._weights(channels, question, vector))
        given = None if vector is None else self._as_vector(vector)
        with ThreadPoolExecutor(1, thread_name_prefix="cmt-memory-bm25") as beside:
            words = beside.submit(self._by_words, search, question or "", depth, condition)
            asked = self._by_vectors(search, question or "", given, depth, condition)
            words.result()
        rankings = {"dense": search.dense, "bm25": search.bm25, "memory": search.memory}
        ranking = reciprocal_rank_fusion(
            [list(rankings[channel]) for channel in search.channels], list(search.channels.values())
        )
        return self._hits(search, asked, ranking, k, min_score)

    def _weights(
        self, channels: Sequence[str] | Mapping[str, float] | None, question: str | None, vector: ArrayLike | None
    ) -> dict[str, float]:
        """The channels to search by, in the order of `CHANNELS`, with the weight of each."""
        given = self.channels if channels is None else channels
        if isinstance(given, str) or not given or any(channel not in self.channels for channel in given):
            raise InvalidInputError(f"channels is {given!r}; expected one or more of {list(self.channels)}.")
        weights = dict(given) if isinstance(given, Mapping) else dict.fromkeys(given, 1.0)
        if not all(_is_number(weight) and weight > 0 for weight in weights.values()):
            raise InvalidInputError(f"channels is {given!r}; expected weights above 0.")
        if vector is not None and self._encoder is None:
            raise InvalidInputError("the store has no encoder, so it has no vectors that one could be compared with.")
        if vector is not None and "dense" not in weights:
            raise InvalidInputError('a vector is searched for by the channel "dense", which is not among these.')
        return {
            channel: float(weights[channel])
            for channel in CHANNELS
            if channel in weights and (question is not None or channel == "dense")
        }

    def _as_vector(self, vector: ArrayLike) -> Vector:
        """A given vector, of length 1."""
        try:
            made = np.asarray(vector, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise InvalidInputError(f"the vector is {vector!r:.80}; expected numbers.") from error
        assert self._encoder is not None
        if made.shape != (self._encoder.dimension,) or not np.isfinite(made).all() or not made.any():
            raise InvalidInputError(
                f"the vector has the shape {list(made.shape)}; expected [{self._encoder.dimension}] finite numbers, "
                f"not all zero, as the store's encoder {self._encoder.id!r} makes them."
            )
        result: Vector = made / np.linalg.norm(made)
        return result

    def _by_words(self, search: _Search, question: str, depth: int, condition: Condition | None) -> None:
        if "bm25" in search.channels:
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

    def _by_vectors(
        self, search: _Search, question: str, given: Vector | None, depth: int, condition: Condition | None
    ) -> Vector | None:
        """Search the dense channel and the memories' own; return the question's dense vector if there is one."""
        if not self._bank.count_passages():
            return None
        if self._compress is not None and "memory" in search.channels:
            search.memory = dict(self._bank.search_memories(self._compress(question), depth, condition))
        if self._encoder is None or "dense" not in search.channels:
            return None
        stored = self._bank.encoder
        if stored is not None and stored["id"] != self._encoder.id:
            raise FingerprintMismatchError(
                f"the store's vectors were made anew by the encoder {stored['id']} since it was opened here; open it "
                "again, with that encoder."
            )
        vector = self._encoder.encode_query(question) if given is None else given
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
        if "dense" in search.channels:
            return _share(search.dense.get(row.key, -1.0))
        if "bm25" not in search.channels:
            return _share(search.memory.get(row.key, -1.0))
        return idf_share(search.weights, set(self._words.of(row.text)))


@dataclass(slots=True)
class _Search:
    """Each channel's weight; cosine, BM25 value and memories' cosine by passage key; idf of the question's words."""

    channels: dict[str, float]
    dense: dict[int, float] = field(default_factory=dict)
    bm25: dict[int, float] = field(default_factory=dict)
    memory: dict[int, float] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


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


def _check_question(question: object) -> None:
    if not isinstance(question, str) or not question.strip():
        raise InvalidInputError(f"the question is {question!r}; expected a text that is not empty.")
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise InvalidInputError("the question has a lone surrogate; decode its source with errors='replace'.")


def _check_min_score(min_score: object) -> None:
    if min_score is not None and not _is_number(min_score):
        raise InvalidInputError(f"min_score is {min_score!r}; expected a number or None.")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and not math.isnan(value)
