"""Agents that live long: many at once, stopped and taken up again, cancelled, and with LangGraph's own store."""

from __future__ import annotations

import asyncio

from langchain.agents import create_agent
from langchain.tools import ToolRuntime, tool
from langchain_core.messages import AIMessage
from langgraph.checkpoint.memory import InMemorySaver
from models import DOCUMENTS, QUESTION
from test_middleware import Scripted, ScriptedCMT, asked, calls

from langchain_cmt import ChatCMT, CMTMemoryMiddleware, CMTStore

QUESTIONS = [QUESTION, "When does the shop open?", "Is it closed on Sundays?"]


async def test_many_at_once_and_each_has_its_own_memories(store):
    chat = ChatCMT(store=store, max_tokens=6)
    agent = create_agent(chat, middleware=[CMTMemoryMiddleware(store, k=1)], checkpointer=InMemorySaver())
    threads = [{"configurable": {"thread_id": str(number)}} for number in range(12)]
    words = [QUESTIONS[number % 3] for number in range(12)]
    states = await asyncio.gather(*(agent.ainvoke(asked(w), t) for w, t in zip(words, threads, strict=True)))
    expected = {question: store.ask(question, k=1, max_new_tokens=6) for question in QUESTIONS}
    for question, state in zip(words, states, strict=True):
        answer = state["messages"][-1]
        assert answer.text == expected[question].text
        assert [one["passage"] for one in answer.response_metadata["memories"]] == [expected[question].hits[0].passage]


def test_an_agent_that_was_stopped_goes_on_with_what_is_there_now(store):
    chat = ScriptedCMT(store=store, script=[calls("look"), AIMessage("It is empty.")])

    @tool
    def look() -> str:
        """Look into the locker."""
        return "Nothing in it."

    agent = create_agent(
        chat,
        [look],
        middleware=[CMTMemoryMiddleware(store, k=1)],
        checkpointer=InMemorySaver(),
        interrupt_before=["tools"],
    )
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke(asked(), thread)
    before = chat.seen[0][1]
    store.update("locker", text="The blue locker was sold.")
    assert agent.invoke(None, thread)["messages"][-1].text == "It is empty."
    after = chat.seen[1][1]
    assert before["memory_ids"] == after["memory_ids"] == ["locker#0"]
    assert before["memory_versions"] != after["memory_versions"] == store.versions(["locker#0"])


async def test_an_agent_that_is_cancelled_leaves_the_store_whole(store):
    agent = create_agent(ChatCMT(store=store, max_tokens=2000), middleware=[CMTMemoryMiddleware(store)])
    task = asyncio.create_task(agent.ainvoke(asked()))
    await asyncio.sleep(0.3)
    task.cancel()
    assert isinstance((await asyncio.gather(task, return_exceptions=True))[0], asyncio.CancelledError)
    assert store.verify().ok
    assert store.ask(QUESTION, max_new_tokens=4).grounded


async def test_langgraphs_store_of_an_agent(store):
    @tool
    def note(text: str, runtime: ToolRuntime) -> str:
        """Write a note."""
        runtime.store.put(("notes", "mara"), "1", {"text": text})
        [found] = runtime.store.search(("notes", "mara"), query="fruit", limit=1)
        return found.value["text"]

    items = CMTStore(store, fields=["text"])
    script = [calls("note", text="Mara likes plums."), AIMessage("Noted.")]
    for number, invoke in enumerate(("invoke", "ainvoke")):
        agent = create_agent(Scripted(script=script), [note], store=items)
        state = getattr(agent, invoke)(asked("Note it."))
        messages = (await state if number else state)["messages"]
        assert [message.text for message in messages[2:]] == ["Mara likes plums.", "Noted."]
    assert items.list_namespaces() == [("notes", "mara")]
    assert len(store) == len(DOCUMENTS) + 1
