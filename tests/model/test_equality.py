"""Ratio 1 against the text prompt: the same tokens, in every architecture and every way of decoding."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from cmt_memory import CMTGenerator
from cmt_memory.model import KVPrefix, Memory
from tests.tiny import DOCUMENTS, FAMILIES, QUESTION, tiny_lm, tiny_model, tokenizer

TOKENS = 24


def continuation(generator: CMTGenerator, **given: object) -> str:
    return generator.generate(QUESTION, max_new_tokens=TOKENS, stop=(), **given).text


def text_logits(model, texts, question=QUESTION):
    from cmt_memory.generation.prompts import question_prompt

    ids = question_prompt(model.lm, question, ()).with_documents(model.lm, texts)
    with torch.no_grad():
        return model.lm.model(torch.tensor([ids])).logits[0, -1]


def memory_logits(model, prefix: KVPrefix, question=QUESTION, shift: int = 0):
    from cmt_memory.generation.prompts import question_prompt

    ids = torch.tensor([question_prompt(model.lm, question, ()).question_ids])
    mask = torch.cat([prefix.mask, torch.ones_like(ids)], dim=1)
    inputs = {}
    if model.lm.takes_positions:
        inputs["position_ids"] = prefix.starts[:, None] + torch.arange(ids.shape[1])[None] + shift
    with torch.no_grad():
        cache = prefix.to_cache(model.lm)
        return model.lm.model(ids, attention_mask=mask, past_key_values=cache, **inputs).logits[0, -1]


def swap_keys(model, memory: Memory, one: int, other: int) -> Memory:
    """Exchange two slots' keys but not their values: where positions are in the states, order alone is nothing."""
    slots = memory.slots.clone()
    for layer in model.lm.layout.layers:
        start = model.lm.layout.offsets[layer.index]
        columns = slice(start, start + layer.kv_heads * layer.key_dim)
        slots[[one, other], columns] = slots[[other, one], columns]
    return replace(memory, slots=slots)


@pytest.fixture(scope="module", params=FAMILIES)
def model(request):
    return tiny_model(request.param, ratio=1)


def test_controls_change_the_output(model):
    """Before any equality counts: no memory, a shifted one, or two swapped slots give other logits."""
    [memory] = model.compress(DOCUMENTS[:1])
    right = memory_logits(model, model.prefix([[memory]]))
    wrong = {
        "none": memory_logits(model, model.prefix([[]])),
        "swapped": memory_logits(model, model.prefix([[swap_keys(model, memory, -3, -9)]])),
    }
    if model.lm.scheme == "rotary":
        shifted = replace(memory, positions=memory.positions + 1)
        wrong["shifted"] = memory_logits(model, model.prefix([[shifted]]))
    elif model.lm.scheme == "learned":
        wrong["shifted"] = memory_logits(model, model.prefix([[memory]]), shift=1)
    for name, logits in wrong.items():
        assert (logits - right).abs().max() > 1e-3, name


def test_same_logits_as_the_text_prompt(model):
    prefix = model.prefix([model.compress(DOCUMENTS[:1])])
    torch.testing.assert_close(memory_logits(model, prefix), text_logits(model, DOCUMENTS[:1]), atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize(
    "decoding",
    [{}, {"num_beams": 3}, {"temperature": 0.9, "top_p": 0.9, "seed": 5}],
    ids=["greedy", "beam", "sampled"],
)
def test_same_tokens_as_the_text_prompt(model, decoding):
    generator = CMTGenerator(model)
    memories = model.compress(DOCUMENTS[:1])
    answer = continuation(generator, memories=memories, **decoding)
    assert answer == continuation(generator, texts=DOCUMENTS[:1], **decoding)
    assert answer != continuation(generator, **decoding)


def test_streamed_pieces_are_the_answer(model):
    generator = CMTGenerator(model)
    memories = model.compress(DOCUMENTS[:1])
    pieces = list(generator.stream(QUESTION, memories, max_new_tokens=TOKENS, stop=()))
    assert len(pieces) > 1
    assert "".join(pieces) == continuation(generator, texts=DOCUMENTS[:1])


def test_unequal_batch_is_the_single_answers(model):
    generator = CMTGenerator(model)
    memories = model.compress(DOCUMENTS)
    questions = [QUESTION, "When?", "Who keeps the red locker, and since when does she keep it?", QUESTION]
    given = [memories[:1], memories[1:2], [memories[2], memories[0]], []]
    together = generator.batch(questions, given, max_new_tokens=TOKENS, stop=())
    alone = [generator.generate(q, m, max_new_tokens=TOKENS, stop=()) for q, m in zip(questions, given, strict=True)]
    assert [c.text for c in together] == [c.text for c in alone]
    assert [c.usage for c in together] == [c.usage for c in alone]


def test_prefix_is_unchanged_by_generation(model):
    generator = CMTGenerator(model)
    memories = model.compress(DOCUMENTS[:2])
    first = continuation(generator, memories=memories)
    prefix = next(iter(generator.prefixes._entries.values()))
    before = [tensor.clone() for pair in prefix.layers for tensor in pair]
    assert continuation(generator, memories=memories) == first
    assert continuation(generator, memories=memories, num_beams=2)
    assert generator.prefixes.hits == 2
    after = [tensor for pair in prefix.layers for tensor in pair]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_documents_are_placed_one_after_the_other(model):
    """Each document's keys stand where its text would stand, whatever comes before it."""
    first, second = model.compress(DOCUMENTS[:2])
    n_head = len(model.lm.prompt.head_ids)
    both = model.prefix([[first, second]])
    again = model.prefix([[second, first]])
    assert len(both) == n_head + first.n_tokens + second.n_tokens
    if model.lm.scheme == "learned":
        assert int(both.starts) == n_head + max(first.n_tokens, second.n_tokens)
    else:
        assert int(both.starts) == n_head + first.n_tokens + second.n_tokens
    for (k_one, v_one), (k_two, v_two) in zip(both.layers, again.layers, strict=True):
        split_one, split_two = n_head + first.n_tokens, n_head + second.n_tokens
        torch.testing.assert_close(v_one[:, :, n_head:split_one], v_two[:, :, split_two:])
        torch.testing.assert_close(v_one[:, :, split_one:], v_two[:, :, n_head:split_two])
        if model.lm.scheme != "rotary":
            torch.testing.assert_close(k_one[:, :, split_one:], k_two[:, :, n_head:split_two])
    if model.lm.scheme == "rotary":
        blank = Memory(second.slots[:0], second.positions[:0], second.n_tokens)
        alone = model.prefix([[blank, first]])
        for (moved, _), (expected, _) in zip(again.layers, alone.layers, strict=True):
            torch.testing.assert_close(moved[:, :, split_two:], expected[:, :, n_head:], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["merged", "spaced", "chat", "no-bos"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_any_tokenizer(family, kind):
    model = tiny_model(family, kind, ratio=1)
    assert len(model.lm.prompt.head_ids) >= 1
    generator = CMTGenerator(model)
    for document in (DOCUMENTS[0], "Ends in two dots..", "  Begins with spaces"):
        memories = model.compress([document])
        assert continuation(generator, memories=memories) == continuation(generator, texts=[document])


def test_the_merged_tokenizer_would_merge_across_the_seam():
    """The case that tokenising apart is for exists: the whole prompt at once has other tokens."""
    merged = tokenizer("merged")
    assert merged.encode("closed.\n\nWho", add_special_tokens=False) != [
        *merged.encode("closed", add_special_tokens=False),
        *merged.encode(".", add_special_tokens=False),
        *merged.encode("\n\n", add_special_tokens=False),
        *merged.encode("Who", add_special_tokens=False),
    ]


def test_settings_of_the_lms_authors_do_not_leak_in():
    """A repetition penalty would look at the prompt, where the memory's text is not."""
    lm = tiny_lm("llama")
    lm.generation_config.update(repetition_penalty=1.8, no_repeat_ngram_size=2, do_sample=True, temperature=0.5)
    from cmt_memory import CMTModel

    model = CMTModel.from_llm(lm, tokenizer=tokenizer())
    generator = CMTGenerator(model)
    memories = model.compress(DOCUMENTS[:1])
    answer = continuation(generator, memories=memories)
    assert answer == continuation(generator, texts=DOCUMENTS[:1])
    plain = CMTModel.from_llm(tiny_lm("llama"), tokenizer=tokenizer())
    assert answer == continuation(CMTGenerator(plain), memories=memories)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_agrees_within_prefill_noise(dtype):
    """Against a text prompt read in one piece, no farther off than the same text read in two pieces."""
    from cmt_memory import CMTModel
    from cmt_memory.generation.prompts import question_prompt

    model = CMTModel.from_llm(tiny_lm("qwen3").to(dtype), tokenizer=tokenizer())
    lm = model.lm.model
    prefix = model.prefix([model.compress(DOCUMENTS[:1])])
    ours = memory_logits(model, prefix).float()
    whole = text_logits(model, DOCUMENTS[:1]).float()
    prompt = question_prompt(model.lm, QUESTION, ())
    ids = prompt.with_documents(model.lm, DOCUMENTS[:1])
    cut = len(ids) - len(prompt.question_ids)
    with torch.no_grad():
        first = lm(torch.tensor([ids[:cut]]), use_cache=True)
        pieces = lm(torch.tensor([ids[cut:]]), past_key_values=first.past_key_values).logits[0, -1].float()
    assert (ours - whole).abs().max() <= 2 * (pieces - whole).abs().max() + 1e-2
