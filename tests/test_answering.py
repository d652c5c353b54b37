"""How sure an answer is, what a store learns about that, and the text that is read where it is doubted."""

from __future__ import annotations

import asyncio
import math
import threading

import pytest

from cmt_memory import CMTMemoryStore, CMTModel
from cmt_memory.errors import InvalidInputError
from cmt_memory.squad import normalise
from tests.tiny import DOCUMENTS, QUESTION, save_tiny, tiny_model

ROOMS = [f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}." for i in range(24)]
ASKED = [f"What is the code of room {i}?" for i in range(24)]
SHORT = {"k": 2, "max_new_tokens": 5}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "store", model) as opened:
        opened.add_documents(DOCUMENTS + ROOMS)
        yield opened


def labelled(store):
    """Questions of which every other one is answered as its label says, and a quarter has no answer."""
    found = []
    for number, question in enumerate(ASKED):
        said = store.ask(question, **SHORT).text
        right = number % 2 and normalise(said)
        found.append({"question": question, "answers": [said] if right else [] if number % 4 else ["never said"]})
    return found


def told(pieces):
    """What a stream yields, and what it returns."""
    seen = []
    while True:
        try:
            seen.append(next(pieces))
        except StopIteration as end:
            return seen, end.value


# -- confidence ----------------------------------------------------------------------------------------------------


def test_without_calibration_it_is_what_the_lm_says(store):
    for mode in ("memory", "text"):
        answer = store.ask(QUESTION, mode=mode, **SHORT)
        context = {"texts": [hit.text for hit in answer.hits]} if mode == "text" else {"memories": answer.hits}
        done = store.generator.generate(QUESTION, **context, max_new_tokens=5)
        assert answer.confidence == pytest.approx(math.exp(done.signals["least"]), abs=1e-5)
        assert (answer.mode, answer.answerable, answer.usage.passes) == (mode, None, 1)
    assert store.calibration is None


def test_an_answer_without_a_hit_has_none(store):
    assert store.ask(QUESTION, mode="none", **SHORT).confidence is None
    alone = store.ask(QUESTION, min_score=1.1, fallback=1.0, **SHORT)
    assert (alone.confidence, alone.answerable, alone.grounded, alone.mode) == (None, None, False, "memory")
    assert alone.usage.passes == 1  # there is no text to read


# -- fallback ------------------------------------------------------------------------------------------------------


def test_a_doubted_answer_is_read_from_the_text_of_the_same_hits(store):
    memory, text = (store.ask(QUESTION, mode=mode, **SHORT) for mode in ("memory", "text"))
    answer = store.ask(QUESTION, fallback=1.0, **SHORT)
    assert (answer.text, answer.hits, answer.mode) == (text.text, text.hits, "text")
    assert answer.text != memory.text
    assert answer.confidence == pytest.approx(text.confidence)
    assert answer.usage.prompt_tokens == memory.usage.prompt_tokens + text.usage.prompt_tokens
    assert answer.usage.completion_tokens == memory.usage.completion_tokens + text.usage.completion_tokens
    assert (answer.usage.memory_slots, answer.usage.passes) == (memory.usage.memory_slots, 2)
    timings = answer.timings
    assert timings["search"] + timings["memory"] < timings["first_token"] <= timings["total"]


def test_an_answer_that_is_sure_enough_stands(store):
    memory = store.ask(QUESTION, **SHORT)
    for fallback in (0, memory.confidence):
        answer = store.ask(QUESTION, fallback=fallback, **SHORT)
        assert (answer.text, answer.mode, answer.usage) == (memory.text, "memory", memory.usage)
        assert "memory" not in answer.timings


@pytest.mark.parametrize("fallback", [0.0, 1.0])
def test_every_way_of_asking_decides_alike(store, fallback):
    expected = store.ask(QUESTION, fallback=fallback, **SHORT)
    seen, streamed = told(store.stream(QUESTION, fallback=fallback, **SHORT))

    async def use():
        pieces = [piece async for piece in store.astream(QUESTION, fallback=fallback, **SHORT)]
        return pieces, await store.aask(QUESTION, fallback=fallback, **SHORT)

    pieces, answer = asyncio.run(use())
    assert "".join(seen) == "".join(pieces) == expected.text
    for other in (streamed, answer):
        assert (other.text, other.hits, other.usage, other.mode) == (
            expected.text,
            expected.hits,
            expected.usage,
            expected.mode,
        )
        assert other.confidence == pytest.approx(expected.confidence, abs=1e-5)
        assert other.timings.keys() == expected.timings.keys()


def test_a_stream_holds_back_what_may_not_stand(store):
    """Of the answer that is dropped nothing is seen, and it can be stopped while it is held back."""
    memory = store.ask(QUESTION, k=2, max_new_tokens=40)
    seen, _ = told(store.stream(QUESTION, k=2, max_new_tokens=40, fallback=0.0))
    assert [piece for piece in seen if piece] == [memory.text]
    pieces = store.stream(QUESTION, k=2, max_new_tokens=400, fallback=1.0)
    assert next(pieces) == ""
    assert [thread for thread in threading.enumerate() if thread.name == "cmt-memory-stream"]
    pieces.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "cmt-memory-stream"]


def test_a_conversation_falls_back_too(store):
    turns = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": QUESTION},
    ]
    expected = store.ask(turns, mode="text", **SHORT)
    assert store.ask(turns, fallback=1.0, **SHORT).text == expected.text


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"fallback": -0.1}, "from 0 to 1"),
        ({"fallback": 1.5}, "from 0 to 1"),
        ({"fallback": True}, "from 0 to 1"),
        ({"fallback": "0.5"}, "from 0 to 1"),
        ({"fallback": math.nan}, "from 0 to 1"),
        ({"fallback": 0.5, "mode": "text"}, "mode="),
        ({"fallback": 0.5, "mode": "none"}, "mode="),
    ],
)
def test_a_fallback_that_means_nothing_is_refused_at_once(store, passes, arguments, said):
    for ask in (store.ask, store.stream):
        with pytest.raises(InvalidInputError, match=said):
            ask(QUESTION, **arguments)
    with pytest.raises(InvalidInputError, match=said):
        asyncio.run(store.aask(QUESTION, **arguments))
    assert passes == []


def test_without_text_there_is_nothing_to_fall_back_to(model, tmp_path, passes):
    with CMTMemoryStore(tmp_path / "s", model, keep_text=False) as store:
        store.add_documents(DOCUMENTS)
        passes.clear()
        for ask in (store.ask, store.stream):
            with pytest.raises(InvalidInputError, match="keep_text=False"):
                ask(QUESTION, fallback=0.5)
        assert passes == []
        assert 0 < store.ask(QUESTION, **SHORT).confidence <= 1


# -- calibration ---------------------------------------------------------------------------------------------------


def test_what_is_calibrated_is_kept_and_used(store, model):
    questions = labelled(store)
    made = store.calibrate(questions, **SHORT, budget=0.25)
    assert made == store.calibration
    assert made.memory.questions == len(questions)
    assert made.memory.true == sum(bool(q["answers"]) and q["answers"] != ["never said"] for q in questions) / 24
    assert made.answerable.true == sum(bool(q["answers"]) for q in questions) / 24
    answers = [store.ask(question["question"], **SHORT) for question in questions]
    assert all(0 < answer.confidence < 1 and 0 < answer.answerable < 1 for answer in answers)
    assert sum(answer.confidence for answer in answers) / 24 == pytest.approx(made.memory.true, abs=0.02)
    assert store.ask(ASKED[0], mode="text", **SHORT).confidence is not None
    store.close()
    for read_only in (False, True):
        with CMTMemoryStore(store.path, model, read_only=read_only) as again:
            assert again.calibration == made
            assert again.ask(ASKED[0], **SHORT).confidence == pytest.approx(answers[0].confidence, abs=1e-4)


def test_the_budget_is_spent_where_there_may_be_an_answer(store):
    """`Calibration.fallback` keeps to the budget, and what most likely has no answer is never read."""
    questions = [
        *labelled(store),
        *({"question": f"Who wrote book {n} of {n + 3}?", "answers": []} for n in range(16)),
    ]
    made = store.calibrate(questions, **SHORT, budget=0.2)
    for fallback, most in ((made.fallback, 0.35), (1.0, 1.0)):  # the threshold is of fits that had not seen them
        answers = [store.ask(question["question"], fallback=fallback, **SHORT) for question in questions]
        read = [answer for answer in answers if answer.usage.passes == 2]
        assert 0 < len(read) <= most * len(questions)
        assert all(answer.answerable >= 0.5 for answer in read)
    assert any(answer.answerable < 0.5 for answer in answers)


def test_it_ends_with_its_model(store):
    store.calibrate(labelled(store), **SHORT)
    store.recompress(tiny_model("llama", "chat", ratio=8, latent=16))
    assert store.calibration is None
    assert store.ask(QUESTION, **SHORT).answerable is None


def test_a_store_without_text_is_calibrated_without_it(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, keep_text=False) as store:
        store.add_documents(ROOMS)
        made = store.calibrate(labelled(store), **SHORT)
        assert made.text is made.recovered is None
        assert set(made.memory.logistic.weights) <= {"mean", "least", "first", "score"}


def test_a_model_brings_its_calibration_to_every_store(store, tmp_path):
    made = store.calibrate(labelled(store), **SHORT)
    save_tiny(tmp_path / "lm", "llama", "chat")
    model = CMTModel.from_llm(str(tmp_path / "lm"), ratio=4, latent=32)
    fingerprint = model.fingerprint
    brought = made.model_copy(update={"fingerprint": fingerprint})
    model.calibrations = [brought]
    model.save_pretrained(tmp_path / "saved")
    with CMTMemoryStore(tmp_path / "other", str(tmp_path / "saved")) as other:
        assert other.calibration == brought
        other.add_documents(ROOMS)
        own = other.calibrate(labelled(other), **SHORT)
        assert other.calibration == own != brought
    with CMTMemoryStore(tmp_path / "words", str(tmp_path / "saved"), encoder=None) as other:
        assert other.calibration is None  # its scores mean something else


@pytest.mark.parametrize(
    ("questions", "said"),
    [
        ([], "one at least"),
        ("What?", "one at least"),
        ({"question": "What?", "answers": []}, "one at least"),
        ([{"question": " ", "answers": []}], "question 0: 'question'"),
        ([{"question": "What?", "answers": []}, "What?"], "question 1: 'question'"),
        ([{"question": "What?"}], "question 0: 'answers'"),
        ([{"question": "What?", "answers": "4471"}], "question 0: 'answers'"),
        ([{"question": "What?", "answers": [""]}], "question 0: 'answers'"),
        ([{"question": "What?", "answers": [4471]}], "question 0: 'answers'"),
    ],
)
def test_questions_without_labels_are_refused_before_any_is_asked(store, passes, questions, said):
    passes.clear()
    with pytest.raises(InvalidInputError, match=said):
        store.calibrate(questions)
    assert passes == []


def test_what_cannot_be_learned_from_leaves_what_was_there(store, model, tmp_path):
    made = store.calibrate(labelled(store), **SHORT)
    never = [{"question": question, "answers": ["never said"]} for question in ASKED]
    for arguments, said in (
        ((never,), "0 of 24 answers"),
        ((never, {"budget": 1.5}), "budget is 1.5"),
        ((never, {"k": 0}), "k is 0"),
        ((never, {"max_new_tokens": 0}), "max_new_tokens"),
    ):
        with pytest.raises(InvalidInputError, match=said):
            store.calibrate(arguments[0], **(SHORT | (arguments[1] if len(arguments) > 1 else {})))
    assert store.calibration == made
    with (
        CMTMemoryStore(store.path, model, read_only=True) as reader,
        pytest.raises(InvalidInputError, match="read_only"),
    ):
        reader.calibrate(never)
    with CMTMemoryStore(tmp_path / "empty", model) as empty, pytest.raises(InvalidInputError, match="no documents"):
        empty.calibrate(never)


def test_the_twin_calibrates_alike(store):
    questions = labelled(store)
    assert asyncio.run(store.acalibrate(questions, **SHORT)) == store.calibrate(questions, **SHORT)
