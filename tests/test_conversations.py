"""Conversations, tools and leads that a store is asked with; its ids and what has changed in it."""

from __future__ import annotations

import pytest

from cmt_memory import CMTMemoryStore
from cmt_memory.errors import InvalidInputError
from tests.tiny import DOCUMENTS, QUESTION, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "store", model) as opened:
        opened.add_documents(DOCUMENTS, ids=["locker", "shop", "sunday"], metadatas=[{"n": n} for n in range(3)])
        yield opened


def test_ids_are_listed_in_order_and_by_filter(store):
    assert store.document_ids() == ["locker", "shop", "sunday"]
    assert store.document_ids({"n": {"$gt": 0}}) == ["shop", "sunday"]
    assert store.document_ids({"n": {"$ne": 1}}, limit=1, offset=1) == ["sunday"]
    assert store.document_ids({"$or": [{"n": 0}, {"n": 2}]}, limit=0) == []
    store.delete("shop")
    assert store.document_ids(offset=1) == ["sunday"]
    for wrong in ({"limit": -1}, {"offset": -1}, {"limit": True}, {"filter": {"n": None}}):
        with pytest.raises(InvalidInputError):
            store.document_ids(**wrong)


def test_expired_documents_are_not_listed(model, tmp_path):
    now = [1000.0]
    with CMTMemoryStore(tmp_path / "s", model, encoder=None, clock=lambda: now[0]) as store:
        store.add_documents(["Short lived."], ids=["a"], ttl=10)
        store.add_documents(["Long lived."], ids=["b"])
        now[0] += 11
        assert store.document_ids() == ["b"]
        assert store.versions(["a", "b"])[0] is None


def test_a_store_says_whether_it_can_be_changed(store, model):
    assert not store.read_only
    with CMTMemoryStore(store.path, model, read_only=True) as reader:
        assert reader.read_only
        assert reader.document_ids() == store.document_ids()


def test_a_version_changes_with_the_text_alone(store):
    before, counted = store.versions(["shop", "shop#0", "sunday", "nobody", "shop#9"]), store.changes()
    assert before[0] == before[1] != before[2]
    assert before[3:] == [None, None]
    store.update("shop", metadata={"n": 8})
    assert store.changes() > counted
    assert store.versions("shop") == before[:1]
    store.update("shop", text="The shop is closed for good.")
    assert store.versions("shop") != before[:1]
    assert store.versions("sunday") == before[2:3]


def test_a_conversation_is_asked_by_the_users_last_words(store):
    talk = [
        {"role": "user", "content": "When does the shop open?"},
        {"role": "assistant", "content": "At 9:30."},
        {"role": "user", "content": QUESTION},
    ]
    settings = {"k": 1, "max_new_tokens": 6}
    answer = store.ask(talk, **settings)
    assert [hit.id for hit in answer.hits] == ["locker"]
    assert answer.text == store.generator.chat(talk, store.passages("locker"), max_new_tokens=6).text
    assert answer.finish_reason == "length"
    assert "".join(store.stream(talk, **settings)) == answer.text
    assert store.ask([{"role": "user", "content": QUESTION}], **settings).text == store.ask(QUESTION, **settings).text
    for empty in ([], [{"role": "assistant", "content": "Hello."}]):
        with pytest.raises(InvalidInputError, match="user message"):
            store.ask(empty)


def test_tools_reach_the_template_of_answers_and_streams(model, tmp_path):
    tokenizer = model.lm.tokenizer
    template = tokenizer.chat_template
    tool = {"type": "function", "function": {"name": "weigh", "description": "Weigh it.", "parameters": {}}}
    with CMTMemoryStore(tmp_path / "s", model, encoder=None) as store:
        store.add_documents(DOCUMENTS)
        generation = "{% if add_generation_prompt %}"
        tokenizer.chat_template = template.replace(
            generation, "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}" + generation
        )
        try:
            plain = store.ask(QUESTION, max_new_tokens=4)
            with_tool = store.ask(QUESTION, max_new_tokens=4, tools=[tool])
            streamed = "".join(store.stream(QUESTION, max_new_tokens=4, tools=[tool]))
        finally:
            tokenizer.chat_template = template
    assert with_tool.usage.prompt_tokens > plain.usage.prompt_tokens
    assert streamed == with_tool.text


def test_an_answer_goes_on_from_its_lead(store):
    tokenizer = store.model.lm.tokenizer
    settings = {"k": 1, "max_new_tokens": 6}
    plain, led = store.ask(QUESTION, **settings), store.ask(QUESTION, lead="The code: ", **settings)
    added = tokenizer.encode("The code: ", add_special_tokens=False)
    assert led.usage.prompt_tokens == plain.usage.prompt_tokens + len(added)
    assert led.text == "".join(store.stream(QUESTION, lead="The code: ", **settings))
    talk = [{"role": "user", "content": QUESTION}]
    assert led.text == store.ask(talk, lead="The code: ", **settings).text
    hits = store.passages("locker")
    assert led.text == store.generator.chat(talk, hits, lead="The code: ", max_new_tokens=6).text
