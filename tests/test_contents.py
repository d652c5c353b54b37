"""What a store shows of itself: listings, passages by id, vectors."""

from __future__ import annotations

import numpy as np
import pytest

from cmt_memory import CMTMemoryStore, InvalidInputError
from tests.tiny import DOCUMENTS, tiny_model

LONG = "\n\n".join(f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}. Ask at desk {i}." for i in range(30))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model) as opened:
        opened.add_documents(DOCUMENTS, metadatas=[{"n": n} for n in range(3)], ids=["a", "b", "c"])
        yield opened


def test_documents_are_listed_in_order_by_filter_and_in_pages(store):
    assert [document.id for document in store.documents()] == ["a", "b", "c"]
    assert store.documents({"n": {"$gt": 0}}) == store.get(["b", "c"])
    assert [document.id for document in store.documents(limit=1, offset=1)] == ["b"]
    store.delete("a")
    assert [document.text for document in store.documents()] == DOCUMENTS[1:]


@pytest.mark.parametrize("page", [{"limit": -1}, {"offset": -1}, {"limit": True}, {"offset": "1"}])
def test_a_page_that_is_none(store, page):
    with pytest.raises(InvalidInputError, match="whole number"):
        store.documents(**page)


def test_expired_documents_are_not_listed(model, tmp_path):
    now = [1000.0]
    with CMTMemoryStore(tmp_path / "s", model, encoder=None, clock=lambda: now[0]) as store:
        store.add_documents(["For a while."], ttl=5)
        assert len(store.documents()) == 1
        now[0] += 6
        assert store.documents() == []


def test_passages_by_their_own_id_or_all_of_a_document(store):
    store.add_documents([LONG], ids=["long"])
    every = store.passages("long")
    assert len(every) > 1
    assert [hit.passage for hit in every] == [f"long#{n}" for n in range(len(every))]
    assert store.passages(["long#1", "a"]) == [every[1], *store.passages("a")]
    with pytest.raises(InvalidInputError, match="unknown"):
        store.passages(["a", "nobody"])


def test_vectors_are_those_that_are_searched(store):
    question = store.embed("When does the shop open?")
    assert question.shape == (1, store.encoder.dimension)
    for hit in store.search("When does the shop open?", channels=["dense"]):
        assert store.vectors(hit.passage)[0] @ question[0] == pytest.approx(hit.scores["dense"], abs=1e-5)
    np.testing.assert_array_equal(store.vectors(["c#0", "a#0"]), store.vectors(["a#0", "c#0"])[::-1])
    assert store.embed([]).shape == (0, store.encoder.dimension)
    with pytest.raises(InvalidInputError, match="unknown passages"):
        store.vectors(["a#7"])


def test_without_an_encoder_there_are_no_vectors(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, encoder=None) as store:
        store.add_documents(DOCUMENTS, ids=["a", "b", "c"])
        with pytest.raises(InvalidInputError, match="no retrieval encoder"):
            store.embed("What?")
        with pytest.raises(InvalidInputError, match="no retrieval vector"):
            store.vectors(["a#0"])
        with pytest.raises(InvalidInputError, match="vector"):
            store.search(None, vector=[1.0])


@pytest.mark.parametrize("keep_text", [True, False])
def test_whether_texts_are_kept(model, tmp_path, keep_text):
    with CMTMemoryStore(tmp_path / "s", model, keep_text=keep_text) as store:
        store.add_documents(DOCUMENTS)
        assert store.keep_text is keep_text
        assert [document.text for document in store.documents()] == (DOCUMENTS if keep_text else ["", "", ""])


def test_the_async_twins(store):
    import asyncio

    async def use():
        assert await store.adocuments({"n": 1}) == store.documents({"n": 1})
        assert await store.apassages("a") == store.passages("a")
        np.testing.assert_array_equal(await store.avectors("a#0"), store.vectors("a#0"))
        vector = (await store.aembed("When does the shop open?"))[0]
        assert await store.asearch(None, vector=vector) == store.search(None, vector=vector)

    asyncio.run(use())


@pytest.mark.parametrize("channels", [["dense"], ["bm25"]])
def test_a_filter_on_ids_means_the_same_everywhere(store, channels, model):
    question = "the shop and the locker on Sundays"
    every = [hit.id for hit in store.search(question, channels=channels)]
    assert len(every) == 3
    with CMTMemoryStore(store.path, model, read_only=True) as reader:
        for opened in (store, reader):
            for filter, ids in [
                ({"$id": "b"}, {"b"}),
                ({"$id": {"$in": ["a", "c", "nobody"]}}, {"a", "c"}),
                ({"$not": {"$id": "b"}}, {"a", "c"}),
                ({"$or": [{"$id": "a"}, {"n": 2}]}, {"a", "c"}),
                ({"$id": {"$nin": ["a"], "$ne": "b"}}, {"c"}),
            ]:
                assert {document.id for document in opened.documents(filter)} == ids
                found = opened.search(question, filter=filter, channels=channels)
                assert [hit.id for hit in found] == [id for id in every if id in ids]


@pytest.mark.parametrize("value", [1, None, {"$gt": "a"}, {"$in": [1]}, {"$eq": 2}, {}, ["a"]])
def test_an_id_is_a_string(store, value):
    with pytest.raises(InvalidInputError, match=r"\$id"):
        store.documents({"$id": value})
