"""The sentences closest to a question, up to a budget: the control that a compressed memory has to beat."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

import numpy as np

from cmt_memory.bank.records import Vector
from cmt_memory.retrieval.fusion import reciprocal_rank_fusion
from cmt_memory.retrieval.lexical import QuestionWords, Words, idf_share
from cmt_memory.store import CMTMemoryStore

_END = re.compile(r"(?<=[.!?…])[\"'”’»)\]]*\s+|(?<=[。！？])|\s*\n\s*")
_KEPT = 20_000


def sentences(text: str) -> list[str]:
    r"""The sentences of a text, lines taken apart too; together they hold all of its words.

    Examples:
        >>> sentences("Ada was born in 1815. She wrote\nthe first program.")
        ['Ada was born in 1815.', 'She wrote', 'the first program.']
    """
    found, start = [], 0
    for end in [*(match.end() for match in _END.finditer(text)), len(text)]:
        if text[start:end].strip():
            found.append(text[start:end].strip())
        start = end
    return found


class Nearest:
    """Orders sentences by closeness to a question, in the ways in which the store orders passages.

    Args:
        store: whose encoder and word weights are used.
    """

    def __init__(self, store: CMTMemoryStore) -> None:
        channels = store.selector.channels
        self._encoder = store.encoder if "dense" in channels else None
        self._weigher = QuestionWords(store.bank) if "bm25" in channels else None
        self._words = Words()
        self._vectors: OrderedDict[str, Vector] = OrderedDict()

    def order(self, question: str, candidates: Sequence[str]) -> list[int]:
        """Places of the candidates, closest first."""
        rankings = []
        if self._encoder is not None and candidates:
            cosines = np.stack(self._encoded(candidates)) @ self._encoder.encode_query(question)
            rankings.append(_descending(cosines.tolist()))
        if self._weigher is not None:
            weights, *_ = self._weigher.weigh(self._words.of(question))
            rankings.append(_descending([idf_share(weights, set(self._words.of(text))) for text in candidates]))
        return reciprocal_rank_fusion(rankings)

    def _encoded(self, texts: Sequence[str]) -> list[Vector]:
        assert self._encoder is not None
        new = [text for text in dict.fromkeys(texts) if text not in self._vectors]
        if new:
            self._vectors.update(zip(new, self._encoder.encode_documents(new), strict=True))
        vectors = [self._vectors[text] for text in texts]
        for text in texts:
            self._vectors.move_to_end(text)
        while len(self._vectors) > _KEPT:
            self._vectors.popitem(last=False)
        return vectors


def closest_that_fit(candidates: Sequence[str], order: Sequence[int], fits: Callable[[str], bool]) -> str:
    """As many candidates as fit, tried closest first, joined in their own order; empty where not one fits.

    Args:
        candidates: sentences in reading order.
        order: their places, closest to the question first.
        fits: whether a text is within the budget.
    """
    chosen: list[int] = []
    text = ""
    for place in order:
        tried = " ".join(candidates[i] for i in sorted([*chosen, place]))
        if fits(tried):
            chosen.append(place)
            text = tried
    return text


def _descending(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda place: -scores[place])
