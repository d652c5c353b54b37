"""An agent end to end on the bundled model: 50 documents, 20 questions, and none of their text in a prompt."""

from __future__ import annotations

import pytest
from cmt_memory import CMTMemoryStore
from langchain.agents import create_agent
from langchain_core.documents import Document
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from test_middleware import Scripted

from langchain_cmt import ChatCMT, CMTMemoryMiddleware, CMTVectorStore

FIRST = ["Ada", "Ben", "Cleo", "Dana", "Emil", "Fay", "Gus", "Hana", "Ivo", "Jona"]
LAST = ["Velt", "Okri", "Sand", "Moor", "Lind"]
PEOPLE = [f"{first} {last}" for last in LAST for first in FIRST]
TEXTS = [
    f"{person} works in room {11 + 7 * n}. {person}'s locker code is {1009 + 173 * n}."
    for n, person in enumerate(PEOPLE)
]
QUESTIONS = [f"What is {person}'s locker code?" for person in PEOPLE[:: len(PEOPLE) // 20][:20]]
SAVED = 10


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with CMTMemoryStore(tmp_path_factory.mktemp("scenario"), model="cmt-tiny") as opened:
        yield opened


@pytest.fixture
def prompts(store):
    """Texts of everything that the LM's layers are given from now on."""
    lm, seen = store.model.lm, []

    def record(_, args, kwargs):
        ids = kwargs.get("input_ids", args[0] if args else None)
        seen.extend(lm.tokenizer.decode(row) for row in ids.tolist())

    hook = lm.model.register_forward_pre_hook(record, with_kwargs=True)
    yield seen
    hook.remove()


def test_an_agent_saves_documents_and_answers_from_memories(store, prompts):
    CMTVectorStore(store).add_documents([Document(text) for text in TEXTS[SAVED:]])
    saves = [{"name": "save_memory", "args": {"text": text}, "id": str(n)} for n, text in enumerate(TEXTS[:SAVED])]
    scripted = Scripted(script=[AIMessage("", tool_calls=saves), AIMessage("Saved.")])
    saver = create_agent(scripted, middleware=[CMTMemoryMiddleware(store, tools=True)])
    told = saver.invoke({"messages": [HumanMessage("Remember these.")]})["messages"]
    assert sum(isinstance(message, ToolMessage) for message in told) == SAVED
    assert len(store) == len(TEXTS) == 50

    agent = create_agent(ChatCMT(store=store, max_tokens=16), middleware=[CMTMemoryMiddleware(store)])
    prompts.clear()
    answers = [agent.invoke({"messages": [question]})["messages"][-1] for question in QUESTIONS]
    asked = "\n".join(prompts)
    assert all(question in asked for question in QUESTIONS)
    for text in TEXTS:
        assert not any(sentence in asked for sentence in text.rstrip(".").split(". "))
    expected = [store.ask(question, max_new_tokens=16) for question in QUESTIONS]
    assert [answer.text for answer in answers] == [answer.text for answer in expected]
    assert all(answer.response_metadata["grounded"] for answer in answers)
    with_text = [store.ask(question, mode="text", max_new_tokens=16) for question in QUESTIONS[:1]]
    assert any(TEXTS[0][:20] in prompt for prompt in prompts), "the recording would show a text that is in a prompt"
    assert with_text
