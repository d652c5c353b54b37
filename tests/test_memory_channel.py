"""channels=(..., "memory"): searching by the memories themselves, in an index of their own."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import InvalidInputError
from tests.tiny import DOCUMENTS, QUESTION, tiny_model

MEMORY = ("memory",)
ALL = ("dense", "bm25", "memory")


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, channels=MEMORY, encoder=None) as opened:
        opened.add_documents([Document(text, {"n": n}, f"d{n}") for n, text in enumerate(DOCUMENTS)])
        yield opened


def cosines(store, question=QUESTION):
    """What the channel is to find, from the memories as they are kept."""
    asked = store.model.compress([question])[0].slots.mean(0)
    kept = {id: store.bank.payloads([f"{id}#0"])[0].slots.mean(0) for id in store.bank.ids()}
    return {id: float(torch.cosine_similarity(asked, mean, dim=0)) for id, mean in kept.items()}


def check(store):
    expected = cosines(store)
    hits = store.search(QUESTION, k=9)
    assert [hit.id for hit in hits] == sorted(expected, key=lambda id: -expected[id])
    for hit in hits:
        assert hit.scores == {"memory": pytest.approx(expected[hit.id], abs=1e-5)}
        assert hit.score == pytest.approx((1 + expected[hit.id]) / 2, abs=1e-5)


def test_the_nearest_memory_is_first(store, model):
    check(store)
    assert store.ask(QUESTION, k=1, max_new_tokens=2).hits == store.search(QUESTION, k=1)
    store.close()
    for read_only in (False, True):
        with CMTMemoryStore(store.path, model, channels=MEMORY, read_only=read_only) as again:
            check(again)


def test_every_change_reaches_it(store, model):
    store.update("d0", metadata={"n": 7})
    assert [hit.id for hit in store.search(QUESTION, k=9, filter={"n": 7})] == ["d0"]
    store.update("d1", text="The harbour was rebuilt in 1932.")
    store.delete("d2")
    store.add_documents([Document("Room 7 has the code 1259.", {"n": 4}, "d4")], ttl=1000)
    check(store)
    assert {hit.id for hit in store.search(QUESTION, k=9, filter={"n": {"$gt": 3}})} == {"d0", "d4"}
    assert store.verify().ok
    assert store.bank._memory_index._index.count() == 3


def test_it_joins_the_others_and_is_off_by_default(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model) as store:
        store.add_documents(DOCUMENTS)
        plain = store.search(QUESTION, k=3)
        assert all("memory" not in hit.scores for hit in plain)
        off = store.stats()
        assert (off["memory_vector_bytes"], off["disk_bytes"]["memory_index"]) == (0, 0)
        assert not (store.path / "chroma-memory").exists()
    with CMTMemoryStore(tmp_path / "s", model, channels=ALL) as store:
        hits = store.search(QUESTION, k=3)
        expected = cosines(store)
        assert len(hits) == 3
        for hit in hits:
            assert hit.scores["memory"] == pytest.approx(expected[hit.id], abs=1e-5)
            assert hit.score == pytest.approx((1 + hit.scores["dense"]) / 2, abs=1e-5)
        on = store.stats()
        assert on["memory_vector_bytes"] == 3 * 32 * 4
        assert on["disk_bytes"]["memory_index"] > 0
        assert on["disk_bytes"]["total"] == sum(v for k, v in on["disk_bytes"].items() if k != "total")
    with CMTMemoryStore(tmp_path / "s", model) as store:
        assert store.search(QUESTION, k=3) == plain


def test_what_was_added_without_it_is_taken_in_at_the_next_opening(store, model, caplog):
    store.close()
    with CMTMemoryStore(store.path, model, encoder=None) as plain:
        plain.delete("d0")
        plain.update("d1", metadata={"n": 5})
        plain.add_documents([Document("Room 7 has the code 1259.", {}, "d4")])
    with CMTMemoryStore(store.path, model, channels=MEMORY, read_only=True) as reader:
        assert {hit.id for hit in reader.search(QUESTION, k=9)} == {"d1", "d2"}
    assert "does not find 1 memories" in caplog.text
    with CMTMemoryStore(store.path, model, channels=MEMORY) as again:
        check(again)
        assert again.verify().ok


def test_a_lost_index_is_written_anew_and_verify_sees_a_wrong_one(store, model, caplog):
    index = store.bank._memory_index._index
    index.delete([1])
    assert [(problem.kind, problem.document) for problem in store.verify().problems] == [("index", "d0")]
    store.compact()
    check(store)
    store.close()
    shutil.rmtree(store.path / "chroma-memory")
    with CMTMemoryStore(store.path, model, channels=MEMORY) as again:
        check(again)
    assert "rebuilt the index of 3 passages" in caplog.text


def test_another_model_makes_other_vectors(store, caplog):
    store.recompress(tiny_model("llama", "chat", ratio=2, latent=48))
    check(store)
    assert store.stats()["memory_vector_bytes"] == 3 * 48 * 4
    assert store.verify().ok
    assert not caplog.records


@pytest.mark.parametrize("settings", [{"ratio": 2, "latent": 48}, {"ratio": 2, "latent": 32}])
def test_a_kill_between_another_models_memories_and_their_vectors(store, settings, monkeypatch, caplog):
    def killed(_):
        raise KeyboardInterrupt

    other = tiny_model("llama", "chat", **settings)
    with monkeypatch.context() as patch:
        patch.setattr("cmt_memory.upkeep.Upkeep._index_memories", killed)
        with pytest.raises(KeyboardInterrupt):
            store.recompress(other)
    assert store.model is other
    copy = store.path.parent / "killed"
    shutil.copytree(store.path, copy)
    with CMTMemoryStore(copy, other, channels=MEMORY, encoder=None) as again:
        check(again)
        assert again.verify().ok
    assert len(caplog.records) <= 1
    store.add_documents([])
    store.compact()
    store.update("d0", metadata={"n": 8})
    store.close()
    with CMTMemoryStore(store.path, other, channels=MEMORY, encoder=None) as again:
        check(again)


@pytest.mark.parametrize("on", [True, False])
def test_after_compact_no_file_has_a_deleted_memory(store, model, on):
    [key] = store.bank.passage_keys(["d0#0"])
    _, [vector] = store.bank._queries.vectors([key], store.bank._memory_index._table)
    trace = np.asarray(vector, "<f4").tobytes()
    assert trace in contents(store.path)
    store.close()
    if on:
        with CMTMemoryStore(store.path, model, channels=MEMORY) as again:
            again.delete("d0")
            again.compact()
    else:
        bank = MemoryBank(store.path)
        bank.delete(["d0"])
        bank.compact()
        bank.close()
    assert trace not in contents(store.path)
    with CMTMemoryStore(store.path, model, channels=MEMORY) as again:
        check(again)


def test_a_reader_cannot_compact(store, model):
    before = sorted(path.name for path in (store.path / "chroma-memory").iterdir())
    with (
        CMTMemoryStore(store.path, model, encoder=None, read_only=True) as reader,
        pytest.raises(InvalidInputError, match="read_only"),
    ):
        reader.compact()
    assert sorted(path.name for path in (store.path / "chroma-memory").iterdir()) == before
    check(store)


def contents(folder):
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_what_waits_is_found_when_it_is_compressed(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, channels=MEMORY, encoder=None, lazy=True) as store:
        store.add_documents(DOCUMENTS)
        assert store.search(QUESTION) == []
        store.compress_pending()
        check(store)


def test_a_channel_that_there_is_not(model, tmp_path):
    with pytest.raises(InvalidInputError, match="channels is"):
        CMTMemoryStore(tmp_path / "s", model, channels="memory")
    with pytest.raises(InvalidInputError, match="channels is"):
        CMTMemoryStore(tmp_path / "s", model, channels=("memories",))
