"""The paper's parts: a text encoder's slots, a question that looks at them, and the few positions they become."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file
from transformers import BartConfig, BartModel

from cmt_memory import CMTGenerator, CMTMemoryStore, CMTModel
from cmt_memory.cli import main
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError, UnsupportedModelError
from cmt_memory.model.agreement import next_token_agreement
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.parts import own_tensors
from tests.encoders import SLOTS, TEXTS, paper_model, save_encoder, settings
from tests.tiny import DOCUMENTS, QUESTION, save_tiny, tiny_model


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    save_tiny(folder)
    return folder


def asked(model, memories, question=QUESTION):
    """The first layer's keys and values of the memories in a prefix."""
    prefix = model.prefix([memories], compress_question=lambda _: model.compress([question])[0])
    return torch.cat([part[0, :, -prefix.n_slots[0] :].flatten() for part in prefix.layers[0]])


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_every_document_gets_the_same_number_of_slots(encoders, kind):
    model = paper_model(tiny_model(), encoders[kind])
    texts = [*DOCUMENTS, " ".join(DOCUMENTS * 4)]
    memories = model.compress(texts)
    for text, memory in zip(texts, memories, strict=True):
        assert memory.slots.shape == (SLOTS, 24)
        assert memory.n_tokens == len(model.lm.encode_document(text))
    [alone] = model.compress(DOCUMENTS[2:3])
    torch.testing.assert_close(memories[2].slots, alone.slots, atol=1e-5, rtol=1e-4)
    [other] = model.compress([DOCUMENTS[2][:-2] + "X."])
    assert not torch.allclose(other.slots, alone.slots, atol=1e-4)


@pytest.mark.parametrize("kind", ["t5", "bert"])
def test_a_long_document_is_read_to_its_end(encoders, kind):
    model = paper_model(tiny_model(), encoders[kind], window=16)
    assert model.compressor.encoder.window == 16
    texts = [TEXTS[0], TEXTS[0][:-3] + "QQ."]
    states, mask = model.compressor.encoder.read([*texts, "short"])
    lengths = [len(model.compressor.encoder.tokenizer(text)["input_ids"]) for text in (*texts, "short")]
    assert mask.sum(1).tolist() == lengths
    assert states.shape[1] == max(lengths)
    one, other = model.compress(texts)
    assert not torch.allclose(one.slots, other.slots, atol=1e-6)


@pytest.mark.parametrize("family", ["llama", "gpt2", "gemma3", "bloom"])
def test_slots_become_a_few_positions_whatever_is_found(encoders, family):
    model = paper_model(tiny_model(family), encoders["t5"])
    memories = model.compress(DOCUMENTS)
    for found in (memories[:1], memories, memories * 2):  # more documents than there are positions for them
        prefix = model.prefix([found, []], compress_question=lambda _: memories[0])
        assert prefix.n_slots == (2, 0)
        assert (prefix.starts - prefix.starts[1]).tolist() == [2, 0]
        assert model.extent(found) == 2
    generator = CMTGenerator(model)
    [with_memory, without] = generator.batch([QUESTION, QUESTION], [memories, []], max_new_tokens=3)
    assert (with_memory.usage.memory_slots, without.usage.memory_slots) == (2, 0)
    assert with_memory.text == generator.generate(QUESTION, memories, max_new_tokens=3).text


def test_what_is_asked_and_the_order_change_the_memory(encoders):
    model = paper_model(tiny_model(), encoders["t5"])
    memories = model.compress(DOCUMENTS)
    first = asked(model, memories)
    assert torch.equal(first, asked(model, memories))
    for other in (
        asked(model, memories, "When does the shop open?"),
        asked(model, memories[:2]),
        asked(model, memories[::-1]),
        asked(model, [type(m)(m.slots.flip(0), m.positions, m.n_tokens) for m in memories]),
    ):
        assert not torch.allclose(first, other, atol=1e-5)


def test_a_store_says_how_many_slots_there_are(encoders, lm, tmp_path):
    model = paper_model(CMTModel.from_llm(lm), encoders["t5"])
    with CMTMemoryStore(tmp_path / "s", model, encoder=None) as store:
        store.add_documents(DOCUMENTS)
        assert {key: store.stats()[key] for key in ("ratio", "slots")} == {"ratio": None, "slots": SLOTS}
    done = CliRunner().invoke(main, ["store", "stats", "--store", str(tmp_path / "s")])
    assert f"{SLOTS} slots a passage, latent 24" in done.output
    done = CliRunner().invoke(main, ["store", "stats", "--store", str(tmp_path / "s"), "--json"])
    assert (json.loads(done.output)["ratio"], json.loads(done.output)["slots"]) == (None, SLOTS)


def test_agreement_asks_with_the_end_of_the_context(encoders):
    model = paper_model(tiny_model(), encoders["t5"])
    asked_with = []
    aggregate = model.aggregator.aggregate

    def watching(lm, memories, question=None):
        asked_with.append(question)
        return aggregate(lm, memories, question)

    model.aggregator.aggregate = watching
    text = " ".join(DOCUMENTS * 6)
    found = next_token_agreement(model, [text], context=64, continuation=24)
    assert found.tokens == 23
    [question] = asked_with
    ids = model.lm.encode_words(text)
    [expected] = model.compressor.compress(model.lm, [ids[32:64]])
    assert torch.equal(question.slots, expected.slots)


def test_prefixes_are_kept_for_each_question(encoders):
    model = paper_model(tiny_model(), encoders["t5"])
    memories = model.compress(DOCUMENTS)
    kept, fresh = CMTGenerator(model), CMTGenerator(model, prefix_cache_bytes=0)
    for question in (QUESTION, "When does the shop open?", QUESTION):
        ours, theirs = (g.generate(question, memories, max_new_tokens=12, stop=()) for g in (kept, fresh))
        assert ours.text == theirs.text
    assert len({kept.generate(q, memories, max_new_tokens=12, stop=()).text for q in (QUESTION, "Sunday?")}) == 2
    chat = [{"role": "user", "content": QUESTION}]
    assert kept.chat(chat, memories, max_new_tokens=4).usage.memory_slots == 2


def test_without_an_aggregator_documents_follow_each_other(encoders):
    for family in ("llama", "gpt2"):
        model = paper_model(tiny_model(family), encoders["t5"], across=False)
        memories = model.compress(DOCUMENTS)
        prefix = model.prefix([memories, memories[:1]])
        assert prefix.n_slots == (6, 2)
        assert model.extent(memories) == 6
        alone = model.prefix([memories[1:2]])
        joined = model.prefix([memories[1:]])
        at = slice(-4, -2)  # of two documents the first
        torch.testing.assert_close(joined.layers[1][1][:, :, at], alone.layers[1][1][:, :, -2:])


def test_the_prefix_starts_in_the_scale_of_the_lm(encoders):
    model = paper_model(tiny_model(), encoders["t5"])
    exact = model.exact()
    [memory] = exact.compress(TEXTS[:1])
    rows, full = memory.slots, torch.cat([model.aligner.mean, model.aligner.scale])
    assert full.isfinite().all()
    torch.testing.assert_close(model.aligner.mean, rows.mean(0), atol=0.5 * float(rows.std()), rtol=0)
    torch.testing.assert_close(model.aligner.scale.mean(), rows.std(0).mean(), rtol=0.2, atol=0)


@pytest.mark.parametrize("trained", [True, False])
def test_saved_and_loaded(tmp_path, encoders, lm, trained):
    model = paper_model(CMTModel.from_llm(lm), encoders["t5"], trained=trained)
    with torch.no_grad():
        for part in (model.compressor, model.aggregator, model.aligner):
            for parameter in part.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    model.retrained()
    model.save_pretrained(tmp_path / "cmt")
    loaded = CMTModel.from_pretrained(tmp_path / "cmt")
    assert loaded.fingerprint == model.fingerprint
    for one, other in zip(model.compress(DOCUMENTS), loaded.compress(DOCUMENTS), strict=True):
        assert torch.equal(one.slots, other.slots)
    memories = model.compress(DOCUMENTS)
    assert torch.equal(asked(model, memories), asked(loaded, memories))
    assert {path.suffix for path in (tmp_path / "cmt").iterdir()} == {".json", ".safetensors"}
    names = load_file(tmp_path / "cmt/cmt.safetensors")
    assert any(".text_model." in name for name in names) == trained
    with pytest.raises(InvalidInputError, match="no ratio to choose"):
        CMTModel.from_pretrained(tmp_path / "cmt", ratio=4)
    assert model.exact().fingerprint["latent"] == "full"
    with pytest.raises(InvalidInputError, match="trained"):
        model.fit(DOCUMENTS)


def test_a_checkpoint_can_bring_lm_and_encoder(tmp_path, encoders, lm):
    for trained in (True, False):
        model = paper_model(CMTModel.from_llm(lm), encoders["t5"], trained=trained)
        model.save_pretrained(tmp_path / "cmt", include_lm=True)
        (tmp_path / "cmt").rename(tmp_path / f"moved-{trained}")
        loaded = CMTModel.from_pretrained(tmp_path / f"moved-{trained}")
        assert loaded.config.encoder.model == str(tmp_path / f"moved-{trained}/encoder")
        assert loaded.fingerprint["compressor"] == model.fingerprint["compressor"]
        assert torch.equal(loaded.compress(DOCUMENTS)[0].slots, model.compress(DOCUMENTS)[0].slots)


def test_the_fingerprint_knows_every_part(encoders, tmp_path):
    base = tiny_model()
    model = paper_model(base, encoders["t5"], trained=False)
    known = model.fingerprint["compressor"]
    for part in (model.compressor, model.aggregator, model.aligner):
        for tensor in (next(part.parameters()), list(part.parameters())[-1]):
            with torch.no_grad():
                tensor.view(-1)[0] += 1e-3
            model.retrained()
            assert model.fingerprint["compressor"] != known
            known = model.fingerprint["compressor"]
    again = paper_model(base, encoders["t5"], trained=False).fingerprint["compressor"]
    assert again == paper_model(base, encoders["t5"], trained=False).fingerprint["compressor"]
    for changes in ({"window": 32}, {"heads": 4, "head_size": 4}):
        assert paper_model(base, encoders["t5"], trained=False, **changes).fingerprint["compressor"] != again
    tensors = load_file(encoders["t5"] / "model.safetensors")
    save_encoder(tmp_path)
    tensors["encoder.final_layer_norm.weight"] += 0.1
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert paper_model(base, tmp_path, trained=False).fingerprint["compressor"] != again


def test_a_frozen_encoder_is_shared_and_a_trained_one_is_not(encoders):
    for trained in (True, False):
        model = paper_model(tiny_model(), encoders["t5"], trained=trained)
        twin = model.with_state(model.config, model.state())
        assert (twin.compressor.encoder.model is model.compressor.encoder.model) != trained
        assert twin.fingerprint == model.fingerprint
        assert any(name.startswith("text_model.") for name in own_tensors(model.compressor)) == trained


def test_a_store_uses_it_like_any_other(tmp_path, encoders, lm):
    paper_model(CMTModel.from_llm(lm), encoders["t5"]).save_pretrained(tmp_path / "cmt")
    model = CMTModel.from_pretrained(tmp_path / "cmt")
    with CMTMemoryStore(tmp_path / "s", model, encoder=None, channels=("bm25", "memory")) as store:
        store.add_documents(DOCUMENTS)
        hits = store.search(QUESTION, k=3)
        assert {"bm25", "memory"} <= set(hits[0].scores)
        answer = store.ask(QUESTION, k=2, max_new_tokens=8)
        assert answer.usage.memory_slots == 2
        assert answer.grounded
    with CMTMemoryStore(tmp_path / "s", CMTModel.from_pretrained(tmp_path / "cmt")) as store:
        assert store.ask(QUESTION, k=2, max_new_tokens=8).text == answer.text
        assert store.verify().ok
    other = paper_model(CMTModel.from_llm(lm), encoders["t5"])
    with torch.no_grad():
        other.aggregator.places.add_(0.1)
    other.retrained()
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(FingerprintMismatchError, match="compressor differ"):
        CMTMemoryStore(tmp_path / "s", CMTModel.from_pretrained(tmp_path / "other"))
    with CMTMemoryStore(tmp_path / "s", CMTModel.from_llm(lm)) as store:
        assert store.model.fingerprint == model.fingerprint  # a store brings its own parts
    (tmp_path / "wide").mkdir()
    wide = paper_model(CMTModel.from_llm(lm), encoders["bert"], trained=False)
    assert wide.fingerprint["compressor"] != model.fingerprint["compressor"]


def test_memories_of_other_models_are_refused(encoders):
    model = paper_model(tiny_model(), encoders["t5"])
    longer = paper_model(tiny_model(), encoders["t5"], slots=6)
    with pytest.raises(InvalidInputError, match="6 slots was given, but this model makes 5"):
        asked(model, longer.compress(DOCUMENTS))
    with pytest.raises(InvalidInputError, match="numbers per slot"):
        asked(model, paper_model(tiny_model(), encoders["t5"], latent=16).compress(DOCUMENTS))
    with pytest.raises(InvalidInputError, match="needs the question"):
        model.prefix([model.compress(DOCUMENTS)])


def test_what_cannot_be_is_told(tmp_path, encoders, lm):
    base = tiny_model()
    with pytest.raises(InvalidInputError, match=r"text encoder '.*none' cannot be loaded.*encoder\.model"):
        paper_model(base, tmp_path / "none")
    with pytest.raises(UnsupportedModelError, match="left to right"):
        paper_model(base, lm)
    BartModel(
        BartConfig(vocab_size=64, d_model=16, encoder_layers=1, decoder_layers=1, encoder_ffn_dim=8, decoder_ffn_dim=8)
    ).save_pretrained(tmp_path / "bart")
    with pytest.raises(UnsupportedModelError, match="bart"):
        paper_model(base, tmp_path / "bart")
    with pytest.raises(InvalidInputError, match=r"13 slots cannot all be read.*12 at most"):
        paper_model(base, encoders["t5"], slots=13)
    values = {"lm": "x", "latent": 24} | settings("y")
    assert CMTConfig.model_validate(values).encoder.slots == SLOTS
    for change, said in (
        ({"encoder": None}, "`encoder` goes with"),
        ({"prefix": None}, "`prefix` goes with"),
        ({"cross_attention": None}, "`cross_attention` goes with"),
        ({"aggregator": "concat"}, "`cross_attention` goes with"),
        ({"latent": "full"}, 'not "full"'),
        ({"ratio": 4}, "leave out `ratio`"),
        ({"compressor": "pooled", "encoder": None, "prefix": None}, "memories of one length"),
        ({"encoder": {"slotz": 3}}, "slotz"),
    ):
        with pytest.raises(ValueError, match=said):
            CMTConfig.model_validate(values | change)
    with pytest.raises(InvalidInputError, match="has to be trained"):
        tiny_model(compressor="encoder")


def test_damaged_checkpoints_are_told(tmp_path, encoders, lm):
    paper_model(CMTModel.from_llm(lm), encoders["t5"]).save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "cmt.safetensors")
    save_file({n: t for n, t in tensors.items() if n != "aggregator.places"}, tmp_path / "cmt.safetensors")
    with pytest.raises(InvalidInputError, match=r"aggregator does not fit .*: places is None"):
        CMTModel.from_pretrained(tmp_path)
    save_file(tensors, tmp_path / "cmt.safetensors")
    config = json.loads((tmp_path / "config.json").read_text())
    config["prefix"]["positions"] = 3
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidInputError, match="aligner does not fit"):
        CMTModel.from_pretrained(tmp_path)


def test_another_encoder_under_the_same_name_is_another_model(tmp_path, lm):
    save_encoder(tmp_path / "t5")
    model = paper_model(CMTModel.from_llm(lm), tmp_path / "t5", trained=False)
    model.save_pretrained(tmp_path / "cmt")
    with CMTMemoryStore(tmp_path / "s", model, encoder=None, channels=("bm25",)) as store:
        store.add_documents(DOCUMENTS)
    tensors = load_file(tmp_path / "t5/model.safetensors")
    tensors["encoder.final_layer_norm.weight"] += 0.1
    save_file(tensors, tmp_path / "t5/model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FingerprintMismatchError, match="compressor"):
        CMTMemoryStore(tmp_path / "s", CMTModel.from_pretrained(tmp_path / "cmt"))
