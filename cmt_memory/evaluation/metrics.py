"""What an answer is worth: SQuAD's scores, shares kept, retrieval, and intervals for all of them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cmt_memory.squad import exact_match, golds, normalise, token_f1

Values = npt.NDArray[np.float64]

_COUNTS_AT_ONCE = 250


def prefix_match(prediction: str, answers: Sequence[str]) -> float:
    """The exact match of MAC's and CMT's published tables: 1 where the prediction begins with the gold answer.

    Both are normalised and the prediction is cut to the gold answer's length in characters. Gold is the shortest
    answer, the first of several. What the LM says after it costs nothing, so this exceeds F1 in places.

    Examples:
        >>> prefix_match("Louvre, which is in Lyon", ["the Louvre"])
        1.0
    """
    gold = normalise(min(golds(answers), key=len))
    return float(normalise(prediction)[: len(gold)] == gold)


def recall(found: Sequence[Hashable], relevant: Sequence[Hashable], k: int) -> float:
    """The share of the relevant documents that are among the first `k` found.

    Raises:
        ValueError: nothing is relevant, so there is no share of it.
    """
    wanted = set(relevant)
    if not wanted:
        raise ValueError("recall needs at least one relevant document")
    return len(wanted & set(found[:k])) / len(wanted)


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its interval; `low` and `high` are None where resamples have no such figure."""

    value: float
    low: float | None
    high: float | None

    def as_json(self) -> dict[str, float | None]:
        """Rounded, for a file."""
        ends = {"low": self.low, "high": self.high}
        return {"value": round(self.value, 5)} | {k: None if v is None else round(v, 5) for k, v in ends.items()}


class Bootstrap:
    """Paired percentile intervals: every figure is worked out on the same resamples of the questions.

    Questions about the same documents are drawn together, because their answers are right or wrong together; an
    interval over single questions would be too narrow.

    Args:
        units: for each question what it is drawn with, such as its documents.
        seed: of the resamples.
        resamples: how many.
        confidence: share of the resamples inside the interval.

    Source: Efron & Tibshirani, An Introduction to the Bootstrap, 1993, chapters 8 and 13.
    """

    def __init__(
        self, units: Sequence[Hashable], *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95
    ) -> None:
        if not units:
            raise ValueError("a bootstrap needs at least one question")
        places: dict[Hashable, int] = {}
        self._unit = np.array([places.setdefault(unit, len(places)) for unit in units])
        self._tails = [50 * (1 - confidence), 50 * (1 + confidence)]
        rng = np.random.default_rng(seed)
        n = len(places)
        self._counts = np.empty((resamples, n), dtype=np.uint16)
        for row in range(resamples):
            self._counts[row] = np.bincount(rng.integers(n, size=n), minlength=n)
        self._sizes = self._drawn(np.ones(len(units)))

    def mean(self, values: Sequence[float]) -> Estimate:
        """The mean over the questions."""
        return self._estimate(float(np.mean(values)), self._means(values))

    def difference(self, values: Sequence[float], others: Sequence[float]) -> Estimate:
        """How much higher the mean of `values` is than that of `others`, on the same questions."""
        return self.mean(np.subtract(values, others).tolist())

    def share(
        self, memory: Sequence[float], text: Sequence[float], none: Sequence[float] | None = None
    ) -> Estimate | None:
        """Share kept: memory / text, or with `none` (memory - none) / (text - none).

        Returns:
            None where text is no better than nothing, so that there is nothing to keep.
        """
        floor = np.zeros(len(memory)) if none is None else np.asarray(none, dtype=np.float64)
        kept, whole = np.subtract(memory, floor), np.subtract(text, floor)
        if whole.mean() <= 0:
            return None
        wholes = self._means(whole.tolist())
        with np.errstate(divide="ignore", invalid="ignore"):
            shares = np.where(wholes > 0, self._means(kept.tolist()) / wholes, np.nan)
        return self._estimate(float(kept.mean() / whole.mean()), shares)

    def _means(self, values: Sequence[float]) -> Values:
        means: Values = self._drawn(np.asarray(values, dtype=np.float64)) / self._sizes
        return means

    def _drawn(self, values: Values) -> Values:
        """The sum of the values in each resample."""
        if len(values) != len(self._unit):
            raise ValueError(f"{len(values)} values for {len(self._unit)} questions")
        sums = np.bincount(self._unit, weights=values, minlength=self._counts.shape[1])
        parts = range(0, len(self._counts), _COUNTS_AT_ONCE)
        return np.concatenate([self._counts[at : at + _COUNTS_AT_ONCE].astype(np.float64) @ sums for at in parts])

    def _estimate(self, value: float, resampled: Values) -> Estimate:
        if not np.isfinite(resampled).all():
            return Estimate(value, None, None)
        low, high = np.percentile(resampled, self._tails)
        return Estimate(value, float(low), float(high))


SCORES: Mapping[str, str] = {"em": "exact match", "f1": "token F1", "prefix_em": "prefix EM"}
"""Names of an answer's scores in records and results, and in words."""


def score(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """All scores of an answer by name; see `SCORES`."""
    return {
        "em": exact_match(prediction, answers),
        "f1": token_f1(prediction, answers),
        "prefix_em": prefix_match(prediction, answers),
    }
