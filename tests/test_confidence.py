"""Confidence as numbers: features, the fit, its figures, and files."""

from __future__ import annotations

import json
import math
from itertools import product

import numpy as np
import pytest

from cmt_memory import MemoryHit
from cmt_memory.confidence import (
    FEATURES,
    FEWEST,
    SEARCH,
    Calibration,
    Logistic,
    auroc,
    calibration_error,
    doubted,
    features,
    fitted,
    raw_confidence,
    read_calibrations,
    within_budget,
    write_calibrations,
)
from cmt_memory.errors import InvalidInputError

SIGNALS = {"mean": -0.2, "least": -0.7, "first": -0.1}


def hit(text, score, **scores):
    return MemoryHit("d", "d#0", (0, len(text)), score, scores, text, {})


def drawn(count, seed=0):
    """Rows whose labels come from a known logistic regression, and the probabilities."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(count, 2)) * [2, 0.05] + [-3, 0.6]
    p = 1 / (1 + np.exp(-(2 + 0.8 * x[:, 0] + 10 * (x[:, 1] - 0.6))))
    return [{"least": a, "score": b} for a, b in x], (rng.random(count) < p).tolist(), p


def test_features_are_what_is_known_without_the_label():
    hits = [hit("The shop opens at 9:30.", 0.9, bm25=2.5), hit("Its code is 4471.", 0.8, dense=0.6)]
    assert features(SIGNALS, "The 4471", hits) == {**SIGNALS, "score": 0.9, "words": 2.5, "quoted": 0.5}
    assert features(SIGNALS, "9:30", hits)["quoted"] == 1
    assert features(SIGNALS, "9032", hits)["quoted"] == features(SIGNALS, " . ", hits)["quoted"] == 0
    assert "quoted" not in features(SIGNALS, "4471", [hit("", 0.9)])
    assert features(SIGNALS, "x", [])["score"] == 0
    assert set(features(SIGNALS, "x", hits)) == set(FEATURES) > set(SEARCH)
    assert raw_confidence(SIGNALS) == pytest.approx(math.exp(-0.7))


def test_the_fit_finds_what_the_labels_were_drawn_from():
    rows, right, p = drawn(4000)
    fit = Logistic.fit(rows, right)
    assert fit.weights["least"] == pytest.approx(0.8, abs=0.1)
    assert fit.weights["score"] == pytest.approx(10, abs=2)
    assert np.abs([fit(row) for row in rows] - p).max() < 0.1
    assert fit({"least": -3.0}) == pytest.approx(fit({"least": -3.0, "score": fit.means["score"]}))
    assert set(Logistic.fit(rows, right, SEARCH).weights) == {"score"}


def test_what_never_changes_or_is_missing_somewhere_is_left_out():
    rows, right, _ = drawn(200)
    odd = [{**row, "words": 1.0, "first": -0.5} for row in rows]
    del odd[7]["words"]
    assert set(Logistic.fit(odd, right).weights) == {"least", "score"}


def test_labels_that_are_told_apart_perfectly_still_give_a_fit():
    rows = [{"least": float(-i)} for i in range(20)]
    fit = Logistic.fit(rows, [i < 10 for i in range(20)])
    assert 0.5 < fit(rows[0]) < 1
    assert 0 < fit(rows[-1]) < 0.5


def test_the_figures_are_of_what_was_not_seen():
    rows, right, p = drawn(2000, seed=3)
    made, unseen = fitted(rows, right)
    assert made.auroc == pytest.approx(auroc(p, right), abs=0.02)
    assert made.ece < 0.05
    assert (made.questions, made.true) == (2000, np.mean(right))
    noise = np.random.default_rng(0)
    chance, _ = fitted([{"least": float(noise.normal())} for _ in rows], right)
    assert chance.auroc == pytest.approx(0.5, abs=0.06)
    assert len(unseen) == len(rows)


@pytest.mark.parametrize("few", [0, FEWEST - 1])
def test_too_few_of_a_kind_give_none(few):
    rows, _, _ = drawn(50)
    assert fitted(rows, [i < few for i in range(50)]) is None
    assert fitted(rows, [i >= few for i in range(50)]) is None


def test_auroc_is_the_share_of_pairs_in_order():
    rng = np.random.default_rng(1)
    scores, positive = rng.integers(0, 6, 60) / 6, rng.random(60) < 0.4
    pairs = list(product(scores[positive], scores[~positive]))
    assert auroc(scores, positive) == pytest.approx(np.mean([(a > b) + (a == b) / 2 for a, b in pairs]))
    assert math.isnan(auroc([0.1, 0.2], [True, True]))


def test_calibration_error_is_the_distance_in_each_bin():
    assert calibration_error([0.95] * 10 + [0.15] * 10, [True] * 5 + [False] * 15) == pytest.approx((0.45 + 0.15) / 2)
    assert calibration_error([1.0, 0.0], [True, False]) == 0


@pytest.mark.parametrize("budget", [0, 0.2, 0.5, 1])
def test_the_budget_holds_and_is_used(budget):
    values = np.random.default_rng(0).random(100)
    below = int((values < within_budget(values, budget)).sum())
    assert below == pytest.approx(100 * budget)
    tied = np.repeat([0.1, 0.5], 10)
    assert (tied < within_budget(tied, 0.2)).sum() == 0


@pytest.mark.parametrize(
    ("confidence", "answerable", "fallback", "read"),
    [
        (0.2, None, 0.5, True),
        (0.5, None, 0.5, False),
        (0.2, 0.9, 0.5, True),
        (0.2, 0.1, 0.5, False),  # the text has no answer either
        (0.2, 0.9, None, False),
        (None, None, 0.5, False),
    ],
)
def test_what_is_read_again(confidence, answerable, fallback, read):
    assert doubted(confidence, answerable, fallback) is read


@pytest.fixture
def calibration():
    rows, right, _ = drawn(100)
    [made, _] = fitted(rows, right)
    return Calibration(fingerprint={"lm": "a", "ratio": "8", "head": "1"}, encoder="e", memory=made, fallback=0.3)


def test_it_holds_for_its_model_and_encoder_alone(calibration):
    own = {"lm": "a", "ratio": "8", "head": "2"}  # today's date
    assert calibration.fits(own, "e")
    assert not calibration.fits(own | {"ratio": "16"}, "e")
    assert not calibration.fits({"lm": "a"}, "e")
    assert not calibration.fits(own, None)
    row = {"least": -3.0, "score": 0.6}
    assert calibration.confidence("memory", row) == calibration.memory.logistic(row)
    assert calibration.confidence("text", row) is calibration.has_answer(row) is None


def test_what_a_model_brings_does_not_depend_on_the_size_of_a_store(calibration):
    rows, right, _ = drawn(400)
    wordy = [{**row, "words": 5 + 3 * right[i] + i % 4} for i, row in enumerate(rows)]
    made, _ = fitted(wordy, right)
    search, _ = fitted(wordy, right, SEARCH)
    whole = calibration.model_copy(update={"memory": made, "text": made, "answerable": search})
    brought = whole.portable()
    assert "words" in whole.memory.logistic.weights
    for mode in ("memory", "text"):
        assert brought.confidence(mode, wordy[0]) == pytest.approx(whole.confidence(mode, rows[0]))
        assert brought.confidence(mode, wordy[0] | {"words": 99.0}) == brought.confidence(mode, wordy[0])
    assert brought.has_answer(wordy[0]) is None


def test_files(calibration, tmp_path):
    assert read_calibrations(tmp_path) == []
    write_calibrations(tmp_path, [calibration, calibration])
    assert read_calibrations(tmp_path) == [calibration, calibration]
    for wrong in ("{", "3", '[{"memory": 1}]', json.dumps([calibration.model_dump() | {"more": 1}])):
        (tmp_path / "confidence.json").write_text(wrong)
        with pytest.raises(InvalidInputError, match=r"confidence\.json"):
            read_calibrations(tmp_path)
