"""The trained compressor: reads both ways, starts from the PCA, saves, loads at any ratio, leaves the LM alone."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cmt_memory import CMTGenerator, CMTMemoryStore, CMTModel
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError, UnsupportedModelError
from cmt_memory.model.adapted import AdaptedCompressor, start_adapted, surprise
from cmt_memory.model.aggregator import ConcatAggregator
from cmt_memory.model.compressor import span_positions
from cmt_memory.model.config import AdapterConfig, CMTConfig
from tests.tiny import DOCUMENTS, QUESTION, save_tiny, tiny_lm, tiny_model, tokenizer

TEXTS = [" ".join(DOCUMENTS * 3), " ".join(reversed(DOCUMENTS * 3))]
BOTH_WAYS = ["llama", "gpt2", "qwen3", "gemma3", "phi3", "opt", "gpt-neox", "smollm3", "mistral"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Folders of two saved LMs with their tokenizer."""
    found = {}
    for family in ("llama", "gpt2"):
        found[family] = tmp_path_factory.mktemp(family)
        save_tiny(found[family], family)
    return found


def adapted(family: str = "llama", *, folder=None, disturb: float = 0.0, ratio: int = 4, **settings) -> CMTModel:
    """An adapted model; `disturb` draws the second half of each adapter, which starts at zero."""
    base = CMTModel.from_llm(folder) if folder else tiny_model(family)
    config = base.config.model_copy(
        update={"ratio": ratio, "latent": 24, "compressor": "adapted", "adapter": AdapterConfig(rank=2, **settings)}
    )
    compressor, aligner = start_adapted(base.lm, config, [2, 4], TEXTS)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in compressor.adapters.items():
            if "lora_B" in key:
                parameter.normal_(0, disturb, generator=generator) if disturb else None
        for weighing in compressor.weighing:
            weighing.normal_(0, disturb / 5, generator=generator) if disturb else None
    return CMTModel(base.lm, config, compressor, ConcatAggregator(), aligner)


@pytest.mark.parametrize("family", [*BOTH_WAYS])
def test_every_token_sees_the_document_and_none_the_padding(family):
    model = adapted(family, disturb=0.2)
    short, long = DOCUMENTS[2], DOCUMENTS[0]
    [alone] = model.compress([short])
    _, padded = model.compress([long, short])
    torch.testing.assert_close(padded.slots, alone.slots, atol=2e-4, rtol=1e-3)
    [other] = model.compress([short[:-2] + "X."])
    assert not torch.allclose(other.slots[0], alone.slots[0], atol=1e-3)


def test_causal_adapters_do_not_look_ahead():
    model = adapted("llama", disturb=0.2, causal=True, weighted=False)
    [one], [other] = model.compress([DOCUMENTS[2]]), model.compress([DOCUMENTS[2][:-2] + "X."])
    torch.testing.assert_close(one.slots[0], other.slots[0])
    assert not torch.allclose(one.slots[-1], other.slots[-1])
    _, padded = model.compress([DOCUMENTS[0], DOCUMENTS[2]])
    torch.testing.assert_close(padded.slots, one.slots, atol=1e-4, rtol=1e-3)


def test_an_lm_that_cannot_read_both_ways_is_refused_and_reads_causally():
    with pytest.raises(UnsupportedModelError, match="causal: true"):
        adapted("bloom")
    model = adapted("bloom", disturb=0.2, causal=True)
    memories = model.compress(DOCUMENTS)
    assert CMTGenerator(model).generate(QUESTION, memories, max_new_tokens=2).usage.memory_slots


def test_untrained_causal_adapters_are_the_pooled_compressor():
    """With adapters that do nothing, all positions alike, and a latent as wide as a slot."""
    model = adapted("llama", causal=True, ratio=3, weighted=False)
    wide = model.config.model_copy(update={"latent": model.lm.layout.width})
    compressor, aligner = start_adapted(model.lm, wide, [3], TEXTS)
    pooled = tiny_model("llama", ratio=3, compressor="pooled", latent="full")
    with torch.no_grad():
        document = [model.lm.encode_document(TEXTS[1])]
        [memory] = compressor.compress(model.lm, document)
        [expected] = pooled.compressor.compress(model.lm, document)
        restored = aligner.projection.up(memory.slots)
    torch.testing.assert_close(restored, expected.slots, atol=2e-2 * float(expected.slots.abs().max()), rtol=0)
    assert torch.equal(memory.positions, expected.positions)


def test_untrained_heads_keep_tokens_as_they_are_and_together_most_of_them():
    model = adapted("llama", causal=True, ratio=4)
    lm, compressor = model.lm, model.compressor
    with torch.no_grad():
        for sharpness in compressor.sharpness:
            sharpness.fill_(1e4)
    ids = lm.encode_document(TEXTS[0])
    whole = CMTModel.from_llm(lm.model, tokenizer=lm.tokenizer, ratio=1, latent="full").compress([TEXTS[0]])[0].slots
    read: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        compressor.read(lm, [ids], lambda part, offset: read.update({offset: part}))
    kept, heads = set(), 0
    for layer in lm.layout.layers:
        offset = lm.layout.offsets[layer.index]
        tokens = whole[:, offset : offset + layer.key_dim * layer.kv_heads].unflatten(-1, (layer.kv_heads, -1))
        slots = read[offset][0, :, : layer.key_dim * layer.kv_heads].unflatten(-1, (layer.kv_heads, -1))
        for head in range(layer.kv_heads):
            away = torch.cdist(slots[:, head], tokens[:, head])
            assert (away.min(1).values < 1e-2).float().mean() > 0.9
            kept |= set(away.argmin(1).tolist())
            heads += 1
    assert len(kept) > 1.5 * len(slots)


def test_importance_starts_as_the_surprise_of_the_lm():
    model = adapted("llama", causal=True, ratio=4)
    ids = model.lm.encode_document(TEXTS[0])
    with torch.no_grad(), model.compressor.recorded() as shares:
        model.compressor.compress(model.lm, [ids])
        expected = surprise(model.lm, ids).sqrt()
        logits = model.lm.model(torch.tensor([[*model.lm.prompt.head_ids, *ids]])).logits[0].float().log_softmax(-1)
    at = len(model.lm.prompt.head_ids) - 1
    assert surprise(model.lm, ids)[3].item() == pytest.approx(-logits[at + 3, ids[3]].item(), abs=1e-4)
    assert float(shares[0].sum()) == pytest.approx(model.compressor.n_slots(len(ids)), rel=1e-4)
    assert torch.corrcoef(torch.stack([shares[0], expected]))[0, 1] > 0.5


def test_slots_go_where_importance_says():
    model = adapted("llama", causal=True, ratio=4)
    compressor, lm = model.compressor, model.lm
    ids = lm.encode_document(TEXTS[0])
    with torch.no_grad():
        compressor.importance[0].zero_()
        (even,) = compressor.compress(lm, [ids])
        torch.testing.assert_close(even.positions, span_positions(len(ids), len(ids) / len(even.slots)))
        compressor.start_importance(lm, [ids])
        (uneven,) = compressor.compress(lm, [ids])
    assert not torch.allclose(uneven.positions, even.positions, atol=0.2)
    assert uneven.positions.diff().min() >= 0
    assert uneven.positions.max() <= len(ids) - 1


def test_picking_can_be_left_out():
    plain, weighing = adapted(weighted=False), adapted()
    assert not [name for name, _ in plain.compressor.named_parameters() if name.startswith(plain.compressor.precise)]
    for parameter in (
        weighing.compressor.weighing[1],
        weighing.compressor.places[0],
        weighing.compressor.importance[0],
    ):
        before = weighing.compress(DOCUMENTS)[0].slots
        with torch.no_grad():
            parameter.normal_()
        assert not torch.allclose(weighing.compress(DOCUMENTS)[0].slots, before)


def test_gradients_reach_adapters_and_maps_and_nothing_else():
    model = adapted(disturb=0.1)
    model.lm.model.requires_grad_(False)
    for part in (model.compressor, model.aligner):
        part.requires_grad_(True)
    memories = model.compressor.compress(model.lm, [model.lm.encode_document(text) for text in DOCUMENTS])
    pairs = model.aligner.align(model.lm, torch.cat([memory.slots for memory in memories])[None])
    sum(keys.square().sum() + values.square().sum() for keys, values in pairs).backward()
    for part in (model.compressor, model.aligner):
        for name, parameter in part.named_parameters():
            assert parameter.grad is not None, name
            assert parameter.grad.abs().max() > 0, name
    assert all(parameter.grad is None for parameter in model.lm.model.parameters())
    with torch.no_grad():
        assert not model.compress(DOCUMENTS)[0].slots.requires_grad


def test_the_lm_is_left_as_it_was():
    lm = tiny_lm("llama")
    before = {name: tensor.clone() for name, tensor in lm.state_dict().items()}
    base = CMTModel.from_llm(lm, tokenizer=tokenizer(), ratio=1)
    digest, answer = base.fingerprint["lm"], CMTGenerator(base).generate(QUESTION, texts=DOCUMENTS).text
    config = base.config.model_copy(update={"latent": 8, "compressor": "adapted", "adapter": AdapterConfig()})
    compressor, _ = start_adapted(base.lm, config, [4], TEXTS)
    with torch.no_grad():
        for parameter in compressor.adapters.values():
            parameter.normal_(0, 0.3)
    compressor.compress(base.lm, [[5, 6, 7, 8]])
    assert list(lm.state_dict()) == list(before)
    assert all(torch.equal(tensor, before[name]) for name, tensor in lm.state_dict().items())
    assert all(parameter.requires_grad for parameter in lm.parameters())
    again = CMTModel.from_llm(lm, tokenizer=tokenizer(), ratio=1)
    assert again.fingerprint["lm"] == digest
    assert CMTGenerator(again).generate(QUESTION, texts=DOCUMENTS).text == answer
    own = {tensor.data_ptr() for tensor in lm.parameters()}
    assert not own & {tensor.data_ptr() for tensor in compressor.state_dict().values()}
    assert not any("layers.2.mlp" in key.replace("/", ".") for key in compressor.adapters)  # behind the last keys
    assert any("layers.1.mlp" in key.replace("/", ".") for key in compressor.adapters)
    inside = [p for name, p in compressor._reader[0].named_parameters() if "lora_" in name]
    assert len(inside) > len(compressor.adapters)
    assert not any(parameter.requires_grad for parameter in inside)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saved_and_loaded_at_another_ratio(tmp_path, family, folders):
    model = adapted(folder=folders[family], disturb=0.2)
    model.config.trained_ratios = (2, 4)
    model.save_pretrained(tmp_path / "cmt")
    loaded = CMTModel.from_pretrained(tmp_path / "cmt")
    for one, other in zip(model.compress(DOCUMENTS), loaded.compress(DOCUMENTS), strict=True):
        assert torch.equal(one.slots, other.slots)
    assert loaded.fingerprint == model.fingerprint
    assert {path.suffix for path in (tmp_path / "cmt").iterdir()} == {".json", ".safetensors"}
    finer = CMTModel.from_pretrained(tmp_path / "cmt", ratio=2)
    [memory] = finer.compress(DOCUMENTS[:1])
    assert len(memory.slots) == -(-memory.n_tokens // 2)
    assert finer.fingerprint["compressor"] == loaded.fingerprint["compressor"]
    with torch.no_grad():
        next(iter(model.compressor.adapters.values())).add_(1e-3)
    changed = model.with_state(model.config, model.state())
    assert changed.fingerprint["compressor"] != loaded.fingerprint["compressor"]


def test_saved_in_half_the_bytes(tmp_path, folders):
    """What is loaded is the rounded model, in float32, with a fingerprint of its own."""
    model = adapted(folder=folders["llama"], disturb=0.2)
    model.save_pretrained(tmp_path / "whole")
    model.save_pretrained(tmp_path / "half", dtype=torch.bfloat16)
    size = {name: (tmp_path / name / "cmt.safetensors").stat().st_size for name in ("whole", "half")}
    assert size["half"] < 0.6 * size["whole"]
    loaded = CMTModel.from_pretrained(tmp_path / "half")
    named = json.loads((tmp_path / "half" / "config.json").read_text())["fingerprint"]
    assert named == loaded.fingerprint != model.fingerprint
    assert all(tensor.dtype == torch.float32 for tensor in loaded.state().values())
    kept = {name.split(".")[1] for name, tensor in model.state().items() if torch.equal(tensor, loaded.state()[name])}
    assert kept >= {"weighing", "places", "sharpness", "importance"}
    assert "adapters" not in kept
    for one, other in zip(model.compress(DOCUMENTS), loaded.compress(DOCUMENTS), strict=True):
        assert not torch.equal(one.slots, other.slots)
        assert torch.cosine_similarity(one.slots, other.slots, dim=-1).min() > 0.99


def test_ratios_that_were_not_trained_are_said(tmp_path, caplog, folders):
    model = adapted(folder=folders["llama"])
    model.config.trained_ratios = (2, 4)
    model.save_pretrained(tmp_path)
    CMTModel.from_pretrained(tmp_path, ratio=3)
    assert not caplog.records
    CMTModel.from_pretrained(tmp_path, ratio=16)
    assert "trained at ratios [2, 4]" in caplog.text


def test_causal_is_in_the_fingerprint(tmp_path, folders):
    model = adapted(folder=folders["llama"])
    model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["adapter"]["causal"] = True
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert CMTModel.from_pretrained(tmp_path).fingerprint["compressor"] != model.fingerprint["compressor"]


def test_damaged_checkpoints_and_settings_are_told(tmp_path, folders):
    model = adapted(folder=folders["llama"])
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "cmt.safetensors")
    save_file({name.replace("layers/0", "layers/9"): t for name, t in tensors.items()}, tmp_path / "cmt.safetensors")
    with pytest.raises(InvalidInputError, match="another LM"):
        CMTModel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match="goes with compressor"):
        CMTConfig(lm="x", adapter=AdapterConfig())
    with pytest.raises(ValueError, match='not "full"'):
        CMTConfig(lm="x", compressor="adapted", adapter=AdapterConfig())
    with pytest.raises(InvalidInputError, match="has to be trained"):
        tiny_model(compressor="adapted")
    with pytest.raises(InvalidInputError, match="targets"):
        adapted(targets=("no_such",))
    with pytest.raises(InvalidInputError, match="trained"):
        model.fit(DOCUMENTS)


def test_exact_memories_beside_trained_ones():
    model = adapted(disturb=0.1)
    exact = model.exact()
    memories = exact.compress(DOCUMENTS[:1])
    generator = CMTGenerator(exact)
    assert (
        generator.generate(QUESTION, memories, max_new_tokens=12, stop=()).text
        == CMTGenerator(model).generate(QUESTION, texts=DOCUMENTS[:1], max_new_tokens=12, stop=()).text
    )


def test_a_store_uses_it_like_any_other(tmp_path, folders):
    model = adapted(folder=folders["llama"], disturb=0.2)
    model.save_pretrained(tmp_path / "cmt")
    loaded = CMTModel.from_pretrained(tmp_path / "cmt")
    with CMTMemoryStore(tmp_path / "s", loaded, encoder=None, channels=("bm25",)) as store:
        store.add_documents(DOCUMENTS)
        answer = store.ask(QUESTION, k=1, max_new_tokens=8)
    with CMTMemoryStore(tmp_path / "s", CMTModel.from_pretrained(tmp_path / "cmt")) as store:
        assert store.ask(QUESTION, k=1, max_new_tokens=8).text == answer.text
        assert isinstance(store.model.compressor, AdaptedCompressor)
    with pytest.raises(FingerprintMismatchError, match="ratio"):
        CMTMemoryStore(tmp_path / "s", CMTModel.from_pretrained(tmp_path / "cmt", ratio=2))
    plain = CMTModel.from_llm(folders["llama"])
    with CMTMemoryStore(tmp_path / "s", plain, channels=("bm25",)) as store:  # whose compressor the store brings
        assert isinstance(store.model.compressor, AdaptedCompressor)


def test_a_trained_compressor_is_not_replaced_by_the_one_of_the_store(tmp_path, folders):
    """Whoever names a trained model would else go on with the old one, and not be told."""
    models = [adapted(folder=folders["llama"], disturb=disturb) for disturb in (0.2, 0.3)]
    for number, model in enumerate([*models, CMTModel.from_llm(folders["llama"])]):
        with CMTMemoryStore(tmp_path / f"s{number}", model, encoder=None, channels=("bm25",)) as store:
            store.add_documents(DOCUMENTS)
    models[1].save_pretrained(tmp_path / "cmt")
    loaded = CMTModel.from_pretrained(tmp_path / "cmt")
    for given in (models[1], loaded):
        for place in (0, 2):
            with pytest.raises(FingerprintMismatchError, match=r"another model .*compressor differ.*recompress"):
                CMTMemoryStore(tmp_path / f"s{place}", given)
        with CMTMemoryStore(tmp_path / "s1", given) as store:
            assert store.verify().ok
    with CMTMemoryStore.open_recompressed(tmp_path / "s2", loaded) as store:
        assert store.model.fingerprint["compressor"] == loaded.fingerprint["compressor"]
