"""Documents with a time to live, and changes to documents, by a clock that the test turns."""

from __future__ import annotations

import pytest

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import InvalidInputError
from tests.bank.helpers import lexicon_is_sound
from tests.tiny import DOCUMENTS, QUESTION, tiny_model


class Clock:
    now = 1_000.0

    def __call__(self):
        return self.now


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def store(model, tmp_path, clock):
    with CMTMemoryStore(tmp_path / "s", model, clock=clock) as opened:
        yield opened


def rows(store):
    """Documents in the ledger, whether or not they have expired."""
    with store.bank._ledger.database.read() as connection:
        return connection.execute("SELECT count(*) FROM documents").fetchone()[0]


@pytest.mark.parametrize("channels", [("dense",), ("bm25",), ("dense", "bm25")])
@pytest.mark.parametrize("read_only", [False, True])
def test_an_expired_document_is_gone_at_once_everywhere(model, tmp_path, clock, channels, read_only):
    with CMTMemoryStore(tmp_path / "s", model, clock=clock) as store:
        [lasting] = store.add_documents(DOCUMENTS[:1])
        ids = store.add_documents(DOCUMENTS[1:], ttl=60)
        clock.now += 59
        if not read_only:
            check_expiry(store, channels, clock, lasting, ids)
    if read_only:
        with CMTMemoryStore(tmp_path / "s", model, clock=clock, read_only=True, channels=channels) as reader:
            check_expiry(reader, channels, clock, lasting, ids)


def check_expiry(store, channels, clock, lasting, ids):
    question = "When does the shop open on Sundays, and who has the locker?"
    assert {hit.id for hit in store.search(question, k=9)} == {lasting, *ids}
    passages = [hit.passage for hit in store.search(question, k=9, filter={"x": {"$ne": 1}}) if hit.id in ids]
    assert len(store) == 3
    clock.now += 1
    assert {hit.id for hit in store.search(question, k=9)} == {lasting}
    assert {hit.id for hit in store.search(question, k=9, filter={"x": {"$ne": 1}})} == {lasting}
    assert [hit.id for hit in store.ask(question, k=9, max_new_tokens=2).hits] == [lasting]
    assert store.get([lasting, *ids]) == [Document(DOCUMENTS[0], {}, lasting)]
    assert len(store) == store.stats()["documents"] == store.stats()["passages"] == store.stats()["memories"] == 1
    assert store.stats()["text_bytes"] == len(DOCUMENTS[0])
    assert store.bank.ids() == [lasting]
    assert rows(store) == 3
    for gone in (ids[0], passages[0]):
        with pytest.raises(InvalidInputError, match="unknown"):
            store.ask(question, memory_ids=[gone], max_new_tokens=2)


@pytest.mark.parametrize("write", ["add", "update", "delete", "compact", "reopen"])
def test_the_next_write_or_opening_removes_it_from_the_disk(store, model, clock, write, caplog):
    [lasting, other] = store.add_documents(DOCUMENTS[:2])
    [id] = store.add_documents(["Zorblax keeps the xylophone."], ttl=5)
    clock.now += 6
    if write == "add":
        store.add_documents(DOCUMENTS[2:])
    elif write == "update":
        store.update(lasting, metadata={"n": 1})
    elif write == "delete":
        store.delete(other)
    elif write == "compact":
        store.bank.compact()
    else:
        store.close()
        store = CMTMemoryStore(store.path, model, clock=clock)
    assert rows(store) == len(store)
    assert store.bank._queries.count_vectors() == store.bank._index._index.count() == len(store)
    with lexicon_is_sound(store.bank):
        pass
    with pytest.raises(InvalidInputError, match="unknown"):
        store.delete(id)
    store.close()
    MemoryBank(store.path).close()
    assert not caplog.records


def test_adding_after_the_time_is_a_new_document(store, clock):
    [id] = store.add_documents(DOCUMENTS[:1], ttl=5)
    created = store.bank.infos([id])[0].created
    clock.now += 6
    assert store.add_documents(DOCUMENTS[:1]) == [id]
    clock.now += 10**9
    assert len(store) == 1
    assert store.bank.infos([id])[0].created > created


def test_adding_again_sets_the_time_anew(store, clock):
    [id] = store.add_documents(DOCUMENTS[:1], ttl=10)
    clock.now += 9
    store.add_documents(DOCUMENTS[:1], ttl=10)
    clock.now += 9
    assert len(store) == 1
    store.add_documents([Document(DOCUMENTS[0], {"n": 1}, id)], ttl=10)
    clock.now += 9
    assert store.get(id)[0].metadata == {"n": 1}
    store.add_documents([Document(DOCUMENTS[0], {"n": 1}, id)])
    clock.now += 10**9
    assert len(store) == 1


def test_update_changes_what_is_given(store, model, clock):
    passes = []
    hook = model.lm.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    store.add_documents([Document(DOCUMENTS[0], {"n": 1}, "a")], ttl=10)
    made = len(passes)
    store.update("a", metadata={"m": 2})
    store.update("a", ttl=100)
    store.update("a")
    assert len(passes) == made
    assert store.get("a") == [Document(DOCUMENTS[0], {"m": 2}, "a")]
    clock.now += 50
    store.update("a", text="The harbour was rebuilt in 1932.")
    assert len(passes) == made + 1
    assert store.get("a") == [Document("The harbour was rebuilt in 1932.", {"m": 2}, "a")]
    assert store.search("harbour", k=1, filter={"m": 2})[0].text == "The harbour was rebuilt in 1932."
    clock.now += 51
    assert len(store) == 0
    with pytest.raises(InvalidInputError, match="no document 'a'"):
        store.update("a", ttl=None)
    store.add_documents([Document(DOCUMENTS[0], {}, "a")], ttl=10)
    store.update("a", ttl=None)
    clock.now += 10**9
    assert len(store) == 1
    hook.remove()


@pytest.mark.parametrize("ttl", [0, -1, True, float("nan"), float("inf"), 10**400, 1e11, "60"])
def test_a_time_to_live_is_a_number_above_zero(store, ttl):
    with pytest.raises(InvalidInputError, match="ttl is"):
        store.add_documents(DOCUMENTS, ttl=ttl)
    assert len(store) == 0


@pytest.mark.parametrize("change", [{"text": " "}, {"metadata": {"a": object()}}, {"ttl": -1}, {"text": "\ud800"}])
def test_a_bad_update_changes_nothing(store, change):
    store.add_documents([Document(DOCUMENTS[0], {"n": 1}, "a")])
    with pytest.raises(InvalidInputError):
        store.update("a", **change)
    assert store.get("a") == [Document(DOCUMENTS[0], {"n": 1}, "a")]
    assert store.ask(QUESTION, max_new_tokens=2).grounded
