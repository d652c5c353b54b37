"""What LlamaIndex expects of a retriever over the nodes of `tests.tiny`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

import pytest
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.instrumentation import get_dispatcher
from llama_index.core.instrumentation.event_handlers import BaseEventHandler
from llama_index.core.instrumentation.events.retrieval import RetrievalEndEvent
from llama_index.core.llms import MockLLM
from llama_index.core.retrievers import QueryFusionRetriever
from llama_index.core.schema import NodeWithScore, QueryBundle
from llama_index.core.tools import RetrieverTool
from llama_index.core.vector_stores import MetadataFilter, MetadataFilters

from tests.tiny import QUESTION, nodes

HARBOUR = "When was the harbour rebuilt?"


def only(key: str, value: Any, operator: str = "==") -> MetadataFilters:
    return MetadataFilters(filters=[MetadataFilter(key=key, value=value, operator=operator)])


class RetrieverContract:
    """Any retriever over the nodes of `tests.tiny`, with `similarity_top_k` and `filters` as `VectorIndexRetriever`."""

    @pytest.fixture
    @abstractmethod
    def make(self) -> Any:
        """A callable from keyword arguments to a retriever over `nodes()`."""

    @pytest.fixture
    @abstractmethod
    def embed(self) -> Any:
        """A callable from a question to the vector that the retriever would search by."""

    def test_it_is_a_retriever(self, make):
        assert isinstance(make(), BaseRetriever)

    def test_the_best_comes_first_with_its_score(self, make):
        found = make(similarity_top_k=3).retrieve(QUESTION)
        assert all(isinstance(one, NodeWithScore) for one in found)
        assert found[0].node.node_id == "n0"
        assert found[0].score >= max(one.score for one in found)

    def test_nodes_come_back_as_they_went_in(self, make):
        [found] = make(similarity_top_k=1).retrieve(QUESTION)
        assert found.node.to_dict() == nodes()[0].to_dict()
        assert found.node.ref_doc_id == "source0"
        assert found.node.source_node.metadata == {"pages": 3}

    @pytest.mark.parametrize("k", [1, 2, 5])
    def test_as_many_as_asked_for(self, make, k):
        assert len(make(similarity_top_k=k).retrieve(QUESTION)) == k

    def test_more_than_there_are(self, make):
        ids = [one.node.node_id for one in make(similarity_top_k=50).retrieve(QUESTION)]
        assert sorted(ids) == [f"n{number}" for number in range(6)]

    def test_k_can_be_set(self, make):
        retriever = make(similarity_top_k=1)
        retriever.similarity_top_k = 4
        assert retriever.similarity_top_k == len(retriever.retrieve(QUESTION)) == 4

    def test_a_bundle_is_a_question(self, make):
        retriever = make(similarity_top_k=2)
        assert retriever.retrieve(QueryBundle(QUESTION)) == retriever.retrieve(QUESTION)

    def test_the_embedding_of_a_bundle_is_searched_by(self, make, embed):
        found = make(similarity_top_k=2).retrieve(QueryBundle("", embedding=embed(HARBOUR)))
        assert found[0].node.node_id == "n1"

    def test_custom_embedding_strings_are_searched_by(self, make):
        bundle = QueryBundle("zzz", custom_embedding_strs=[HARBOUR, "The great storm of 1932 at Port Alder"])
        assert make(similarity_top_k=1).retrieve(bundle)[0].node.node_id == "n1"

    def test_filters(self, make):
        found = make(similarity_top_k=6, filters=only("number", 3, ">")).retrieve(QUESTION)
        assert sorted(one.node.node_id for one in found) == ["n4", "n5"]

    def test_a_filter_that_nothing_passes(self, make):
        assert make(filters=only("number", 99)).retrieve(QUESTION) == []

    def test_only_some_nodes(self, make):
        found = make(similarity_top_k=6, node_ids=["n2", "n4", "gone"]).retrieve(QUESTION)
        assert sorted(one.node.node_id for one in found) == ["n2", "n4"]

    def test_async_finds_the_same(self, make):
        retriever = make(similarity_top_k=3)
        assert asyncio.run(retriever.aretrieve(QUESTION)) == retriever.retrieve(QUESTION)

    def test_many_at_once(self, make):
        retriever = make(similarity_top_k=1)

        async def ask() -> list[list[NodeWithScore]]:
            return await asyncio.gather(*[retriever.aretrieve(question) for question in [QUESTION, HARBOUR] * 4])

        assert [found[0].node.node_id for found in asyncio.run(ask())] == ["n0", "n1"] * 4

    def test_it_reports_what_it_found(self, make):
        seen = []

        class Handler(BaseEventHandler):
            def handle(self, event: Any, **kwargs: Any) -> None:
                if isinstance(event, RetrievalEndEvent):
                    seen.append([one.node.node_id for one in event.nodes])

        dispatcher = get_dispatcher()
        handler = Handler()
        dispatcher.add_event_handler(handler)
        try:
            make(similarity_top_k=1).retrieve(QUESTION)
        finally:
            dispatcher.event_handlers.remove(handler)
        assert ["n0"] in seen

    def test_in_a_retriever_tool(self, make):
        tool = RetrieverTool.from_defaults(make(similarity_top_k=1), name="lockers", description="Codes of lockers")
        assert "4471" in tool.call(QUESTION).content
        assert "4471" in asyncio.run(tool.acall(QUESTION)).content

    @pytest.mark.parametrize("mode", ["reciprocal_rerank", "relative_score", "dist_based_score", "simple"])
    def test_in_a_fusion_retriever(self, make, mode):
        fusion = QueryFusionRetriever(
            [make(similarity_top_k=3), make(similarity_top_k=2)],
            llm=MockLLM(),
            similarity_top_k=3,
            num_queries=1,
            mode=mode,
            use_async=False,
        )
        found = fusion.retrieve(QUESTION)
        assert found[0].node.node_id == "n0"
        assert len({one.node.node_id for one in found}) == len(found) == 3
        assert asyncio.run(fusion.aretrieve(QUESTION))[0].node.node_id == "n0"
