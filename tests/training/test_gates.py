"""What the gates measure, on models whose answers are known, and what they say of it."""

from __future__ import annotations

import math

import pytest
import torch

from cmt_memory.model.memory import Memory
from cmt_memory.squad import exact_match
from cmt_memory.training.config import Gates
from cmt_memory.training.gates import GateKeeper, chance, copy_probes, slot_statistics, surely_over, swapped_probes
from cmt_memory.training.sources import Mixture
from tests.training.helpers import facts, trainable


def memory(rows) -> Memory:
    slots = torch.tensor(rows)
    return Memory(slots, torch.arange(len(slots)).float(), len(slots))


def test_effective_rank_and_mean_cosine():
    axes = [[1.0, 0.0, 0.0], [-1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.0, 0.0, -1.0]]
    assert slot_statistics([memory(axes)])["effective_rank"] == pytest.approx(3, abs=1e-4)
    line = [[float(i), 2.0 * i, 0.0] for i in range(1, 5)]
    collapsed = slot_statistics([memory(line)])
    assert collapsed["effective_rank"] == pytest.approx(1, abs=1e-3)
    assert collapsed["mean_cosine"] == pytest.approx(1, abs=1e-6)
    right_angle = slot_statistics([memory([[1.0, 0.0], [0.0, 3.0]]), memory([[1.0, 0.0], [1.0, 1.0]])])
    assert right_angle["mean_cosine"] == pytest.approx(math.sqrt(0.5) / 2, abs=1e-6)


def test_exact_match_by_squads_rules():
    assert exact_match(" The Red  Fox.", ["red fox"])
    assert not exact_match("red foxes", ["red fox"])


def test_copy_probes_hold_their_answers_and_differ():
    probes = copy_probes(12)
    assert all(probe.answer in probe.documents[0] for probe in probes)
    assert len({probe.answer for probe in probes}) == 12
    assert probes == copy_probes(12)


def test_swapped_probes_are_pairs_with_one_question_and_two_answers():
    probes = swapped_probes(8)
    assert probes == swapped_probes(8)
    assert len(probes) == 16
    for one, other in zip(probes[::2], probes[1::2], strict=True):
        assert one.question == other.question
        assert one.answer != other.answer
        assert all(answer in p.documents[0] for p in (one, other) for answer in (one.answer, other.answer))


def test_chance_is_what_knowing_the_type_of_answer_is_worth():
    assert chance([("colour", "red"), ("colour", "Red."), ("colour", "blue"), ("town", "Ulm")]) == pytest.approx(1 / 3)
    assert (
        chance([("", "12"), ("", "12"), ("", "Ulm"), ("", "Bern"), ("", "yes")]) == 1 / 2
    )  # by looks; "yes" has no other
    assert chance([("town", "Ulm")]) == 0


def test_an_excess_must_be_above_closed_book_chance_and_the_interval():
    none = [0.0] * 8
    few, many = [1.0] + [0.0] * 7, [1.0] * 8
    assert surely_over(few, none, 0.0) == pytest.approx(0.125 - 1.96 * math.sqrt(0.125 * 0.875 / 7))
    assert surely_over(few, none, 0.0) < 0 < surely_over(many, none, 0.0) == 1
    assert surely_over(many, none, 0.75) == 0.25
    assert surely_over(none, few, 0.0) == -0.125
    assert surely_over(few, none, 0.5) == -0.375


@pytest.fixture
def keeper():
    model = trainable()
    gates = Gates(questions=6, max_new_tokens=3)
    held_out = Mixture([facts(split="eval", unknown=0.5)], "held-out")
    return GateKeeper(model, gates, held_out, {0: 0.5, 2: 0.5}, 2)


class Answering:
    """A generator's `batch` by a rule on the memories and texts that a question is given."""

    def __init__(self, monkeypatch, rule):
        def batch(generator, questions, memories=None, *, texts=None, max_new_tokens):
            given = memories if texts is None else texts
            rows = zip(questions, given, strict=True)
            answers = [rule(question, found, texts is not None) for question, found in rows]
            return [type("Done", (), {"text": answer}) for answer in answers]

        monkeypatch.setattr("cmt_memory.generation.generator.CMTGenerator.batch", batch)


def test_right_wrong_and_no_memories_are_what_they_are_called(keeper, monkeypatch):
    """An oracle that knows which memories belong to a question tells the arms apart."""
    asked = {one.question: one for one in keeper._asked}
    assert len(keeper._asked) == 6
    assert all(len(one.documents) == 2 for one in keeper._asked)
    with torch.no_grad():
        own = {text: memory for one in keeper._asked for text, memory in _compressed(keeper, one.documents)}
    sizes = []

    def rule(question, found, is_text):
        if question not in asked:
            return "wrong"
        sizes.append(len(found))
        one = asked[question]
        if is_text:
            return one.answer if list(found) == list(one.documents) else "wrong"
        right = [own[text] for text in one.documents]
        alike = [m.n_tokens for m in found] == [r.n_tokens for r in right] and all(
            torch.allclose(m.slots, r.slots, atol=1e-3) for m, r in zip(found, right, strict=True)
        )
        return one.answer if alike else "wrong"

    Answering(monkeypatch, rule)
    found = keeper.measure()
    assert (found["exact_match"], found["exact_match_text"]) == (1, 1)
    assert (found["exact_match_shuffled"], found["exact_match_none"], found["copy_probe"]) == (0, 0, 0)
    assert (found["memory_over_shuffled"], found["shuffled_over_none"]) == (1, 0)
    assert (found["exact_match_zeroed"], found["zeroed_over_none"], found["exact_match_chance"]) == (0, 0, 0)
    assert (found["swap_changed"], found["swap_right"], found["swap_right_text"]) == (0, 0, 0)
    assert sorted(set(sizes)) == [0, 2]


def test_zeroed_memories_have_the_right_ones_places_and_no_slots(keeper, monkeypatch):
    asked = {one.question: one for one in keeper._asked}

    def rule(question, found, is_text):
        zeros = (
            bool(found) and not is_text and all(not m.slots.any() and len(m.slots) == len(m.positions) for m in found)
        )
        return asked[question].answer if zeros and question in asked else "wrong"

    Answering(monkeypatch, rule)
    found = keeper.measure()
    assert (found["exact_match"], found["exact_match_zeroed"], found["zeroed_over_none"]) == (0, 1, 1)
    assert "memories of zeros help" in keeper.failure(FINE | {"zeroed_over_none": found["zeroed_over_none"]})


@pytest.mark.parametrize(
    ("sees_order", "right", "expected"), [(True, True, (1, 1)), (True, False, (1, 0)), (False, True, (0, 0))]
)
def test_swapped_dates_must_change_the_answer(keeper, monkeypatch, sees_order, right, expected):
    """A model that tells a pair's documents apart, rightly or wrongly, and one that does not."""
    with torch.no_grad():
        memories = {p.documents[0]: dict(_compressed(keeper, p.documents))[p.documents[0]] for p in keeper._pairs}
    pairs = {}
    for probe in keeper._pairs:
        pairs.setdefault(probe.question, []).append(probe)

    def rule(question, found, is_text):
        if question not in pairs:
            return "wrong"
        if is_text:
            return next(p.answer for p in pairs[question] if p.documents == tuple(found))
        one, other = pairs[question][:2]
        away, from_other = ((found[0].slots - memories[p.documents[0]].slots).norm() for p in (one, other))
        told = one if away < from_other or not sees_order else other
        return told.answer if right else f"not {told.answer}"

    Answering(monkeypatch, rule)
    found = keeper.measure()
    assert (found["swap_changed"], found["swap_right"]) == expected
    assert found["swap_right_text"] == 1


def _compressed(keeper, documents):
    model = keeper._model
    before, model.compressor.ratio = model.compressor.ratio, 2
    made = [(text, model.compress([text])[0]) for text in documents]
    model.compressor.ratio = before
    return made


def test_measuring_leaves_the_training_as_it_was(keeper):
    compressor = keeper._model.compressor
    compressor.train()
    compressor.ratio = 4
    state = torch.get_rng_state()
    keeper.measure()
    assert compressor.training
    assert compressor.ratio == 4
    assert torch.equal(torch.get_rng_state(), state)


FINE = {
    "memory_over_shuffled": 0.5,
    "shuffled_over_none": 0.0,
    "exact_match": 0.6,
    "zeroed_over_none": 0.0,
    "first_token_gain": 1.0,
    "copy_probe": 0.5,
    "swap_changed": 0.9,
    "swap_right": 0.5,
    "effective_rank": 30.0,
    "mean_cosine": 0.3,
}


SET = {"exact_match": 0.1, "copy_probe": 0.1, "swap_right": 0.2}


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"memory_over_shuffled": 0.0}, "do not depend on which memory"),
        ({"shuffled_over_none": 0.4}, "wrong memories help"),
        ({"zeroed_over_none": 0.4}, "memories of zeros help"),
        ({"first_token_gain": -0.1}, "how an answer begins"),
        ({"swap_changed": 0.0}, "the order in a document is lost"),
        ({"swap_right": 0.1}, "which of two dates"),
        ({"exact_match": 0.01}, "does not answer"),
        ({"copy_probe": 0.0}, "codes, numbers and names are lost"),
        ({"effective_rank": 1.2}, "collapsed"),
        ({"mean_cosine": 0.999}, "all alike"),
    ],
)
def test_each_threshold_has_its_sentence(keeper, value, said):
    keeper._gates = Gates(**SET)
    assert keeper.failure(FINE) is None
    assert said in keeper.failure(FINE | value)
    [name] = value
    keeper._gates = Gates(**(SET | {name: None}))
    assert keeper.failure(FINE | value) is None
