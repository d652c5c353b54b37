"""Scores against values worked out by hand from the official SQuAD script's rules."""

from __future__ import annotations

import random

import numpy as np
import pytest

from cmt_memory.evaluation.metrics import (
    Bootstrap,
    exact_match,
    normalise,
    prefix_match,
    recall,
    score,
    token_f1,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("a  theatre,\tan Area the", "theatre area"),  # articles as words only; whitespace of every kind
        ("U.S.A.", "usa"),  # punctuation goes before the articles do: "A." is no article here
        ("A. Turing", "turing"),
        ("the-end", "theend"),  # a hyphen joins, so no article is left to remove
        ("3,000.50", "300050"),
        ("Zürich’s “Café”", "zürich’s “café”"),  # only ASCII punctuation
        ("1914–1918", "1914–1918"),  # an en dash stays, unlike a hyphen
        ("1914-1918", "19141918"),
        ("ÉCOLE", "école"),
        ("The.", ""),
        ("", ""),
        ("\u00a0the\u00a0cat", "cat"),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


@pytest.mark.parametrize(
    ("prediction", "answers", "em", "f1"),
    [
        ("the Louvre.", ["Louvre"], 1, 1),
        ("in the Louvre", ["Louvre"], 0, 2 / 3),
        ("Louvre Louvre", ["Louvre"], 0, 2 / 3),  # a word counts as often as the gold has it
        ("Paris in France", ["Paris", "Paris, France"], 0, 0.8),  # the best of several
        ("new york new york", ["new york new"], 0, 6 / 7),
        ("Rome", ["Paris"], 0, 0),
        ("", ["Paris"], 0, 0),
        ("the", ["Paris"], 0, 0),
        ("the", ["a"], 1, 1),  # nothing is left on both sides
        ("", [""], 1, 1),
        ("Paris", ["the"], 0, 0),
        ("", ["the", "Paris"], 0, 0),  # v2.0: gold answers of which nothing is left do not count beside others
        ("4,471", ["4471"], 1, 1),
        ("1914-1918", ["1914–1918"], 0, 0),  # as the official script has it
        ("CAFÉ", ["café"], 1, 1),
        ("cafe", ["café"], 0, 0),
    ],
)
def test_exact_match_and_f1(prediction, answers, em, f1):
    assert exact_match(prediction, answers) == em
    assert token_f1(prediction, answers) == pytest.approx(f1)


@pytest.mark.parametrize(
    ("prediction", "answers", "expected"),
    [
        ("Paris, the capital of France", ["Paris"], 1),
        ("Parisian", ["Paris"], 1),  # characters, not words
        ("In Paris", ["Paris"], 0),
        ("Par", ["Paris"], 0),
        ("Paris", ["Paris, France", "Paris"], 1),
        ("Paris, France", ["Lyon", "Paris, France"], 0),  # gold is the shortest
        ("The 4471 code", ["4471"], 1),
        ("", ["Paris"], 0),
    ],
)
def test_prefix_match(prediction, answers, expected):
    assert prefix_match(prediction, answers) == expected


def test_prefix_em_exceeds_f1_where_the_lm_goes_on():
    found = score("Paris is a city on the Seine", ["Paris"])
    assert found["em"] == 0
    assert found["prefix_em"] == 1 > found["f1"] == pytest.approx(2 / 6)


def test_recall():
    assert recall(["b", "a", "c"], ["a"], 1) == 0
    assert recall(["b", "a", "c"], ["a"], 2) == 1
    assert recall(["b", "a", "c"], ["a", "d"], 3) == 0.5
    assert recall(["a", "a", "b"], ["a", "b"], 2) == 0.5  # two passages of one document
    assert recall([], ["a"], 4) == 0
    with pytest.raises(ValueError, match="relevant"):
        recall(["a"], [], 1)


def test_an_interval_covers_as_often_as_it_says():
    """Of 200 samples with a known mean, about 95 % of the intervals hold it."""
    rng = random.Random(3)
    covered = 0
    for trial in range(200):
        values = [float(rng.random() < 0.7) for _ in range(80)]
        found = Bootstrap(range(80), seed=trial, resamples=300).mean(values)
        assert found.low <= found.value <= found.high
        covered += found.low <= 0.7 <= found.high
    assert 0.88 <= covered / 200 <= 0.985


def test_questions_about_one_document_are_drawn_together():
    """100 documents of 8 questions that are right or wrong together say as much as 100 questions."""
    rng = random.Random(1)
    outcome = [float(rng.random() < 0.5) for _ in range(100)]
    values = [value for value in outcome for _ in range(8)]
    units = [unit for unit in range(100) for _ in range(8)]
    together = Bootstrap(units, seed=0).mean(values)
    apart = Bootstrap(range(800), seed=0).mean(values)
    alone = Bootstrap(range(100), seed=0).mean(outcome)
    assert together.high - together.low == pytest.approx(alone.high - alone.low, abs=1e-12)
    assert (together.high - together.low) / (apart.high - apart.low) == pytest.approx(8**0.5, rel=0.15)


def test_a_paired_difference_is_narrower_than_the_two_means():
    rng = random.Random(2)
    hard = [float(rng.random() < 0.5) for _ in range(300)]
    easier = [max(value, float(rng.random() < 0.1)) for value in hard]
    bootstrap = Bootstrap(range(300), seed=0)
    found = bootstrap.difference(easier, hard)
    assert found.value == pytest.approx(np.mean(easier) - np.mean(hard))
    assert found.low > 0
    assert found.high - found.low < bootstrap.mean(hard).high - bootstrap.mean(hard).low
    assert bootstrap.difference(hard, hard).as_json() == {"value": 0.0, "low": 0.0, "high": 0.0}


def test_shares_kept():
    memory, text, none = [1.0, 1, 0, 0, 1], [1.0, 1, 1, 0, 1], [1.0, 0, 0, 0, 0]
    bootstrap = Bootstrap(range(5), seed=0)
    raw, normalised = bootstrap.share(memory, text), bootstrap.share(memory, text, none)
    assert raw.value == pytest.approx(3 / 4)
    assert normalised.value == pytest.approx(2 / 3)
    assert normalised.low is None  # some resamples of five have no question that text answers and none does not
    assert bootstrap.share(memory, [0.0] * 5) is None
    assert bootstrap.share(memory, none, none) is None
    many = Bootstrap(range(500), seed=0)
    again = Bootstrap(range(500), seed=0)
    other = Bootstrap(range(500), seed=1)
    args = (memory * 100, text * 100, none * 100)
    assert many.share(*args) == again.share(*args) != other.share(*args)
    assert many.share(*args).low < 2 / 3 < many.share(*args).high


def test_values_and_questions_must_be_as_many():
    with pytest.raises(ValueError, match="3 values for 2 questions"):
        Bootstrap(range(2)).mean([1, 2, 3])
    with pytest.raises(ValueError, match="at least one"):
        Bootstrap([])
