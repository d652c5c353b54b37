"""What LlamaIndex expects of a query engine that answers from the nodes of `tests.tiny`."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from typing import Any

import pytest
from llama_index.core.agent.workflow import ReActAgent
from llama_index.core.base.base_query_engine import BaseQueryEngine
from llama_index.core.base.response.schema import AsyncStreamingResponse, Response, StreamingResponse
from llama_index.core.chat_engine import CondenseQuestionChatEngine
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import SubQuestionQueryEngine
from llama_index.core.question_gen import LLMQuestionGenerator
from llama_index.core.schema import QueryBundle
from llama_index.core.tools import QueryEngineTool

from tests.contracts.retrievers import only
from tests.scripted import ScriptedLLM, react
from tests.tiny import QUESTION


class QueryEngineContract:
    """Any query engine over `nodes()`, with the options of `RetrieverQueryEngine.from_args` and of its retriever."""

    @pytest.fixture
    @abstractmethod
    def make(self) -> Any:
        """A callable from keyword arguments to a query engine."""

    @pytest.fixture
    @abstractmethod
    def answer(self) -> Any:
        """A callable from a question and k to the expected answer."""

    def test_it_answers_and_names_its_sources(self, make, answer):
        engine = make(similarity_top_k=2)
        assert isinstance(engine, BaseQueryEngine)
        response = engine.query(QUESTION)
        assert isinstance(response, Response)
        assert str(response) == answer(QUESTION, 2)
        assert response.source_nodes[0].node.node_id == "n0"
        assert len(response.source_nodes) == 2
        assert response.source_nodes[0].score > 0
        assert response.metadata["n0"]["number"] == 0

    def test_a_bundle_and_async_give_the_same(self, make, answer):
        engine = make(similarity_top_k=2)
        assert str(engine.query(QueryBundle(QUESTION))) == answer(QUESTION, 2)
        response = asyncio.run(engine.aquery(QUESTION))
        assert (str(response), len(response.source_nodes)) == (answer(QUESTION, 2), 2)

    def test_streams(self, make, answer):
        engine = make(similarity_top_k=2, streaming=True)
        response = engine.query(QUESTION)
        assert isinstance(response, StreamingResponse)
        assert "".join(response.response_gen) == answer(QUESTION, 2)
        assert len(response.source_nodes) == 2

        async def use() -> str:
            streamed = await engine.aquery(QUESTION)
            assert isinstance(streamed, AsyncStreamingResponse)
            return "".join([piece async for piece in streamed.async_response_gen()])

        assert asyncio.run(use()) == answer(QUESTION, 2)

    def test_filters_and_postprocessors_decide_what_is_used(self, make):
        assert [one.node.node_id for one in make(filters=only("number", 1)).query(QUESTION).source_nodes] == ["n1"]
        none = make(node_postprocessors=[SimilarityPostprocessor(similarity_cutoff=2.0)])
        assert none.query(QUESTION).source_nodes == []
        assert str(none.query(QUESTION)) == "Empty Response"

    def test_retrieve_and_synthesize_by_themselves(self, make, answer):
        engine = make(similarity_top_k=2)
        found = engine.retrieve(QueryBundle(QUESTION))
        extra = [one.model_copy() for one in found[:1]]
        response = engine.synthesize(QueryBundle(QUESTION), found, additional_source_nodes=extra)
        assert str(response) == answer(QUESTION, 2)
        assert len(response.source_nodes) == 3

    def test_as_the_tool_of_a_react_agent(self, make, answer):
        tool = QueryEngineTool.from_defaults(make(similarity_top_k=2), name="lockers", description="Codes of lockers")
        agent = ReActAgent(tools=[tool], llm=ScriptedLLM(says=react("lockers", [QUESTION])), streaming=False)

        async def use() -> str:
            return str(await agent.run(user_msg=QUESTION))

        assert asyncio.run(use()) == answer(QUESTION, 2)

    def test_in_a_chat_engine_that_condenses(self, make, answer):
        engine = CondenseQuestionChatEngine.from_defaults(
            query_engine=make(similarity_top_k=2), llm=ScriptedLLM(says=lambda prompt: QUESTION)
        )
        assert engine.chat("And its code?").response == answer(QUESTION, 2)
        assert asyncio.run(engine.achat("Once more?")).response == answer(QUESTION, 2)

    def test_in_an_engine_of_sub_questions(self, make, answer):
        tool = QueryEngineTool.from_defaults(make(similarity_top_k=2), name="lockers", description="Codes of lockers")
        asked = f'```json\n{{"items": [{{"sub_question": "{QUESTION}", "tool_name": "lockers"}}]}}\n```'
        llm = ScriptedLLM(says=lambda prompt: asked if "sub_question" in prompt else "done")
        engine = SubQuestionQueryEngine.from_defaults(
            [tool], llm=llm, question_gen=LLMQuestionGenerator.from_defaults(llm=llm), use_async=False, verbose=False
        )
        engine.query("What about the lockers?")
        assert f"Response: {answer(QUESTION, 2)}" in llm.prompts[-1]
