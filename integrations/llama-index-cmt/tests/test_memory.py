from __future__ import annotations

import asyncio

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError
from llama_index.core.llms import ChatMessage
from llama_index.core.memory import Memory

from llama_index.memory.cmt import CMTMemoryBlock


@pytest.fixture
def store(qwen, tmp_path):
    with CMTMemoryStore(tmp_path / "s", qwen, lazy=True) as opened:
        yield opened


def say(*texts):
    return [ChatMessage(role="user", content=text) for text in texts]


def seen(block, session=None, question="What is my dog called?"):
    return asyncio.run(block.aget(say(question), session_id=session))


def test_sessions_cannot_see_each_other(store):
    block = CMTMemoryBlock(store=store)
    asyncio.run(block.aput(say("My dog is called Biscuit."), session_id="a"))
    asyncio.run(block.aput(say("My dog is called Waffle."), session_id="b"))
    asyncio.run(block.aput(say("My dog is called Nobody.")))
    for _ in range(2):  # asking for one session leaves nothing behind for the next
        assert seen(block, "a") == "user: My dog is called Biscuit."
        assert seen(block, "b") == "user: My dog is called Waffle."
        assert seen(block) == "user: My dog is called Nobody."
        assert seen(block, "c") == seen(block, "") == ""


def test_blocks_and_documents_of_one_store_are_apart(store):
    store.add_documents(["The dog of the shop is called Rex."], metadatas=[{"session_id": "a"}])
    one, two = CMTMemoryBlock(store=store, name="one"), CMTMemoryBlock(store=store, name="two")
    asyncio.run(one.aput(say("My dog is called Biscuit."), session_id="a"))
    assert seen(one, "a") == "user: My dog is called Biscuit."
    assert seen(two, "a") == ""


def test_messages_are_left_as_they_are(store):
    [message] = say("My dog is called Biscuit.")
    message.additional_kwargs = {"tool": {"deep": object()}}
    asyncio.run(CMTMemoryBlock(store=store).aput([message], session_id="a"))
    assert list(message.additional_kwargs) == ["tool"]


def test_the_nearest_messages_and_no_more_than_asked_for(store):
    block = CMTMemoryBlock(store=store, similarity_top_k=1)
    asyncio.run(block.aput(say("I like pizza.", "My dog is called Biscuit.", "The sky is grey.", " "), session_id="a"))
    assert seen(block, "a") == "user: My dog is called Biscuit."
    assert seen(CMTMemoryBlock(store=store, min_score=0.999), "a") == ""
    assert asyncio.run(block.aget([], session_id="a")) == ""


def test_a_session_can_be_forgotten(store):
    block = CMTMemoryBlock(store=store)
    asyncio.run(block.aput(say("My dog is called Biscuit."), session_id="a"))
    asyncio.run(block.aput(say("My dog is called Waffle."), session_id="b"))
    asyncio.run(block.aforget("a"))
    assert seen(block, "a") == ""
    assert "Waffle" in seen(block, "b")


def test_memory_flushes_into_the_block_and_finds_again(store):
    def memory(session):
        return Memory.from_defaults(
            session_id=session,
            token_limit=60,
            chat_history_token_ratio=0.5,
            token_flush_size=10,
            memory_blocks=[CMTMemoryBlock(store=store)],
        )

    mine, other = memory("mine"), memory("other")
    mine.put_messages([*say("My dog is called Biscuit."), ChatMessage(role="assistant", content="What a name.")])
    for number in range(6):
        mine.put_messages(say(f"Let us talk about something else, number {number}, for quite a while."))
    assert "Biscuit" not in str([message.content for message in mine.get_all(status=None)][-1])
    assert "Biscuit" in str([message.content for message in mine.get(input="What is my dog called?")])
    other.put(say("Hello there.")[0])
    assert "Biscuit" not in str([message.content for message in other.get(input="What is my dog called?")])


def test_a_message_that_was_put_without_its_session(store):
    block = CMTMemoryBlock(store=store, accept_short_term_memory=False)
    asyncio.run(block.aput(say("My dog is called Biscuit."), from_short_term_memory=True, session_id="a"))
    assert len(store) == 0


def test_it_wants_a_store():
    with pytest.raises(InvalidInputError, match="expected an open CMTMemoryStore"):
        CMTMemoryBlock(store="mem")


def test_a_store_without_texts_is_refused(qwen, tmp_path):
    with (
        CMTMemoryStore(tmp_path / "n", qwen, keep_text=False) as store,
        pytest.raises(InvalidInputError, match="keeps none"),
    ):
        CMTMemoryBlock(store=store)


def test_what_it_does_not_know_is_refused(store):
    with pytest.raises(InvalidInputError, match=r"\['top_k'\], which it does not know; it takes name, description"):
        CMTMemoryBlock(store=store, top_k=3)


def test_session_ids_of_any_kind_are_apart(store):
    block = CMTMemoryBlock(store=store)
    sessions = [1, "1", True, "", "None", None, "a#0", "größe"]
    for session in sessions:
        asyncio.run(block.aput(say(f"My dog is called {session!r}."), session_id=session))
    for session in sessions:
        assert seen(block, session) == f"user: My dog is called {session!r}."
