"""CMTStore behaves as LangGraph's own in-memory store does, and keeps what it was given."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError
from langgraph.store.base import GetOp, InvalidNamespaceError, ListNamespacesOp, MatchCondition, PutOp, SearchOp
from langgraph.store.memory import InMemoryStore
from models import model

from langchain_cmt import CMTStore

ITEMS = {
    (("users", "mara"), "locker"): {"text": "Mara's locker is blue.", "size": 3, "tags": ["a", "b"], "on": True},
    (("users", "mara"), "food"): {"text": "Mara likes plums.", "size": 7, "at": {"floor": 2}},
    (("users", "tom"), "locker"): {"text": "Tom's locker is red.", "size": 5, "tags": []},
    (("shop",), "hours"): {"text": "The shop opens at 9:30.", "size": 1.5},
}


@pytest.fixture
def clock():
    return [1_000_000.0]


@pytest.fixture
def items(tmp_path, clock):
    with CMTMemoryStore(tmp_path / "store", model(), lazy=True, clock=lambda: clock[0]) as store:
        made = CMTStore(store, fields=["text"])
        for (namespace, key), value in ITEMS.items():
            made.put(namespace, key, value)
        yield made


@pytest.fixture
def reference():
    made = InMemoryStore()
    for (namespace, key), value in ITEMS.items():
        made.put(namespace, key, value)
    return made


def names(found):
    return sorted((item.namespace, item.key) for item in found)


def test_an_item_comes_back_as_it_was(items):
    for (namespace, key), value in ITEMS.items():
        item = items.get(namespace, key)
        assert (item.namespace, item.key, item.value) == (namespace, key, value)
    assert items.get(("users",), "locker") is None
    created = items.get(("shop",), "hours").created_at
    items.put(("shop",), "hours", {"text": "The shop is closed."})
    item = items.get(("shop",), "hours")
    assert item.value == {"text": "The shop is closed."}
    assert item.created_at == created < item.updated_at
    items.delete(("shop",), "hours")
    items.delete(("shop",), "hours")
    assert items.get(("shop",), "hours") is None
    with pytest.raises(InvalidNamespaceError):
        items.put((), "key", {"text": "No namespace."})


@pytest.mark.parametrize(
    "filter",
    [
        None,
        {"size": 3},
        {"size": {"$gte": 3}},
        {"size": {"$gt": 1.5, "$lt": 7}},
        {"size": {"$ne": 3}},
        {"text": "Mara likes plums."},
        {"text": {"$eq": "Mara likes plums."}},
        {"tags": ["a", "b"]},
        {"tags": []},
        {"at": {"floor": 2}},
        {"at": {"floor": {"$gt": 1}}},
        {"on": True, "size": {"$lte": 3}},
        {"missing": 1},
    ],
    ids=str,
)
@pytest.mark.parametrize("prefix", [(), ("users",), ("users", "mara"), ("nobody",)], ids=str)
def test_filters_and_namespaces_as_in_memory(items, reference, prefix, filter):
    if filter and "at" in filter and isinstance(filter["at"]["floor"], dict):
        expected = [(("users", "mara"), "food")] if prefix != ("nobody",) else []
    else:
        expected = names(reference.search(prefix, filter=filter))
    assert names(items.search(prefix, filter=filter)) == expected


def test_pages(items):
    every = [(item.namespace, item.key) for item in items.search((), limit=10)]
    assert [(item.namespace, item.key) for item in items.search((), limit=2, offset=1)] == every[1:3]
    best = [item.key for item in items.search(("users",), query="locker", limit=3)]
    assert [item.key for item in items.search(("users",), query="locker", limit=2, offset=1)] == best[1:3]


def test_semantic_search_with_scores(items):
    found = items.search(("users",), query="Which fruit does she like?", limit=2)
    assert found[0].key == "food"
    assert found[0].score > found[1].score
    assert items.search((), query="opening hours", filter={"size": {"$gt": 2}}, limit=1)[0].key != "hours"
    assert [item.key for item in items.search(("users",), query="locker", filter={"size": 7})] == ["food"]


def test_what_is_not_indexed_comes_last_and_without_a_score(items):
    items.put(("users", "mara"), "secret", {"text": "plums plums plums"}, index=False)
    items.put(("users", "mara"), "title", {"text": "Nothing.", "title": "A fruit: plums"}, index=["title"])
    found = items.search(("users", "mara"), query="plums", limit=10)
    assert {item.key for item in found[:2]} == {"food", "title"}
    assert (found[-1].key, found[-1].score) == ("secret", None)
    assert items.get(("users", "mara"), "secret").value == {"text": "plums plums plums"}


@pytest.mark.parametrize(
    "query",
    [
        {},
        {"prefix": ("users",)},
        {"suffix": ("mara",)},
        {"prefix": ("*", "tom")},
        {"prefix": ("users",), "suffix": ("*",)},
        {"max_depth": 1},
        {"limit": 1, "offset": 1},
    ],
    ids=str,
)
def test_namespaces_as_in_memory(items, reference, query):
    assert items.list_namespaces(**query) == reference.list_namespaces(**query)


def test_a_batch_reads_what_was_there_before(items):
    results = items.batch(
        [
            PutOp(("shop",), "hours", {"text": "First."}),
            PutOp(("shop",), "hours", {"text": "Last."}),
            GetOp(("shop",), "hours"),
            SearchOp(("shop",)),
            ListNamespacesOp(match_conditions=(MatchCondition("prefix", ("shop",)),)),
            PutOp(("users", "tom"), "locker", None),
        ]
    )
    assert results[0] is results[1] is results[5] is None
    assert results[2].value["text"] == "The shop opens at 9:30."
    assert [item.key for item in results[3]] == ["hours"]
    assert results[4] == [("shop",)]
    assert items.get(("shop",), "hours").value == {"text": "Last."}
    assert items.get(("users", "tom"), "locker") is None


def test_times_to_live_in_minutes(items, clock):
    items.put(("short",), "a", {"text": "Soon gone."}, ttl=10)
    clock[0] += 9 * 60
    assert items.get(("short",), "a", refresh_ttl=False) is not None
    assert items.search(("short",), refresh_ttl=True)
    clock[0] += 9 * 60
    assert items.get(("short",), "a") is not None
    clock[0] += 11 * 60
    assert items.get(("short",), "a") is None
    assert items.search(("short",)) == items.search(("short",), query="gone") == []
    assert ("short",) not in items.list_namespaces()
    kept = CMTStore(items.store, fields=["text"], ttl={"default_ttl": 5, "refresh_on_read": False})
    kept.put(("short",), "b", {"text": "By default."})
    clock[0] += 4 * 60
    assert kept.get(("short",), "b") is not None
    clock[0] += 2 * 60
    assert kept.get(("short",), "b") is None


async def test_the_async_twins(items):
    await items.aput(("users", "ada"), "pet", {"text": "Ada has a parrot."})
    assert (await items.aget(("users", "ada"), "pet")).value == {"text": "Ada has a parrot."}
    assert [item.key for item in await items.asearch(("users", "ada"), query="bird")] == ["pet"]
    assert ("users", "ada") in await items.alist_namespaces()
    await items.adelete(("users", "ada"), "pet")
    assert await items.aget(("users", "ada"), "pet") is None


def test_other_documents_of_the_store_are_left_alone(items):
    items.store.add_documents(["A report about plums."], ids=["report"])
    assert "report" not in [item.key for item in items.search((), query="plums", limit=10)]
    assert items.store.get("report")[0].text == "A report about plums."
    assert items.store.search("Mara plums", k=1)[0].text == "Mara likes plums."


def test_a_reader_beside_a_writer_finds_items_and_leaves_their_lives_alone(items, clock):
    items.put(("short",), "a", {"text": "Soon gone."}, ttl=10)
    with CMTMemoryStore(items.store.path, model(), read_only=True, clock=lambda: clock[0]) as reader:
        assert CMTStore(reader).get(("short",), "a").value == {"text": "Soon gone."}
        assert CMTStore(reader).search(("short",), query="gone")[0].key == "a"


def test_wrong_use(items):
    with pytest.raises(InvalidInputError, match="fields"):
        CMTStore(items.store, fields="text")
    with pytest.raises(InvalidInputError, match=r"\$like is no operator"):
        items.search((), filter={"size": {"$like": 1}})


def test_an_item_that_goes_while_it_is_read_stays_gone(tmp_path):
    ticking = {"now": 1_000_000.0, "step": 0.0}

    def clock():
        ticking["now"] += ticking["step"]
        return ticking["now"]

    with CMTMemoryStore(tmp_path / "s", model(), lazy=True, clock=clock) as store:
        items = CMTStore(store, fields=["text"])
        for step in range(5, 60, 5):
            ticking["step"] = 0.0
            items.put(("short",), "a", {"text": "Soon gone."}, ttl=1)
            ticking["step"] = step
            items.get(("short",), "a")
            items.search(("short",), query="gone")


def test_several_threads_write_the_same_item(items):
    def work(number):
        for step in range(10):
            items.put(("shared",), "a", {"text": f"{step} by {number}"}, ttl=5)
            items.get(("shared",), "a")
            items.delete(("shared",), "a")
            items.search(("shared",), query="by")

    with ThreadPoolExecutor(3) as threads:
        list(threads.map(work, range(3)))
    assert items.get(("shared",), "a") is None


def test_a_blank_query_lists(items):
    assert names(items.search(("users",), query=" ")) == names(items.search(("users",)))
    assert items.search(("users",), query="locker", limit=0) == []


def test_any_json_and_any_script(items):
    value = {"text": "Το ντουλάπι είναι μπλε.", "long": "word " * 3000, "none": None, "deep": {"a": [1, {"b": None}]}}
    value |= {"$id": "x", "a.b": "y"}
    items.put(("χρήστες", "猫"), "κλειδί", value)
    assert items.get(("χρήστες", "猫"), "κλειδί").value == value
    for filter in ({"none": None}, {"long": value["long"]}, {"$id": "x"}, {"a.b": "y"}, {"deep": value["deep"]}):
        assert [item.key for item in items.search(("χρήστες",), filter=filter)] == ["κλειδί"], filter
    items.put(("χρήστες", "猫"), "empty", {})
    assert items.get(("χρήστες", "猫"), "empty").value == {}
