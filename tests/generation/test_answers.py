"""How an LM writes an answer: what training teaches and what generation reads must be the same."""

from __future__ import annotations

import pytest

from cmt_memory import CMTModel
from cmt_memory.generation.prompts import answer_format, question_prompt
from tests.tiny import tiny_model, tokenizer


@pytest.mark.parametrize("kind", ["plain", "merged", "spaced", "chat", "no-bos"])
def test_prompt_and_answer_are_what_the_tokenizer_makes_of_the_whole(kind):
    lm = tiny_model("llama", kind).lm
    ids = answer_format(lm).encode(lm, " 4471 ")
    text = lm.tokenizer.decode([*question_prompt(lm, "Code?", None).question_ids, *ids])
    if kind == "chat":
        whole = tokenizer(kind).apply_chat_template(
            [{"role": "user", "content": "Code?"}, {"role": "assistant", "content": "4471"}], tokenize=False
        )
        assert whole.endswith(text)
        assert ids[-1] == lm.tokenizer.eos_token_id
    else:
        if kind == "spaced":  # which puts a space before each segment, and so before tail and end
            text = text.replace(" \n", "\n").removeprefix(" ")
        assert text == "Question: Code?\nAnswer: 4471\n"


def test_a_template_that_ends_a_turn_with_more_than_its_end_is_cut_there():
    model = tiny_model("llama", "chat")
    tokenizer = model.lm.tokenizer
    template = tokenizer.chat_template
    try:
        tokenizer.chat_template = template.replace("{{ m.content }}</s>", "{{ m.content }}</s>{{ '\\n' }}", 1)
        assert tokenizer.chat_template != template
        ids = answer_format(model.lm).encode(model.lm, "4471")
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids) == "4471</s>"
    finally:
        tokenizer.chat_template = template


def test_the_bundled_lm_is_taught_the_answers_it_writes():
    lm = CMTModel.from_llm("cmt-tiny", ratio=1).lm
    assert answer_format(lm).encode(lm, "4471") == [*lm.tokenizer.encode("4471"), lm.tokenizer.eos_token_id]
