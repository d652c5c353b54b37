"""CMTMemoryMiddleware and the memory tools, in agents of `langchain.agents.create_agent`."""

from __future__ import annotations

import json
from typing import Any

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError
from langchain.agents import create_agent
from langchain.agents.middleware import ModelRequest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langgraph.checkpoint.memory import InMemorySaver
from models import DOCUMENTS, QUESTION, model
from pydantic import Field

from langchain_cmt import ChatCMT, CMTMemoryMiddleware, create_memory_tools


class Scripted(BaseChatModel):
    """A chat model that says what it was told to, and keeps what it was asked."""

    script: list[AIMessage]
    seen: list[Any] = Field(default_factory=list)

    @property
    def _llm_type(self):
        return "scripted"

    def bind_tools(self, tools, **kwargs):
        return self.bind(**kwargs)

    def _generate(self, messages: list[BaseMessage], stop=None, run_manager=None, **kwargs):
        self.seen.append((messages, kwargs))
        return ChatResult(generations=[ChatGeneration(message=self.script[len(self.seen) - 1])])


class ScriptedCMT(ChatCMT):
    """A ChatCMT whose words are scripted: everything up to the LM is as it is."""

    script: list[AIMessage]
    seen: list[Any] = Field(default_factory=list)

    def bind_tools(self, tools, **kwargs):
        return self.bind(**{name: value for name, value in kwargs.items() if name != "tool_choice"})

    def _generate(self, messages, stop=None, run_manager=None, **kwargs):
        self.seen.append((messages, kwargs))
        return ChatResult(generations=[ChatGeneration(message=self.script[len(self.seen) - 1])])

    async def _agenerate(self, messages, stop=None, run_manager=None, **kwargs):
        return self._generate(messages, stop, run_manager, **kwargs)


def calls(name, **args):
    return AIMessage("", tool_calls=[{"name": name, "args": args, "id": f"call-{name}"}])


def asked(words=QUESTION):
    return {"messages": [HumanMessage(words)]}


async def test_an_agent_answers_with_the_memories_of_its_turn(store):
    agent = create_agent(ChatCMT(store=store, max_tokens=8), middleware=[CMTMemoryMiddleware(store, k=1)])
    expected = store.ask(QUESTION, k=1, max_new_tokens=8)
    for state in (agent.invoke(asked()), await agent.ainvoke(asked())):
        answer = state["messages"][-1]
        assert answer.content == expected.text
        assert answer.response_metadata["memories"][0]["passage"] == "locker#0"
        assert set(state) == {"messages"}


def test_ids_with_versions_are_passed_and_checkpoints_hold_nothing_else(store):
    saver = InMemorySaver()
    chat = ScriptedCMT(store=store, script=[AIMessage("4471."), AIMessage("At 9:30.")])
    agent = create_agent(chat, middleware=[CMTMemoryMiddleware(store, k=1)], checkpointer=saver)
    thread = {"configurable": {"thread_id": "1"}}
    agent.invoke(asked(), thread)
    messages, settings = chat.seen[0]
    assert settings == {"memory_ids": ["locker#0"], "memory_versions": store.versions(["locker#0"])}
    assert all(document not in str(messages) for document in DOCUMENTS)
    kept = saver.get(thread)["channel_values"]["cmt_memories"]
    assert kept == [{"id": "locker#0", "version": store.versions("locker#0")[0]}] == json.loads(json.dumps(kept))
    agent.invoke(asked("When does the shop open?"), thread)
    assert chat.seen[1][1]["memory_ids"] == ["shop#0"]


def test_what_changed_between_turn_and_call_is_read_as_it_is_now(store):
    middleware = CMTMemoryMiddleware(store, k=2)
    picked = middleware.before_agent({"messages": [HumanMessage(QUESTION)]}, None)["cmt_memories"].value
    store.update(picked[0]["id"].split("#")[0], text="The locker was sold.")
    store.delete(picked[1]["id"].split("#")[0])
    chat = ChatCMT(store=store)

    state = {"messages": [HumanMessage(QUESTION)], "cmt_memories": picked}
    request = ModelRequest(model=chat, messages=state["messages"], state=state, model_settings={"seed": 1})
    settings = middleware._with_memories(request).model_settings
    assert settings == {
        "seed": 1,
        "memory_ids": [picked[0]["id"]],
        "memory_versions": store.versions([picked[0]["id"]]),
    }


async def test_another_model_is_given_the_text(store):
    other = Scripted(script=[AIMessage("4471.")] * 2)
    agent = create_agent(other, middleware=[CMTMemoryMiddleware(store, k=1)])
    agent.invoke(asked())
    await agent.ainvoke(asked())
    for messages, settings in other.seen:
        assert DOCUMENTS[0] in messages[0].text
        assert messages[0].text.endswith(QUESTION)
        assert "memory_ids" not in settings


async def test_an_agent_saves_and_searches(store):
    def script():
        return [
            calls("save_memory", text="Tom likes plums."),
            calls("search_memory", query="What does Tom like?"),
            AIMessage("Plums."),
        ]

    middleware = CMTMemoryMiddleware(store, k=1, tools=True, metadata={"by": "agent"})
    chat = ScriptedCMT(store=store, script=script())
    state = create_agent(chat, middleware=[middleware]).invoke(asked())
    [saved] = store.document_ids({"by": "agent"})
    told = [message.content for message in state["messages"] if isinstance(message, ToolMessage)]
    assert told == [f"Saved as {saved}.", "1 passages were found and are in your memory now."]
    assert chat.seen[2][1]["memory_ids"] == [f"{saved}#0", "locker#0"]
    assert all("plums" not in str(message) for message in chat.seen[2][0] if isinstance(message, ToolMessage))
    again = ScriptedCMT(store=store, script=script())
    await create_agent(again, middleware=[middleware]).ainvoke(asked())
    assert again.seen[2][1]["memory_ids"] == [f"{saved}#0", "locker#0"]


async def test_the_tools_alone_for_any_agent(store):
    save, search = create_memory_tools(store, k=1, metadata={"by": "agent"})
    assert save.invoke({"text": "Tom likes plums."}) == f"Saved as {store.document_ids({'by': 'agent'})[0]}."
    assert "Saved as" in await save.ainvoke({"text": "Ada likes pears."})
    assert search.invoke({"query": "What does Tom like?"}) == "Tom likes plums."
    call = {"name": "search_memory", "args": {"query": "What does Ada like?"}, "id": "1", "type": "tool_call"}
    message = await search.ainvoke(call)
    assert message.content == "Ada likes pears."
    assert message.artifact[0]["metadata"] == {"by": "agent"}
    nothing = create_memory_tools(store, filter={"by": "nobody"})[1]
    assert nothing.invoke({"query": "plums"}) == "Nothing was found."


@pytest.mark.parametrize("filter", [{"n": 2}])
def test_a_filter_keeps_others_memories_out(store, filter):
    chat = ScriptedCMT(store=store, script=[AIMessage("?")])
    create_agent(chat, middleware=[CMTMemoryMiddleware(store, filter=filter)]).invoke(asked())
    assert chat.seen[0][1]["memory_ids"] == ["sunday#0"]


async def test_several_searches_at_once_and_a_new_turn(store):
    def found(query, id):
        return {"name": "search_memory", "args": {"query": query}, "id": id}

    both = AIMessage("", tool_calls=[found("When does the shop open?", "1"), found("Is it closed on Sundays?", "2")])
    for invoke in ("invoke", "ainvoke"):
        chat = ScriptedCMT(store=store, script=[both, AIMessage("At 9:30."), AIMessage("4471.")])
        middleware = CMTMemoryMiddleware(store, k=1, tools=True)
        agent = create_agent(chat, middleware=[middleware], checkpointer=InMemorySaver())
        thread = {"configurable": {"thread_id": "1"}}
        for words in (QUESTION, "When does the shop open?"):
            state = getattr(agent, invoke)(asked(words), thread)
            await state if invoke == "ainvoke" else state
        ids = [settings["memory_ids"] for _, settings in chat.seen]
        assert (ids[0], ids[2]) == (["locker#0"], ["shop#0"])
        assert (set(ids[1][:2]), ids[1][2:]) == ({"shop#0", "sunday#0"}, ["locker#0"])


@pytest.mark.parametrize(
    "call", [calls("save_memory", text=" "), calls("search_memory", query=""), calls("save_memory")]
)
def test_a_call_that_means_nothing_goes_back_to_the_lm(store, call):
    chat = ScriptedCMT(store=store, script=[call, AIMessage("Sorry.")])
    own = create_agent(chat, middleware=[CMTMemoryMiddleware(store, tools=True)])
    other = create_agent(Scripted(script=[call, AIMessage("Sorry.")]), create_memory_tools(store))
    for agent in (own, other):
        _, _, told, said = agent.invoke(asked())["messages"]
        assert (told.status, said.text) == ("error", "Sorry.")
    assert len(store) == 3


def test_a_store_without_texts_has_none_to_show(tmp_path):
    with CMTMemoryStore(tmp_path / "s", model(), keep_text=False) as store:
        store.add_documents(DOCUMENTS, ids=["locker", "shop", "sunday"])
        chat = ScriptedCMT(store=store, script=[AIMessage("4471.")])
        create_agent(chat, middleware=[CMTMemoryMiddleware(store, k=1)]).invoke(asked())
        assert chat.seen[0][1]["memory_ids"] == ["locker#0"]
        other = create_agent(Scripted(script=[AIMessage("?")]), middleware=[CMTMemoryMiddleware(store)])
        for use in (lambda: other.invoke(asked()), lambda: create_memory_tools(store)):
            with pytest.raises(InvalidInputError, match="keeps no texts"):
                use()
