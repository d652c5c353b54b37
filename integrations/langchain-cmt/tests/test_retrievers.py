"""CMTRetriever: the standard suite, and what is passed per call."""

from __future__ import annotations

import pytest
from cmt_memory import InvalidInputError
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_tests.integration_tests import RetrieversIntegrationTests
from models import DOCUMENTS, QUESTION

from langchain_cmt import CMTRetriever


class TestStandard(RetrieversIntegrationTests):
    @pytest.fixture(autouse=True)
    def _store(self, store):
        self.store = store

    @property
    def retriever_constructor(self):
        return CMTRetriever

    @property
    def retriever_constructor_params(self):
        return {"store": self.store}

    @property
    def retriever_query_example(self):
        return QUESTION


@pytest.fixture
def retriever(store):
    return CMTRetriever(store=store, k=2)


async def test_documents_are_the_stores_hits(retriever, store):
    hits = store.search(QUESTION, k=2)
    found = retriever.invoke(QUESTION)
    assert [document.id for document in found] == [hit.id for hit in hits]
    assert [document.page_content for document in found] == [hit.text for hit in hits]
    place = {"passage": "locker#0", "span": [0, len(DOCUMENTS[0])], "score": hits[0].score}
    assert found[0].metadata == {"n": 0, "cmt_memory": place}
    assert store.get("locker")[0].metadata == {"n": 0}
    assert await retriever.ainvoke(QUESTION) == found
    assert await retriever.abatch([QUESTION] * 2) == retriever.batch([QUESTION] * 2) == [found, found]


async def test_every_setting_can_be_given_per_call(retriever, store):
    assert len(retriever.invoke(QUESTION, k=3)) == len(await retriever.ainvoke(QUESTION, k=3)) == 3
    assert [d.id for d in retriever.invoke(QUESTION, filter={"n": 2})] == ["sunday"]
    best = store.search(QUESTION, k=1)[0].score
    assert [d.id for d in retriever.invoke(QUESTION, k=3, min_score=best)] == ["locker"]
    narrow = CMTRetriever(store=store, k=3, filter={"n": {"$gt": 0}}, min_score=0.1)
    assert {d.id for d in narrow.invoke(QUESTION)} == {"shop", "sunday"}
    assert len(narrow.invoke(QUESTION, filter=None)) == 3


async def test_what_it_does_not_know_is_refused_and_not_dropped(retriever):
    with pytest.raises(TypeError, match="top_k, which it does not know"):
        retriever.invoke(QUESTION, top_k=3)
    with pytest.raises(TypeError, match="top_k"):
        await retriever.ainvoke(QUESTION, top_k=3)
    with pytest.raises(TypeError, match="CMTRetriever got search_kwargs, which it does not know; it takes store, k"):
        CMTRetriever(store=retriever.store, search_kwargs={"k": 2})
    with pytest.raises(InvalidInputError, match="k is 0"):
        retriever.invoke(QUESTION, k=0)
    with pytest.raises(ValueError, match="store"):
        CMTRetriever(store="a folder")


def test_in_a_chain(retriever):
    prompt = ChatPromptTemplate.from_template("{context}\n{question}")
    chain = {"context": retriever | (lambda found: found[0].id), "question": RunnablePassthrough()} | prompt
    assert chain.invoke(QUESTION).to_messages()[0].content == f"locker\n{QUESTION}"
