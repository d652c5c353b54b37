"""ChatCMT: a store's answers as messages, settings per call, tools through the template, and caches."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError
from langchain_core.caches import InMemoryCache
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from models import QUESTION, lm, model, tokenizer
from pydantic import BaseModel

from langchain_cmt import ChatCMT, CMTRetriever, CMTVectorStore

TALK = [SystemMessage("Be brief."), HumanMessage("Hello."), AIMessage("Hello!"), HumanMessage(QUESTION)]


@pytest.fixture
def chat(store):
    return ChatCMT(store=store, k=2, max_tokens=8)


@tool
def weigh(what: str) -> str:
    """Weigh something."""
    return f"{what} weighs 2 kg."


async def test_it_answers_as_the_store_does(chat, store):
    expected = store.ask(QUESTION, k=2, max_new_tokens=8)
    message = chat.invoke(QUESTION)
    assert message.content == expected.text
    assert message.response_metadata["memories"] == [
        {"id": hit.id, "passage": hit.passage, "score": hit.score} for hit in expected.hits
    ]
    assert message.response_metadata["grounded"] is True
    assert message.response_metadata["finish_reason"] == expected.finish_reason == "length"
    used = expected.usage
    assert message.usage_metadata == {
        "input_tokens": used.prompt_tokens + used.memory_slots,
        "output_tokens": used.completion_tokens,
        "total_tokens": used.prompt_tokens + used.memory_slots + used.completion_tokens,
        "input_token_details": {"cache_read": used.memory_slots},
    }
    again = [await chat.ainvoke(QUESTION), *chat.batch([QUESTION]), *await chat.abatch([QUESTION])]
    streamed = list(chat.stream(QUESTION))
    astreamed = [chunk async for chunk in chat.astream(QUESTION)]
    assert [other.content for other in again] == [expected.text] * 3
    for pieces in (streamed, astreamed):
        assert "".join(piece.content for piece in pieces) == expected.text
        whole = sum(pieces[1:], pieces[0])
        assert whole.usage_metadata == message.usage_metadata
        assert whole.response_metadata["memories"] == message.response_metadata["memories"]


def test_a_conversation_goes_through_the_template(chat, store):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello."},
        {"role": "assistant", "content": "Hello!"},
        {"role": "user", "content": QUESTION},
    ]
    assert chat.invoke(TALK).content == store.ask(turns, k=2, max_new_tokens=8).text


@pytest.mark.parametrize("mode", ["text", "none"])
def test_other_modes(store, mode):
    expected = store.ask(QUESTION, mode=mode, max_new_tokens=8)
    message = ChatCMT(store=store, mode=mode, max_tokens=8).invoke(QUESTION)
    assert message.content == expected.text
    assert message.response_metadata["memory_slots"] == 0


def test_settings_per_call_and_by_other_names(chat, store):
    longer = store.ask(QUESTION, k=1, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3).text
    assert chat.invoke(QUESTION, k=1, max_tokens=12, temperature=1.0, top_p=0.9, seed=3).content == longer
    assert chat.bind(k=1, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3).invoke(QUESTION).content == longer
    made = ChatCMT(store=store, k=1, max_new_tokens=12, temperature=1.0, top_p=0.9, seed=3)
    assert made.invoke(QUESTION).content == longer
    end = longer[2:4]
    assert chat.invoke(QUESTION, stop=[end], k=1, max_tokens=12, temperature=1.0, top_p=0.9, seed=3).content in longer
    stopped = ChatCMT(store=store, max_tokens=8, stop_sequences=[end]).invoke(QUESTION)
    assert end not in stopped.content
    with pytest.raises(TypeError, match="max_length, which it does not know"):
        chat.invoke(QUESTION, max_length=3)
    with pytest.raises(InvalidInputError, match="temperature must be"):
        chat.invoke(QUESTION, temperature=-1)


async def test_memories_that_are_named(chat, store):
    expected = store.ask(QUESTION, memory_ids=["sunday"], max_new_tokens=8).text
    assert chat.invoke(QUESTION, memory_ids=["sunday"]).content == expected
    now = store.versions(["sunday#0"])
    assert (await chat.ainvoke(QUESTION, memory_ids=["sunday#0"], memory_versions=now)).content == expected
    store.update("sunday", text="On Sundays it is open.")
    with pytest.raises(InvalidInputError, match="changed since they were chosen"):
        chat.invoke(QUESTION, memory_ids=["sunday#0"], memory_versions=now)
    with pytest.raises(InvalidInputError, match="2 values for 1"):
        chat.invoke(QUESTION, memory_ids=["sunday#0"], memory_versions=[*now, *now])
    assert chat.invoke(QUESTION, memory_ids=[]).response_metadata["grounded"] is False


async def test_memories_that_a_retriever_finds(store):
    retriever = CMTRetriever(store=store, k=1, filter={"n": 2})
    chat = ChatCMT(store=store, retriever=retriever, max_tokens=8)
    expected = store.ask(QUESTION, memory_ids=["sunday#0"], max_new_tokens=8).text
    assert chat.invoke(TALK[-1:]).content == (await chat.ainvoke(QUESTION)).content == expected
    of_vectors = CMTVectorStore(store).as_retriever(search_kwargs={"k": 1, "filter": {"n": 2}})
    assert ChatCMT(store=store, retriever=of_vectors, max_tokens=8).invoke(QUESTION).content == expected


def test_a_model_without_a_store(store):
    chat = ChatCMT(model=model(), max_tokens=8)
    message = chat.invoke(QUESTION)
    assert message.content == store.ask(QUESTION, mode="none", max_new_tokens=8).text
    assert "memories" not in message.response_metadata
    with pytest.raises(InvalidInputError, match="has no store"):
        chat.invoke(QUESTION, memory_ids=["a"])
    for wrong in ({}, {"store": store, "model": model()}):
        with pytest.raises(ValueError, match="either store"):
            ChatCMT(**wrong)
    with pytest.raises(ValueError, match="give ChatCMT the store"):
        ChatCMT(model=model(), retriever=CMTRetriever(store=store))


async def test_the_loop_stays_free_and_a_cancelled_call_stops_the_lm(store):
    chat = ChatCMT(store=store, max_tokens=600)
    ticks = 0
    task = asyncio.create_task(chat.ainvoke(QUESTION))
    while ticks < 5:
        await asyncio.sleep(0.01)
        ticks += 1
    task.cancel()
    started = time.perf_counter()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert time.perf_counter() - started < 30
    stream = chat.astream(QUESTION)
    await anext(stream)
    await stream.aclose()
    deadline = time.perf_counter() + 30
    while any(thread.name == "cmt-memory-stream" for thread in threading.enumerate()):
        assert time.perf_counter() < deadline
        await asyncio.sleep(0.01)  # LangChain leaves the closing of what it wraps to the loop


def test_an_error_while_streaming_reaches_the_caller(chat):
    with pytest.raises(InvalidInputError, match="positions"):
        list(chat.stream("word " * 9000))


def test_tools_are_shown_by_the_template(store):
    chat = ChatCMT(store=store, max_tokens=8)
    bound = chat.bind_tools([weigh])
    plain, shown = chat.invoke(QUESTION), bound.invoke(QUESTION)
    assert shown.usage_metadata["input_tokens"] > plain.usage_metadata["input_tokens"] - 1
    assert [t["function"]["name"] for t in bound.kwargs["tools"]] == ["weigh"]
    talk = [
        HumanMessage("What does it weigh?"),
        AIMessage("", tool_calls=[{"name": "weigh", "args": {"what": "it"}, "id": "1"}]),
        ToolMessage("It weighs 2 kg.", tool_call_id="1", name="weigh"),
    ]
    assert isinstance(bound.invoke(talk), AIMessage)


def test_a_choice_of_tools(chat):
    @tool
    def measure(what: str) -> str:
        """Measure something."""
        return what

    both = [weigh, measure]
    names = lambda bound: [t["function"]["name"] for t in bound.kwargs.get("tools", [])]  # noqa: E731
    assert names(chat.bind_tools(both, tool_choice="measure")) == ["measure"]
    named = {"type": "function", "function": {"name": "weigh"}}
    assert names(chat.bind_tools(both, tool_choice=named)) == ["weigh"]
    assert names(chat.bind_tools(both, tool_choice="none")) == []
    assert chat.bind_tools(both).kwargs["tool_choice"] == "auto"
    for forced in ("any", "required", True):
        assert chat.bind_tools(both, tool_choice=forced).kwargs["tool_choice"] == "any"
    with pytest.raises(InvalidInputError, match="'cut'; there are weigh, measure"):
        chat.bind_tools(both, tool_choice="cut")


@pytest.mark.parametrize(("template", "reason"), [("plain", "does not show tools"), ("none", "has no chat template")])
def test_a_template_without_tools_says_so(template, reason):
    class Weight(BaseModel):
        """A weight."""

        grams: int

    chat = ChatCMT(model=model(template))
    with pytest.raises(InvalidInputError, match=reason):
        chat.bind_tools([weigh])
    with pytest.raises(InvalidInputError, match=reason):
        chat.with_structured_output(Weight)


def test_what_is_not_text_is_refused(chat):
    picture = HumanMessage([{"type": "image_url", "image_url": {"url": "data:"}}])
    with pytest.raises(InvalidInputError, match="holds image_url; this LM reads text only"):
        chat.invoke([picture])
    assert chat.invoke([HumanMessage([{"type": "text", "text": QUESTION}])]).content == chat.invoke(QUESTION).content


def test_a_cached_answer_ends_with_a_change_of_the_store(store):
    cache = InMemoryCache()
    chat = ChatCMT(store=store, max_tokens=4, cache=cache)
    first = chat.invoke(QUESTION)
    assert chat.invoke(QUESTION).content == first.content
    assert len(cache._cache) == 1
    store.add_documents(["The blue locker is empty."])
    chat.invoke(QUESTION)
    chat.invoke(QUESTION, memory_ids=["sunday"])
    assert len(cache._cache) == 3


def test_in_a_chain_and_its_tokens(chat, store):
    chain = ChatPromptTemplate.from_template("{question}") | chat
    assert chain.invoke({"question": QUESTION}).content == store.ask(QUESTION, k=2, max_new_tokens=8).text
    assert chat.get_num_tokens("blue") == len(model().lm.tokenizer.encode("blue", add_special_tokens=False))
    assert chat.profile["max_input_tokens"] == 4096


def test_a_cached_answer_ends_with_its_document(tmp_path):
    now = [1_000_000.0]
    with CMTMemoryStore(tmp_path / "s", model(), clock=lambda: now[0]) as store:
        store.add_documents(["The blue locker is empty."], ttl=60)
        chat = ChatCMT(store=store, max_tokens=4, cache=InMemoryCache())
        assert chat.invoke(QUESTION).response_metadata["grounded"] is True
        now[0] += 61
        assert chat.invoke(QUESTION).response_metadata["grounded"] is False


def test_what_it_cannot_be_made_with(store):
    with pytest.raises(TypeError, match="ChatCMT got temprature, which it does not know; it takes store, model"):
        ChatCMT(store=store, temprature=1.0)
    ChatCMT(store=store, timeout=60, max_retries=2, api_key="-", tags=["a"], model_id=None)


def test_models_by_name(tmp_path):
    lm().save_pretrained(tmp_path / "saved")
    tokenizer().save_pretrained(tmp_path / "saved")
    saved = ChatCMT(model=str(tmp_path / "saved"), max_tokens=4)
    assert saved.invoke(QUESTION).text == ChatCMT(model=model(), max_tokens=4).invoke(QUESTION).text
    bundled = [ChatCMT(model="cmt-tiny", max_tokens=4, **more) for more in ({}, {"model_kwargs": {"device": "cpu"}})]
    assert len({chat.invoke(QUESTION).text for chat in bundled}) == 1


def test_nothing_to_answer(chat):
    for words in ("", "  ", []):
        with pytest.raises(InvalidInputError):
            chat.invoke(words)
