"""Reciprocal rank fusion: one order out of several."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TypeVar

T = TypeVar("T", bound=Hashable)

_DAMPING = 60


def reciprocal_rank_fusion(rankings: Sequence[Sequence[T]], weights: Sequence[float] | None = None) -> list[T]:
    """Merge rankings by the sum of ``1 / (60 + rank)`` (Cormack, Clarke, Büttcher, SIGIR 2009).

    Args:
        rankings: Items, best first, each once per ranking; an earlier ranking wins ties.
        weights: How much each ranking counts; all the same, unless given.

    Returns:
        Every item once, best first.

    Examples:
        >>> reciprocal_rank_fusion([["a", "b", "c"], ["b", "d"]])
        ['b', 'a', 'd', 'c']
    """
    scores: dict[T, float] = {}
    for ranking, weight in zip(rankings, weights or [1.0] * len(rankings), strict=True):
        for rank, item in enumerate(ranking, 1):
            scores[item] = scores.get(item, 0.0) + weight / (_DAMPING + rank)
    return sorted(scores, key=lambda item: -scores[item])
