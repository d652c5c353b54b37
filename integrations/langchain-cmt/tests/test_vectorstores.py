"""CMTVectorStore: the standard suite, and what a user of `langchain_chroma.Chroma` does."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError, StoreClosedError
from langchain_core.documents import Document
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_tests.integration_tests import VectorStoreIntegrationTests
from models import DOCUMENTS, LONG, QUESTION, model

from langchain_cmt import ChatCMT, CMTRetriever, CMTVectorStore


class TestStandard(VectorStoreIntegrationTests):
    @pytest.fixture
    def vectorstore(self, tmp_path):
        with CMTMemoryStore(tmp_path / "store", model(), encoder=self.get_embeddings()) as store:
            yield CMTVectorStore(store=store)


@pytest.fixture
def vectors(store):
    return CMTVectorStore(store=store)


def ids(documents):
    return [document.id for document in documents]


def test_a_search_gives_what_the_store_gives(vectors, store):
    hits = store.search(QUESTION, k=2)
    found = vectors.similarity_search(QUESTION, k=2)
    assert [(d.id, d.page_content, d.metadata) for d in found] == [(h.id, h.text, h.metadata) for h in hits]
    scored = vectors.similarity_search_with_score(QUESTION, 2)
    assert scored == vectors.similarity_search_with_relevance_scores(QUESTION, k=2)
    assert [score for _, score in scored] == [hit.score for hit in hits]
    assert all(0 <= score <= 1 for _, score in scored)
    best = hits[0].score
    assert ids(vectors.similarity_search(QUESTION, k=3, min_score=best)) == [hits[0].id]


def test_filters_act_in_every_search(vectors):
    where = {"n": {"$gte": 1}}
    vector = vectors.embeddings.embed_query(QUESTION)
    for found in (
        vectors.similarity_search(QUESTION, filter=where),
        [d for d, _ in vectors.similarity_search_with_score(QUESTION, filter=where)],
        vectors.similarity_search_by_vector(vector, filter=where),
        vectors.max_marginal_relevance_search(QUESTION, filter=where),
        vectors.max_marginal_relevance_search_by_vector(vector, filter=where),
        vectors.as_retriever(search_kwargs={"filter": where}).invoke(QUESTION),
    ):
        assert set(ids(found)) == {"shop", "sunday"}


def test_searches_by_vector(vectors):
    vector = vectors.embeddings.embed_query("When does the shop open?")
    assert ids(vectors.similarity_search_by_vector(vector, k=1)) == ["shop"]
    [(document, score)] = vectors.similarity_search_by_vector_with_relevance_scores(vector, k=1)
    assert document.id == "shop"
    assert 0.5 < score <= 1
    with pytest.raises(InvalidInputError, match="shape"):
        vectors.similarity_search_by_vector([1.0, 2.0])


def test_marginal_relevance_prefers_what_is_new(vectors):
    vectors.add_texts([f"The code of the blue locker is 447{n}." for n in range(3)], ids=["a", "b", "c"])
    by_relevance = ids(vectors.max_marginal_relevance_search(QUESTION, k=2, lambda_mult=1.0))
    diverse = ids(vectors.max_marginal_relevance_search(QUESTION, k=2, lambda_mult=0.1))
    assert set(by_relevance) < {"a", "b", "c", "locker"}
    assert diverse[0] == by_relevance[0]
    assert diverse[1] not in {"a", "b", "c", "locker"}
    vector = vectors.embeddings.embed_query(QUESTION)
    assert ids(vectors.max_marginal_relevance_search_by_vector(vector, k=2, lambda_mult=1.0)) == by_relevance
    assert len(vectors.max_marginal_relevance_search(QUESTION, k=4, fetch_k=2)) == 2


@pytest.mark.parametrize(
    "settings",
    [
        {"search_type": "similarity", "search_kwargs": {"k": 1}},
        {"search_type": "mmr", "search_kwargs": {"k": 1, "fetch_k": 3, "lambda_mult": 0.9}},
        {"search_type": "similarity_score_threshold", "search_kwargs": {"k": 1, "score_threshold": 0.5}},
    ],
    ids=lambda settings: settings["search_type"],
)
async def test_retrievers_of_all_search_types(vectors, settings):
    retriever = vectors.as_retriever(**settings)
    assert ids(retriever.invoke(QUESTION)) == ["locker"]
    assert ids(await retriever.ainvoke(QUESTION)) == ["locker"]
    assert len(retriever.invoke(QUESTION, k=2)) == 2


def test_a_threshold_leaves_out_the_rest(vectors):
    retriever = vectors.as_retriever(search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.999})
    assert retriever.invoke(QUESTION) == []


def test_ids_are_taken_element_by_element(vectors):
    documents = [
        Document(page_content="One."),
        Document(page_content="Two.", id="own"),
        Document(page_content="Three."),
    ]
    given = vectors.add_documents(documents, ids=["first", None, None])
    assert given[:2] == ["first", "own"]
    assert vectors.get_by_ids(given)[2] == Document(page_content="Three.", id=given[2])
    assert documents[0].id is None
    assert vectors.add_texts(["Four."], [{"a": 1}]) == vectors.add_texts(["Four."], [{"a": 1}])
    with pytest.raises(InvalidInputError, match="ids has 1 values for 2 documents"):
        vectors.add_texts(["Five.", "Six."], ids=["5"])


def test_an_id_that_is_added_again_is_replaced(vectors):
    vectors.add_texts(["The shop is gone."], ids=["shop"])
    assert vectors.get_by_ids(["shop"]) == [Document(page_content="The shop is gone.", id="shop")]
    vectors.update_document("shop", Document(page_content="The shop is back.", metadata={"n": 9}))
    vectors.update_documents(["locker"], [Document(page_content="No locker.")])
    assert vectors.get(["shop", "locker", "nobody"]) == {
        "ids": ["shop", "locker"],
        "documents": ["The shop is back.", "No locker."],
        "metadatas": [{"n": 9}, {}],
    }


def test_get_by_condition_and_in_pages(vectors):
    assert vectors.get(where={"n": {"$lt": 2}})["ids"] == ["locker", "shop"]
    assert vectors.get(limit=1, offset=1)["ids"] == ["shop"]
    assert vectors.get(["locker", "shop"], offset=1)["ids"] == ["shop"]
    assert vectors.get("sunday")["documents"] == [DOCUMENTS[2]]
    with pytest.raises(InvalidInputError, match="not both"):
        vectors.get("shop", where={"n": 1})


def test_deleting_some_none_and_all(vectors, store):
    assert vectors.delete([]) is True
    assert vectors.delete(["nobody", "shop", "shop"]) is True
    assert len(store) == 2
    assert vectors.delete(filter={"n": 2}) is True
    assert store.document_ids() == ["locker"]
    with pytest.raises(TypeError, match="where"):
        vectors.delete(where={"n": 0})
    assert vectors.delete() is True
    assert len(store) == 0
    assert vectors.delete() is True


async def test_the_async_twins(vectors, store):
    assert await vectors.aadd_texts(["Async."], [{"n": 5}], ids=["a"]) == ["a"]
    assert await vectors.aadd_documents([Document(page_content="Also.", id="b")]) == ["b"]
    vector = vectors.embeddings.embed_query(QUESTION)
    pairs = [
        (vectors.asimilarity_search(QUESTION, k=2), vectors.similarity_search(QUESTION, k=2)),
        (vectors.asimilarity_search_with_score(QUESTION, k=2), vectors.similarity_search_with_score(QUESTION, k=2)),
        (vectors.asimilarity_search_by_vector(vector, k=2), vectors.similarity_search_by_vector(vector, k=2)),
        (vectors.amax_marginal_relevance_search(QUESTION, k=2), vectors.max_marginal_relevance_search(QUESTION, k=2)),
        (
            vectors.amax_marginal_relevance_search_by_vector(vector, k=2),
            vectors.max_marginal_relevance_search_by_vector(vector, k=2),
        ),
        (
            vectors.asimilarity_search_with_relevance_scores(QUESTION, k=2),
            vectors.similarity_search_with_relevance_scores(QUESTION, k=2),
        ),
        (vectors.aget_by_ids(["a", "b"]), vectors.get_by_ids(["a", "b"])),
        (vectors.asearch(QUESTION, "mmr", k=2), vectors.search(QUESTION, "mmr", k=2)),
    ]
    for twin, expected in pairs:
        assert await twin == expected
    await vectors.adelete(["a"])
    await asyncio.gather(vectors.adelete(["b"]), vectors.asimilarity_search(QUESTION))
    assert len(store) == 3


def test_what_it_does_not_know_is_refused(vectors):
    for call in (
        lambda: vectors.similarity_search(QUESTION, where_document={"$contains": "x"}),
        lambda: vectors.similarity_search_by_vector([0.0], where={}),
        lambda: vectors.max_marginal_relevance_search(QUESTION, where={}),
        lambda: vectors.add_texts(["x"], namespace="y"),
    ):
        with pytest.raises(TypeError, match="does not know"):
            call()
    with pytest.raises(ValueError, match="empty"):
        vectors.add_texts([""])


def test_a_long_document_is_found_by_its_passages(vectors):
    vectors.add_texts([LONG], [{"kind": "rooms"}], ids=["rooms"])
    found = vectors.similarity_search("What is the code of room 101?", k=1)[0]
    assert found.id == "rooms"
    assert found.metadata == {"kind": "rooms"}
    assert "Room 101 " in found.page_content
    assert len(found.page_content) < len(LONG)
    assert vectors.get_by_ids(["rooms"])[0].page_content == LONG


def test_a_store_by_words_alone(tmp_path):
    vectors = CMTVectorStore(persist_directory=tmp_path / "s", model=model(), channels=("bm25",))
    vectors.store.close()
    with CMTMemoryStore(tmp_path / "w", model(), encoder=None) as store:
        vectors = CMTVectorStore(store)
        vectors.add_texts(DOCUMENTS)
        assert vectors.embeddings is None
        assert vectors.similarity_search("blue locker", k=1)[0].page_content == DOCUMENTS[0]
        for call in (vectors.max_marginal_relevance_search, vectors.similarity_search_by_vector):
            with pytest.raises(InvalidInputError, match="encoder"):
                call("blue locker" if "relevance" in call.__name__ else [1.0])


def test_made_from_texts_and_documents_and_opened_again(tmp_path):
    embeddings = DeterministicFakeEmbedding(size=8)
    made = CMTVectorStore.from_texts(
        DOCUMENTS[:2], embeddings, [{"n": 0}, {"n": 1}], ids=["a", "b"], persist_directory=tmp_path / "s", model=model()
    )
    assert made.embeddings is embeddings
    more = CMTVectorStore.from_documents(
        [Document(page_content=DOCUMENTS[2], id="c")], embedding=None, store=made.store
    )
    assert more.store is made.store
    assert len(made.store) == 3
    made.store.close()
    again = CMTVectorStore(persist_directory=tmp_path / "s", embedding_function=embeddings, model=model())
    assert again.get_by_ids(["a", "c"])[1].page_content == DOCUMENTS[2]
    assert again.embeddings.embed_query("x") == embeddings.embed_query("x")
    again.store.close()


async def test_made_from_texts_on_a_loop(tmp_path):
    made = await CMTVectorStore.afrom_texts(
        DOCUMENTS,
        DeterministicFakeEmbedding(size=8),
        ids=["a", "b", "c"],
        persist_directory=tmp_path / "s",
        model=model(),
    )
    assert ids(await made.aget_by_ids(["b"])) == ["b"]
    made.store.close()


def test_a_store_or_a_folder(store, tmp_path):
    with pytest.raises(InvalidInputError, match="either store"):
        CMTVectorStore()
    with pytest.raises(InvalidInputError, match="either store"):
        CMTVectorStore(store, persist_directory=tmp_path)
    with pytest.raises(InvalidInputError, match="has its own"):
        CMTVectorStore(store, embedding_function=DeterministicFakeEmbedding(size=8))


def test_one_id_is_not_taken_letter_by_letter(vectors, store):
    assert ids(vectors.get_by_ids("shop")) == ["shop"]
    vectors.delete("shop")
    assert store.document_ids() == ["locker", "sunday"]


def test_more_ids_than_sqlite_binds(vectors, store):
    many = [f"id{number}" for number in range(40_000)]
    assert ids(vectors.get_by_ids([*many, "shop"])) == ["shop"]
    assert vectors.get([*many, "shop"])["ids"] == ["shop"]
    assert vectors.delete([*many, "shop"]) is True
    assert len(store) == 2


def test_several_threads_delete_the_same(vectors, store):
    given = vectors.add_texts([f"Text {number}." for number in range(40)])
    with ThreadPoolExecutor(4) as threads:
        for start in range(0, 40, 4):
            list(threads.map(vectors.delete, [given[start : start + 4]] * 4))
    assert len(store) == 3


async def test_a_store_without_texts(tmp_path):
    with CMTMemoryStore(tmp_path / "s", model(), keep_text=False) as store:
        vectors = CMTVectorStore(store)
        vectors.add_texts([*DOCUMENTS, LONG], ids=["locker", "shop", "sunday", "rooms"])
        [found] = vectors.similarity_search(QUESTION, k=1)
        assert (found.id, found.page_content) == ("locker", "")
        assert ids(await vectors.amax_marginal_relevance_search(QUESTION, k=1)) == ["locker"]
        expected = store.ask(QUESTION, k=1, max_new_tokens=4).text
        chat = ChatCMT(store=store, retriever=CMTRetriever(store=store, k=1), max_tokens=4)
        assert chat.invoke(QUESTION).text == expected


async def test_a_closed_store_says_so(tmp_path):
    store = CMTMemoryStore(tmp_path / "s", model())
    vectors, retriever, chat = CMTVectorStore(store), CMTRetriever(store=store), ChatCMT(store=store)
    store.close()
    for call in (
        lambda: vectors.add_texts(["x"]),
        lambda: vectors.similarity_search("x"),
        lambda: vectors.delete(["x"]),
        lambda: vectors.get_by_ids(["x"]),
        lambda: retriever.invoke("x"),
        lambda: chat.invoke("x"),
        lambda: list(chat.stream("x")),
    ):
        with pytest.raises(StoreClosedError):
            call()
    with pytest.raises(StoreClosedError):
        await chat.ainvoke("x")
