"""CMTModel: settings, hybrids refused, saving and loading, fitting, fingerprints."""

from __future__ import annotations

import json
from typing import get_args

import peft
import pytest
import torch

from cmt_memory import CMTGenerator, CMTModel
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError, UnsupportedModelError
from cmt_memory.model.agreement import next_token_agreement
from cmt_memory.model.config import Untrained
from cmt_memory.model.parts import COMPRESSORS
from tests.tiny import DOCUMENTS, HYBRIDS, QUESTION, save_tiny, tiny_lm, tiny_model, tokenizer

LONG = " ".join(DOCUMENTS * 4)


@pytest.mark.parametrize(
    ("family", "scheme"),
    [("llama", "rotary"), ("smollm3", "rotary"), ("gpt-neox", "rotary"), ("gpt2", "learned"), ("opt", "learned"),
     ("bloom", "alibi")],
)  # fmt: skip
def test_position_scheme_is_read_from_the_model(family, scheme):
    assert tiny_model(family).lm.scheme == scheme


@pytest.mark.parametrize("family", HYBRIDS)
def test_models_without_keys_and_values_are_refused(family):
    with pytest.raises(UnsupportedModelError, match=r"hybrid or linear-attention|keeps? no keys and values") as caught:
        CMTModel.from_llm(tiny_lm(family), tokenizer=tokenizer())
    assert "Error:" not in str(caught.value)


@pytest.mark.parametrize(
    ("family", "scheme"),
    [("stablelm", "rotary"), ("gptj", "learned"), ("gpt-neo", "learned"), ("llama4", "learned"),
     ("deepseek-v3", "learned")],
)  # fmt: skip
def test_other_families_are_exact_too(family, scheme):
    """Partly rotated heads, rotation in a way not known here, local attention, chunks, a latent in the cache."""
    model = tiny_model(family, ratio=1)
    assert model.lm.scheme == scheme
    generator = CMTGenerator(model)
    memories = model.compress(DOCUMENTS)
    asked = {"max_new_tokens": 16, "stop": ()}
    answer = generator.generate(QUESTION, memories[:1], **asked).text
    assert answer == generator.generate(QUESTION, texts=DOCUMENTS[:1], **asked).text
    assert answer != generator.generate(QUESTION, **asked).text
    questions, given = [QUESTION, "When?", QUESTION], [memories[:1], memories[1:2], []]
    together = generator.batch(questions, given, **asked)
    alone = [generator.generate(q, m, **asked).text for q, m in zip(questions, given, strict=True)]
    assert [completion.text for completion in together] == alone
    compressed = tiny_model(family, ratio=4, latent=16)
    assert CMTGenerator(compressed).generate(QUESTION, compressed.compress(DOCUMENTS), max_new_tokens=2).usage


def test_an_unknown_rotation_is_said(caplog):
    assert tiny_model("llama4").lm.scheme == "learned"
    assert "several documents stand at the same positions" in caplog.text


def test_models_that_answer_differently_from_a_prefix_are_refused():
    """MPT reads its whole input again at every step once it is given a cache."""
    with pytest.raises(UnsupportedModelError, match="wrong answers"):
        tiny_model("mpt")


def test_an_lm_that_would_say_nothing_more_is_no_other_model():
    lm = tiny_lm("llama")
    lm.generation_config.eos_token_id = int(lm(input_ids=torch.arange(10)[None]).logits[0, -1].argmax())
    assert CMTModel.from_llm(lm, tokenizer=tokenizer()).config.lm == ""


def test_encoder_decoders_are_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=512, d_model=16, d_ff=16, num_layers=1, num_heads=2, d_kv=8)
    with pytest.raises(UnsupportedModelError, match="encoder-decoder"):
        CMTModel.from_llm(T5ForConditionalGeneration(config), tokenizer=tokenizer())


def test_compressors_are_named_where_they_are_made_and_where_they_are_checked():
    assert set(COMPRESSORS) == set(get_args(Untrained))


@pytest.mark.parametrize("ratio", [1, 2, 4, 7, 16])
@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("latent", ["full", 24])
def test_slots_are_as_many_as_the_ratio_says(ratio, compressor, latent):
    model = tiny_model(ratio=ratio, compressor=compressor, latent=latent)
    short, long = model.compress([DOCUMENTS[2], LONG])
    for memory in (short, long):
        k = -(-memory.n_tokens // ratio)
        assert memory.slots.shape == (k, model.slot_width)
        assert memory.positions.shape == (k,)
        assert (memory.positions.diff() > 0).all()
        assert memory.positions[0] >= 0
        assert memory.positions[-1] <= memory.n_tokens - 1
    usage = CMTGenerator(model).generate(QUESTION, [short, long], max_new_tokens=4).usage
    assert usage.memory_slots == len(short.slots) + len(long.slots)


@pytest.mark.parametrize("compressor", COMPRESSORS)
@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "gemma3"])
def test_batches_do_not_change_memories(family, compressor):
    model = tiny_model(family, ratio=3, compressor=compressor, latent="full")
    together = model.compress(DOCUMENTS)
    for text, memory in zip(DOCUMENTS, together, strict=True):
        [alone] = model.compress([text])
        torch.testing.assert_close(memory.slots, alone.slots, atol=1e-4, rtol=1e-4)
        assert torch.equal(memory.positions, alone.positions)


def test_a_full_latent_loses_nothing():
    """With as many dimensions as a slot has, the PCA's way there and back is the identity."""
    model = tiny_model(ratio=1)
    full = tiny_model(ratio=1, latent=model.slot_width)
    [exact], [latent] = model.compress([LONG]), full.compress([LONG])
    restored = full.compressor.projection.up(latent.slots)
    torch.testing.assert_close(restored, exact.slots.float(), atol=1e-3 * float(exact.slots.abs().max()), rtol=0)


def test_a_full_latent_agrees_with_the_full_keys_and_values():
    model = tiny_model(ratio=1, latent=8)
    texts = [LONG, " ".join(reversed(LONG.split()))]
    poor = next_token_agreement(model, texts, context=64, continuation=24)
    assert poor.tokens == 2 * 23
    exact = next_token_agreement(model.exact(), texts, context=64, continuation=24)
    assert exact.agreement == 1
    assert exact.kl == pytest.approx(0, abs=1e-6)
    assert exact.share == pytest.approx(1, abs=1e-4)
    assert poor.agreement < 1
    assert poor.kl > 0.01


def test_pca_keeps_the_directions_that_vary():
    from cmt_memory.model.latent import fit_projection

    generator = torch.Generator().manual_seed(3)
    basis = torch.randn(4, 40, generator=generator)
    rows = torch.randn(300, 4, generator=generator) @ basis + 5
    projection = fit_projection(rows.clone(), 4, [10, 10, 10, 10])
    latent = projection.down(rows)
    torch.testing.assert_close(projection.up(latent), rows, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(latent.std(0), torch.ones(4), atol=0.02, rtol=0)
    again = fit_projection(rows.clone(), 4, [10, 10, 10, 10])
    assert torch.equal(again.encoder, projection.encoder)


def test_fit_on_own_documents_and_refusal_once_memories_exist():
    model = tiny_model(ratio=2, latent=16)
    before = model.fingerprint
    report = model.fit([LONG * 2] * 9 + [" ".join(reversed(LONG.split()))])
    assert model.fingerprint["compressor"] != before["compressor"]
    assert 0.3 < report.variance <= 1
    assert report.agreement.tokens == 31
    assert 0 <= report.agreement.agreement <= 1
    assert report.agreement.kl > 0
    model.compress(DOCUMENTS)
    with pytest.raises(InvalidInputError, match="memories already"):
        model.fit([LONG])
    with pytest.raises(InvalidInputError, match="nothing to fit"):
        tiny_model(ratio=1).fit([LONG])


@pytest.mark.parametrize(
    "wrong",
    [{"ratio": 0}, {"ratio": 2.0}, {"ratio": True}, {"ratio": 1000}, {"latent": 0}, {"latent": "half"},
     {"compressor": "zip"}],
)  # fmt: skip
def test_wrong_settings_name_the_value(wrong):
    with pytest.raises(InvalidInputError, match=str(next(iter(wrong.values())))):
        tiny_model(**wrong)


def test_wrong_calls_are_refused():
    lm = tiny_lm("llama")
    with pytest.raises(InvalidInputError, match="tokenizer"):
        CMTModel.from_llm(lm)
    with pytest.raises(InvalidInputError, match="loaded model"):
        CMTModel.from_llm(lm, tokenizer=tokenizer(), dtype="bfloat16")
    model = tiny_model()
    for texts in ("one string", [""], [3]):
        with pytest.raises(InvalidInputError):
            model.compress(texts)
    with pytest.raises(InvalidInputError, match="512"):
        model.compress([LONG * 20])


@pytest.mark.parametrize("include_lm", [True, False])
def test_save_and_load(tmp_path, include_lm):
    save_tiny(tmp_path / "lm", "qwen3", "chat")
    model = CMTModel.from_llm(str(tmp_path / "lm"), ratio=4, latent=24)
    model.save_pretrained(tmp_path / "cmt", include_lm=include_lm)
    names = {path.name for path in (tmp_path / "cmt").rglob("*") if path.is_file()}
    assert {"config.json", "cmt.safetensors"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    assert ((tmp_path / "cmt" / "lm").exists()) == include_lm
    loaded = CMTModel.from_pretrained(tmp_path / "cmt")
    assert loaded.fingerprint == model.fingerprint
    [before], [after] = model.compress([LONG]), loaded.compress([LONG])
    assert torch.equal(before.slots, after.slots)
    assert CMTModel.from_pretrained(tmp_path / "cmt", ratio=8).config.ratio == 8


def test_a_latent_saved_in_half_the_bytes(tmp_path):
    save_tiny(tmp_path / "lm")
    model = CMTModel.from_llm(str(tmp_path / "lm"), ratio=1, latent=24)
    model.save_pretrained(tmp_path / "cmt", dtype=torch.bfloat16)
    loaded = CMTModel.from_pretrained(tmp_path / "cmt")
    [before], [after] = model.compress([LONG]), loaded.compress([LONG])
    assert after.slots.dtype == torch.float32
    assert torch.cosine_similarity(before.slots, after.slots, dim=-1).min() > 0.99


def test_loading_with_another_lm_is_refused(tmp_path):
    save_tiny(tmp_path / "lm")
    CMTModel.from_llm(str(tmp_path / "lm"), ratio=2).save_pretrained(tmp_path / "cmt")
    with pytest.raises(FingerprintMismatchError, match="another lm"):
        CMTModel.from_pretrained(tmp_path / "cmt", llm=tiny_lm("llama-mqa"), tokenizer=tokenizer())
    with pytest.raises(InvalidInputError, match="from_llm"):
        CMTModel.from_pretrained(tmp_path / "lm")
    config = tmp_path / "cmt" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"ratioo": 3}))
    with pytest.raises(InvalidInputError, match="ratioo"):
        CMTModel.from_pretrained(tmp_path / "cmt")
    with pytest.raises(InvalidInputError, match=r"config\.json"):
        CMTModel.from_pretrained(tmp_path / "nothing")


def test_fingerprint_follows_the_weights_not_the_dtype(tmp_path):
    save_tiny(tmp_path / "lm")
    full = CMTModel.from_llm(str(tmp_path / "lm"))
    half = CMTModel.from_llm(str(tmp_path / "lm"), dtype="bfloat16")
    assert full.fingerprint == half.fingerprint
    loaded = CMTModel.from_llm(full.lm.model, tokenizer=tokenizer())
    assert loaded.fingerprint == full.fingerprint
    with torch.no_grad():
        for parameter in full.lm.model.parameters():
            parameter.mul_(1.01)
    changed = CMTModel.from_llm(full.lm.model, tokenizer=tokenizer())
    assert changed.fingerprint["lm"] != full.fingerprint["lm"]
    assert CMTModel.from_llm(tiny_lm("llama"), tokenizer=tokenizer("chat")).fingerprint != full.fingerprint


def test_a_broken_or_unwritable_latent_cache_is_no_obstacle(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("CMT_CACHE", str(tmp_path))
    before = tiny_model(ratio=4, latent=16).fingerprint
    [file] = tmp_path.rglob("*.safetensors")
    for broken in (b"", file.read_bytes()[:100], b"x" * 500):
        file.write_bytes(broken)
        assert tiny_model(ratio=4, latent=16).fingerprint == before
    assert "fitting it again" in caplog.text
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("CMT_CACHE", str(tmp_path / "file"))
    assert tiny_model(ratio=4, latent=16).fingerprint == before
    assert "not cached" in caplog.text


def test_what_is_no_language_model_is_said():
    for wrong in (None, 3, torch.nn.Linear(2, 2)):
        with pytest.raises(InvalidInputError, match="hub id, a folder or a loaded model"):
            CMTModel.from_llm(wrong, tokenizer=tokenizer())
    with pytest.raises(InvalidInputError, match="cannot be loaded"):
        CMTModel.from_llm("/no/such/folder")
    with pytest.raises(InvalidInputError, match="do not belong together"):
        CMTModel.from_llm(tiny_lm("llama", vocabulary=64), tokenizer=tokenizer())


def test_memories_of_another_width_are_refused():
    memories = tiny_model(ratio=4, latent=16).compress(DOCUMENTS)
    with pytest.raises(InvalidInputError, match="another model"):
        CMTGenerator(tiny_model(ratio=4, latent=8)).generate(QUESTION, memories)


def test_a_peft_model_is_the_lm_inside_it():
    lm = peft.get_peft_model(tiny_lm("llama"), peft.LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
    generator = CMTGenerator(CMTModel.from_llm(lm, tokenizer=tokenizer()))
    memories = generator.model.compress(DOCUMENTS[:1])
    answer = generator.generate(QUESTION, memories, max_new_tokens=12).text
    assert answer == generator.generate(QUESTION, texts=DOCUMENTS[:1], max_new_tokens=12).text


@pytest.mark.parametrize(
    ("family", "rope"),
    [
        ("llama", {"rope_type": "yarn", "factor": 4.0}),
        ("llama", {"rope_type": "linear", "factor": 2.0}),
        ("llama", {"rope_type": "dynamic", "factor": 2.0}),
        ("phi3", {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0] * 4}),
    ],
    ids=lambda value: value if isinstance(value, str) else value["rope_type"],
)
def test_scaled_rotary_tables_are_exact(family, rope):
    """Where the table changes for long inputs, memories stay below the change."""
    original = {"original_max_position_embeddings": 96} if family == "phi3" else {}
    model = CMTModel.from_llm(
        tiny_lm(family, rope_parameters={"rope_theta": 10000.0, **rope}, **original), tokenizer=tokenizer()
    )
    generator = CMTGenerator(model)
    for document in (DOCUMENTS[0], LONG[:110]):
        memories = model.compress([document])
        answer = generator.generate(QUESTION, memories, max_new_tokens=12, stop=())
        assert answer.text == generator.generate(QUESTION, texts=[document], max_new_tokens=12, stop=()).text
        assert answer.usage.memory_slots == memories[0].n_tokens
    if original:
        assert model.lm.max_positions == 96
        with pytest.raises(InvalidInputError, match="96"):
            model.compress([LONG])


def test_the_lm_is_left_as_it_was():
    """Capturing wraps a function of the modelling module only while it runs."""
    from transformers.models.llama import modeling_llama

    before = modeling_llama.apply_rotary_pos_emb
    lm = tiny_lm("llama")
    weights = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    model = CMTModel.from_llm(lm, tokenizer=tokenizer(), ratio=4)
    CMTGenerator(model).generate(QUESTION, model.compress(DOCUMENTS))
    assert modeling_llama.apply_rotary_pos_emb is before
    assert all(torch.equal(tensor, weights[name]) for name, tensor in lm.state_dict().items())
