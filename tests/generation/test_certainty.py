"""What decoding says of its own answers: the log-probabilities of the chosen tokens."""

from __future__ import annotations

import pytest
import torch

from cmt_memory import CMTGenerator
from cmt_memory.generation.prompts import question_prompt
from tests.tiny import DOCUMENTS, QUESTION, tiny_model

SAMPLED = {"temperature": 1.3, "top_p": 0.8, "seed": 5}


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", ratio=2, latent="full")


@pytest.fixture
def generator(model):
    return CMTGenerator(model)


@pytest.fixture(scope="module")
def memories(model):
    return model.compress(DOCUMENTS)


def read_again(model, texts, new_tokens, **settings):
    """Log-probabilities of an answer's tokens by one pass over prompt and answer."""
    lm = model.lm
    prompt = question_prompt(lm, QUESTION, ()).with_documents(lm, texts)
    seen = []
    hook = lm.model.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True)
    done = CMTGenerator(model).generate(QUESTION, texts=texts, max_new_tokens=new_tokens, stop=(), **settings)
    hook.remove()
    ids = torch.tensor([prompt + [int(step[0, -1]) for step in seen[1:]]])  # all tokens but the last
    with torch.no_grad():
        logits = lm.model(ids).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
    chosen = [float(logits[place, token]) for place, token in enumerate(ids[0, len(prompt) :])]
    return done, chosen, logits


def completion_of(pieces):
    while True:
        try:
            next(pieces)
        except StopIteration as end:
            return end.value


@pytest.mark.parametrize("settings", [{}, SAMPLED], ids=["greedy", "sampled"])
def test_they_are_what_one_pass_over_the_answer_gives(model, settings):
    done, chosen, logits = read_again(model, DOCUMENTS, 6, **settings)
    if not settings:
        chosen.append(float(logits[-1].max()))
        assert done.signals["least"] == pytest.approx(min(chosen), abs=1e-4)
        assert done.signals["mean"] == pytest.approx(sum(chosen) / len(chosen), abs=1e-4)
    assert done.signals["first"] == pytest.approx(chosen[0], abs=1e-4)
    assert done.signals["least"] <= min(chosen) + 1e-4


def test_they_do_not_depend_on_the_batch_or_the_way(generator, memories):
    """Rows of other lengths, which go on after this one has ended, change nothing."""
    questions = [QUESTION, "Who?", "When does the shop open on Sundays, and who has the red locker?"]
    given = [memories, memories[:1], []]
    plain = generator.generate(QUESTION, memories, max_new_tokens=12)
    stop = plain.text[3:5]
    together = generator.batch(questions, given, max_new_tokens=12, stop=[stop])
    for question, own, done in zip(questions, given, together, strict=True):
        alone = generator.generate(question, own, max_new_tokens=12, stop=[stop])
        assert done.signals == pytest.approx(alone.signals, abs=1e-4)
        pieces = generator.stream(question, own, max_new_tokens=12, stop=[stop])
        assert completion_of(pieces).signals == pytest.approx(alone.signals, abs=1e-5)
    assert together[0].signals["mean"] != pytest.approx(plain.signals["mean"], abs=1e-3)  # it has ended earlier


def test_they_are_the_lms_own_whatever_is_made_of_its_logits(generator, memories):
    """Temperature and contrast change which token is chosen, not how likely the LM found it."""
    plain = generator.generate(QUESTION, memories, max_new_tokens=1, stop=())
    for settings in ({"temperature": 0.01, "seed": 1}, {"alpha": 1e-6}):
        done = generator.generate(QUESTION, memories, max_new_tokens=1, stop=(), **settings)
        assert done.text == plain.text
        assert done.signals == pytest.approx(plain.signals, abs=1e-4)


def test_an_answer_of_nothing_but_its_end_has_them_too(model, memories):
    generator = CMTGenerator(model)
    first = generator.generate(QUESTION, memories, max_new_tokens=1, stop=())
    config = model.lm.model.generation_config
    before = config.eos_token_id
    try:
        config.eos_token_id = list(range(model.lm.model.config.vocab_size))
        ended = generator.generate(QUESTION, memories, max_new_tokens=4, stop=())
    finally:
        config.eos_token_id = before
    assert ended.text == ""
    assert ended.signals == pytest.approx(first.signals, abs=1e-5)


def test_a_beam_search_has_none(generator, memories):
    assert generator.generate(QUESTION, memories, max_new_tokens=4, num_beams=2).signals == {}
