"""How likely an answer is right: what the LM and the search show of it, and what labelled questions make of that."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from cmt_memory.documents import MemoryHit
from cmt_memory.errors import InvalidInputError
from cmt_memory.settings import Strict
from cmt_memory.squad import normalise

Signals = Mapping[str, float]
Values = npt.NDArray[np.float64]

FILE = "confidence.json"
FEATURES: dict[str, str] = {
    "mean": "log-probability of the answer's tokens, their mean",
    "least": "log-probability of its least likely token",
    "first": "log-probability of its first token",
    "quoted": "whether the answer stands in a hit's text: 1 in the best hit's, 1/2 in the second's, and so on, or 0; "
    "unknown where no text is kept",
    "score": "`score` of the best hit",
    "words": "the best BM25 value of a hit; unknown where words are not searched",
}
"""What a confidence is made of: names in files, and what they mean."""
SEARCH = ("score", "words")
"""Those that are known before the LM is asked."""
LIKELY = 0.5
"""Text is not read for what the documents less likely hold an answer to than this."""
FEWEST = 5
"""Right answers, and wrong ones, without which nothing is fitted; hundreds are needed for it to be of use."""
_RIDGE = 1.0
_STEPS = 50
_FOLDS = 5


def features(signals: Signals, answer: str, hits: Sequence[MemoryHit]) -> dict[str, float]:
    """What is known of an answer without knowing whether it is right; see `FEATURES`.

    Args:
        signals: of its completion.
        answer: its text.
        hits: what it rests on, most relevant first.
    """
    found = {**signals, "score": max((hit.score for hit in hits), default=0.0)}
    if words := [hit.scores["bm25"] for hit in hits if "bm25" in hit.scores]:
        found["words"] = max(words)
    if any(hit.text for hit in hits):
        said = normalise(answer)
        places = (rank for rank, hit in enumerate(hits, start=1) if said and said in normalise(hit.text))
        found["quoted"] = 1 / next(places, math.inf)
    return found


def raw_confidence(signals: Signals) -> float:
    """The probability that the LM gave the least likely token of its answer: it orders answers and promises nothing."""
    return math.exp(signals["least"])


class Logistic(Strict):
    """A logistic regression over named features.

    Attributes:
        bias: what is added.
        weights: what each feature is multiplied by.
        means: what stands for a feature that is not known.
    """

    bias: float
    weights: dict[str, float]
    means: dict[str, float]

    @classmethod
    def fit(cls, rows: Sequence[Signals], right: Sequence[bool], names: Iterable[str] = FEATURES) -> Logistic:
        """The most likely weights under a normal prior, by Newton's method on standardised features.

        Features that a row does not have, or that never change, are left out.

        Args:
            rows: features of each answer.
            right: whether it was right; some must be and some not.
            names: of the features to use.
        """
        names = [name for name in names if all(name in row for row in rows)]
        x = np.array([[row[name] for name in names] for row in rows], dtype=np.float64).reshape(len(rows), len(names))
        means, scales = x.mean(0), x.std(0)
        varied = scales > 1e-9
        names = [name for name, varies in zip(names, varied, strict=True) if varies]
        means, scales = means[varied], scales[varied]
        standard = np.column_stack([np.ones(len(rows)), (x[:, varied] - means) / scales])
        y = np.asarray(right, dtype=np.float64)
        prior = np.diag([0.0, *[_RIDGE] * len(names)])
        w = np.zeros(len(names) + 1)
        w[0] = math.log(y.mean() / (1 - y.mean()))
        for _ in range(_STEPS):
            p = _sigmoid(standard @ w)
            step = np.linalg.solve(
                (standard * (p * (1 - p))[:, None]).T @ standard + prior, standard.T @ (p - y) + prior @ w
            )
            w -= step
            if np.abs(step).max() < 1e-9:
                break
        weights = w[1:] / scales
        return cls(
            bias=float(w[0] - weights @ means),
            weights=dict(zip(names, map(float, weights), strict=True)),
            means=dict(zip(names, map(float, means), strict=True)),
        )

    def __call__(self, row: Signals) -> float:
        """The probability of being right."""
        total = self.bias + sum(weight * row.get(name, self.means[name]) for name, weight in self.weights.items())
        return float(_sigmoid(np.float64(total)))


class Fitted(Strict):
    """A probability of something that a question's label says, and how good it is on questions it was not fitted on.

    Attributes:
        logistic: what makes it.
        questions: how many it was fitted on.
        true: share of them for which it was so.
        auroc: chance that one for which it was so has a higher probability than one for which it was not.
        ece: expected calibration error: how far probability and share are apart.
    """

    logistic: Logistic
    questions: int
    true: float
    auroc: float
    ece: float


class Calibration(Strict):
    """What turns the signs of an answer into the probability that it is right.

    Attributes:
        fingerprint: of the model that gave the answers; it holds for no other.
        encoder: id of the retrieval encoder, on which `score` depends.
        memory: that an answer from memories is right.
        text: that one from text is; None where the store keeps none, or too few were right or wrong.
        answerable: that the documents hold an answer; None where there were too few questions of either kind.
        budget: share of the questions that may be read again as text.
        fallback: the `fallback` that keeps to it on the questions of the calibration; see `doubted`.
        recovered: share of the answers that memories lose against text which that `fallback` brought back there; None
            where they lose none.
    """

    format_version: Literal[1] = 1
    fingerprint: dict[str, str]
    encoder: str | None
    memory: Fitted
    text: Fitted | None = None
    answerable: Fitted | None = None
    budget: float = Field(default=0.2, ge=0, le=1)
    fallback: float = Field(ge=0, le=1)
    recovered: float | None = None

    def fits(self, fingerprint: Mapping[str, str], encoder: str | None) -> bool:
        """Whether it was made with this model and encoder; the prompt's head, which may hold a date, does not count."""
        parts = self.fingerprint.keys() - {"head"}
        return encoder == self.encoder and all(self.fingerprint[part] == fingerprint.get(part) for part in parts)

    def confidence(self, mode: str, row: Signals) -> float | None:
        """The probability that an answer is right, from its features; None where this mode was not calibrated."""
        found = self.memory if mode == "memory" else self.text
        return None if found is None else found.logistic(row)

    def portable(self) -> Calibration:
        """The same for other stores of this model: without what BM25 values say, which depend on a store's size.

        The figures and `fallback` stay those of the store it was fitted on.
        """

        def without_words(found: Fitted) -> Fitted:
            kept = found.logistic
            weights = {name: weight for name, weight in kept.weights.items() if name != "words"}
            bias = kept.bias + sum(
                kept.weights[name] * kept.means[name] for name in kept.weights.keys() - weights.keys()
            )
            means = {name: kept.means[name] for name in weights}
            return found.model_copy(update={"logistic": Logistic(bias=bias, weights=weights, means=means)})

        text = None if self.text is None else without_words(self.text)
        return self.model_copy(update={"memory": without_words(self.memory), "text": text, "answerable": None})

    def has_answer(self, row: Signals) -> float | None:
        """The probability that the documents hold an answer; None where that was not calibrated."""
        return None if self.answerable is None else self.answerable.logistic(row)


def fitted(
    rows: Sequence[Signals], true: Sequence[bool], names: Iterable[str] = FEATURES
) -> tuple[Fitted, Values] | None:
    """Fit a probability.

    Args:
        rows: features of each question's answer.
        true: what it is the probability of.
        names: of the features to use.

    Returns:
        The fit, and for each question the probability by one that has not seen it ``[n]``; None where fewer than
        `FEWEST` are true, or fewer are not.
    """
    names = tuple(names)
    if min(sum(true), len(true) - sum(true)) < FEWEST:
        return None
    fold = np.empty(len(rows), dtype=np.int64)
    for label in (False, True):  # each fold has both kinds
        own = np.flatnonzero(np.asarray(true) == label)
        fold[own] = np.arange(len(own)) % _FOLDS
    unseen = np.empty(len(rows))
    for held in range(_FOLDS):
        seen = np.flatnonzero(fold != held).tolist()
        fit = Logistic.fit([rows[i] for i in seen], [true[i] for i in seen], names)
        for i in np.flatnonzero(fold == held).tolist():
            unseen[i] = fit(rows[i])
    made = Fitted(
        logistic=Logistic.fit(rows, true, names),
        questions=len(rows),
        true=float(np.mean(true)),
        auroc=auroc(unseen, true),
        ece=calibration_error(unseen, true),
    )
    return made, unseen


def doubted(confidence: float | None, answerable: float | None, fallback: float | None) -> bool:
    """Whether the text is read after an answer from memories: it is not sure enough, and the text may well tell more.

    Without the second condition, questions that no document answers use up the budget: they are doubted most, and
    their text has no answer either (`benchmarks/confidence.py`).

    Args:
        confidence: of the answer; None where it rests on nothing.
        answerable: of its question; None where that is not known.
        fallback: what the confidence is to reach; None reads nothing.
    """
    if fallback is None or confidence is None:
        return False
    return confidence < fallback and (answerable is None or answerable >= LIKELY)


def within_budget(confidences: Values, budget: float) -> float:
    """The highest threshold below which at most a share `budget` of the confidences ``[n]`` is."""
    most = math.floor(budget * len(confidences) + 1e-9)
    return 1.0 if most >= len(confidences) else float(np.sort(confidences)[most])


def auroc(scores: Values | Sequence[float], positive: Sequence[bool]) -> float:
    """Chance that a positive one scores higher than a negative one, ties counting half; NaN without both kinds.

    Examples:
        >>> auroc([0.1, 0.4, 0.35, 0.8], [False, False, True, True])
        0.75
    """
    values, is_positive = np.asarray(scores, dtype=np.float64), np.asarray(positive, dtype=bool)
    ours, others = values[is_positive], np.sort(values[~is_positive])
    if not len(ours) or not len(others):
        return math.nan
    below = np.searchsorted(others, ours, "left") + np.searchsorted(others, ours, "right")
    return float(below.mean() / 2 / len(others))


def calibration_error(confidences: Values | Sequence[float], right: Sequence[bool], bins: int = 10) -> float:
    """Expected calibration error over bins of equal width.

    Source: Guo et al., On Calibration of Modern Neural Networks, arXiv 1706.04599, section 2.

    Examples:
        >>> calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, True, False])
        0.0
    """
    p, y = np.asarray(confidences, dtype=np.float64), np.asarray(right, dtype=np.float64)
    place = np.minimum((p * bins).astype(int), bins - 1)
    return float(sum(abs((p - y)[place == b].sum()) for b in range(bins)) / len(p))


def read_calibrations(folder: Path) -> list[Calibration]:
    """The calibrations that a saved model brings, one for each ratio; none where it has no such file.

    Raises:
        InvalidInputError: the file is not one of calibrations.
    """
    path = folder / FILE
    try:
        return [Calibration.model_validate(value) for value in json.loads(path.read_text("utf-8"))]
    except FileNotFoundError:
        return []
    except (ValidationError, ValueError, TypeError) as error:
        raise InvalidInputError(f"{path} is not a list of calibrations: {error}") from error


def write_calibrations(folder: Path, calibrations: Sequence[Calibration]) -> None:
    """Write calibrations beside a saved model, for `read_calibrations`."""
    values: list[dict[str, Any]] = [calibration.model_dump() for calibration in calibrations]
    (folder / FILE).write_text(json.dumps(values, indent=1) + "\n", "utf-8")


def _sigmoid(z: Values | np.float64) -> Any:
    return 0.5 * (1 + np.tanh(0.5 * z))
