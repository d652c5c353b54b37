"""What LlamaIndex expects of an LLM, and what users of local ones have missed."""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from itertools import pairwise
from typing import Any

import pytest
from llama_index.core.callbacks import CallbackManager, CBEventType, LlamaDebugHandler
from llama_index.core.chat_engine import SimpleChatEngine
from llama_index.core.llms import LLM, ChatMessage, MessageRole
from llama_index.core.prompts import PromptTemplate

from tests.tiny import QUESTION

HELLO = [ChatMessage(role=MessageRole.USER, content=QUESTION)]
LONGER = [
    ChatMessage(role=MessageRole.SYSTEM, content="Answer in one word."),
    ChatMessage(role=MessageRole.USER, content="Who keeps the blue locker?"),
    ChatMessage(role=MessageRole.ASSISTANT, content="Mara Velt"),
    *HELLO,
]


async def collect(stream: Any) -> list[Any]:
    return [response async for response in await stream]


class LLMContract:
    """Any LLM; `new` makes one from settings, with tokens to write more than a few."""

    @pytest.fixture
    @abstractmethod
    def new(self) -> Any:
        """A callable from settings to an LLM."""

    @pytest.fixture
    def llm(self, new) -> LLM:
        return new(max_new_tokens=16)

    def test_its_metadata(self, llm):
        assert isinstance(llm, LLM)
        assert llm.metadata.num_output == 16
        assert llm.metadata.context_window > 1_000
        assert llm.metadata.model_name

    def test_complete_never_returns_the_prompt(self, llm):
        answer = llm.complete(QUESTION)
        assert answer.text
        assert QUESTION not in answer.text
        assert answer.text == llm.complete(QUESTION).text

    def test_chat_answers_as_the_assistant(self, llm):
        answer = llm.chat(LONGER)
        assert answer.message.role == MessageRole.ASSISTANT
        assert answer.message.content
        assert QUESTION not in answer.message.content

    def test_the_history_matters(self, llm):
        assert llm.chat(LONGER).message.content != llm.chat(HELLO).message.content

    def test_a_stream_is_the_answer_in_pieces(self, llm):
        pieces = list(llm.stream_complete(QUESTION))
        assert "".join(piece.delta for piece in pieces) == pieces[-1].text == llm.complete(QUESTION).text
        for before, after in pairwise(pieces):
            assert after.text == before.text + after.delta
        turns = list(llm.stream_chat(LONGER))
        assert "".join(turn.delta for turn in turns) == turns[-1].message.content == llm.chat(LONGER).message.content
        assert {turn.message.role for turn in turns} == {MessageRole.ASSISTANT}

    def test_async_gives_the_same(self, llm):
        async def use() -> tuple[Any, ...]:
            return (
                (await llm.acomplete(QUESTION)).text,
                (await llm.achat(LONGER)).message.content,
                (await collect(llm.astream_complete(QUESTION)))[-1].text,
                (await collect(llm.astream_chat(LONGER)))[-1].message.content,
            )

        text, turn = llm.complete(QUESTION).text, llm.chat(LONGER).message.content
        assert asyncio.run(use()) == (text, turn, text, turn)

    def test_several_at_once_give_the_same(self, llm):
        async def use() -> list[Any]:
            return await asyncio.gather(*[llm.acomplete(QUESTION) for _ in range(4)])

        assert {answer.text for answer in asyncio.run(use())} == {llm.complete(QUESTION).text}

    def test_async_leaves_the_loop_free(self, new):
        llm, ticks = new(max_new_tokens=64, stop=[]), []

        async def tick() -> None:
            while True:
                ticks.append(time.perf_counter())
                await asyncio.sleep(0.002)

        async def use() -> None:
            ticker = asyncio.create_task(tick())
            await llm.achat(HELLO)
            await collect(llm.astream_complete(QUESTION))
            ticker.cancel()

        asyncio.run(use())
        assert len(ticks) > 10

    def test_arguments_of_a_call_are_obeyed(self, llm):
        whole = llm.complete(QUESTION).text
        assert llm.complete(QUESTION, max_tokens=2).additional_kwargs["completion_tokens"] <= 2
        assert llm.chat(HELLO, max_new_tokens=1).additional_kwargs["completion_tokens"] == 1
        stop = next(character for character in whole[1:] if not character.isspace() and character != "\ufffd")
        expected = whole[: whole.index(stop)].rstrip()
        assert llm.complete(QUESTION, stop=[stop]).text == expected
        assert list(llm.stream_complete(QUESTION, stop=[stop]))[-1].text == expected

        def sampled(seed):
            return llm.complete(QUESTION, temperature=5.0, seed=seed).text

        assert sampled(1) == sampled(1)
        assert len({sampled(seed) for seed in range(8)}) > 1

    def test_arguments_that_it_does_not_know_are_named(self, llm):
        with pytest.raises(ValueError, match="repetition_penalty"):
            llm.complete(QUESTION, repetition_penalty=2)

    def test_what_it_cost(self, llm):
        answer = llm.complete(QUESTION)
        assert answer.additional_kwargs["prompt_tokens"] > 4
        assert 1 <= answer.additional_kwargs["completion_tokens"] <= 16
        assert list(llm.stream_complete(QUESTION))[-1].additional_kwargs == answer.additional_kwargs

    def test_an_error_in_a_stream_reaches_the_caller(self, llm, failing):
        with failing(), pytest.raises(RuntimeError, match="out of order"):
            list(llm.stream_complete(QUESTION))
        with failing(), pytest.raises(RuntimeError, match="out of order"):
            list(llm.stream_chat(HELLO))
        with failing(), pytest.raises(RuntimeError, match="out of order"):
            asyncio.run(collect(llm.astream_chat(HELLO)))
        with failing(), pytest.raises(RuntimeError, match="out of order"):
            asyncio.run(llm.achat(HELLO))
        assert llm.complete(QUESTION).text

    @pytest.fixture
    @abstractmethod
    def failing(self) -> Any:
        """A context manager within which the LM fails after some tokens, with a RuntimeError "out of order"."""

    def test_callbacks_see_the_call(self, llm):
        handler = LlamaDebugHandler(print_trace_on_end=False)
        llm.callback_manager = CallbackManager([handler])
        llm.complete(QUESTION)
        list(llm.stream_chat(HELLO))
        assert len(handler.get_event_pairs(CBEventType.LLM)) == 2

    def test_predict_and_stream_by_a_template(self, llm):
        template = PromptTemplate("{question}")
        assert llm.predict(template, question=QUESTION)
        assert "".join(llm.stream(template, question=QUESTION)) == llm.predict(template, question=QUESTION)
        assert asyncio.run(llm.apredict(template, question=QUESTION)) == llm.predict(template, question=QUESTION)

    def test_a_simple_chat_engine_goes_on(self, llm):
        engine = SimpleChatEngine.from_defaults(llm=llm)
        assert engine.chat(QUESTION).response
        assert "".join(engine.stream_chat("And then?").response_gen)
        assert len(engine.chat_history) == 4

    def test_it_serialises(self, llm):
        assert llm.to_dict()["max_new_tokens"] == 16
        assert llm.to_dict()["class_name"] == llm.class_name()
