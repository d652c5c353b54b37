"""Odd input to a store: the documented behaviour, and the store as it was before."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.errors import InvalidInputError, StoreClosedError
from tests.bank.helpers import lexicon_is_sound
from tests.kills.worker import MODEL, MODELS, DigestEncoder

ODD_IDS = [
    "../../etc/passwd",
    "/etc/passwd",
    "..\\..\\windows",
    "a/b#0",
    "#",
    "a#0#1",
    "'; DROP TABLE documents; --",
    '" OR 1=1 --',
    "%s%n?",
    "NUL\0byte",
    "new\nline",
    "עברית 🙂",
    "x" * 5000,
    "$and",
    "-1",
]
ODD_METADATA: list[dict[str, Any]] = [
    {"nested": {"a": [1, {"b": None}]}, "none": None, "list": [1, "x"]},
    {"huge": 2**200, "negative": -(2**63) - 1, "largest": 2**63 - 1},
    {"nan": math.nan, "inf": math.inf, "tiny": 5e-324, "zero": -0.0},
    {"": 1, "$eq": 2, "#k": 3, "chroma:document": 4, "'; DROP TABLE labels; --": 5, "nul\0key": 6, "long" * 500: 7},
    {"text": "x" * 100_000, "quote": "'\"", "true": True, "one": 1, "float": 1.0},
    {f"key {n}": n for n in range(500)},
]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[CMTMemoryStore]:
    with CMTMemoryStore(tmp_path / "store", MODEL, encoder=DigestEncoder()) as opened:
        opened.add_documents([Document("What was there before.", {"n": 1}, "before")])
        yield opened


@pytest.fixture
def unchanged(store: CMTMemoryStore) -> Iterator[CMTMemoryStore]:
    before = store.get(store.bank.ids()), store.bank.changes()
    yield store
    assert (store.get(store.bank.ids()), store.bank.changes()) == before
    assert store.search("What was there before.", k=3)[0].id == "before"


def same(one: Any, other: Any) -> bool:
    """Equality that takes NaN for itself and tells 1 from 1.0 and True."""
    return repr(one) == repr(other)


def test_odd_ids_are_only_names(store: CMTMemoryStore, tmp_path: Path):
    texts = {id: f"Text number {n} of its own." for n, id in enumerate(ODD_IDS)}
    assert store.add_documents([Document(text, id=id) for id, text in texts.items()]) == ODD_IDS
    outside = {path.name for path in tmp_path.iterdir()}
    assert outside == {"store"}
    assert {path.name for path in (tmp_path / "store").iterdir()} <= {
        "chroma", "lock", "ledger.sqlite3", "ledger.sqlite3-wal", "ledger.sqlite3-shm"
    }  # fmt: skip
    for id, text in texts.items():
        assert store.get(id) == [Document(text, {}, id)]
        hit = store.search(text, k=1)[0]
        assert (hit.id, hit.passage) == (id, f"{id}#0")
        assert store.ask("Which?", memory_ids=[hit.passage], max_new_tokens=1).hits[0].id == id
    store.delete(ODD_IDS)
    assert store.bank.ids() == ["before"]
    with lexicon_is_sound(store.bank):
        pass


@pytest.mark.parametrize("metadata", ODD_METADATA, ids=lambda metadata: next(iter(metadata)) or "keys")
def test_odd_metadata_comes_back_as_it_was(store: CMTMemoryStore, metadata: dict[str, Any]):
    [id] = store.add_documents([Document("A text with odd metadata.", metadata)])
    [known] = store.get(id)
    assert same(dict(sorted(known.metadata.items())), dict(sorted(metadata.items())))
    assert same(store.search("A text with odd metadata.", k=1)[0].metadata, known.metadata)
    changes = store.bank.changes()
    assert store.add_documents([Document("A text with odd metadata.", metadata)]) == [id]
    assert store.bank.changes() == changes
    store.close()
    with CMTMemoryStore(store.path, MODEL, encoder=DigestEncoder()) as again:
        assert same(again.get(id)[0].metadata, known.metadata)


@pytest.mark.parametrize(
    ("documents", "told"),
    [
        ([Document("One.", id="a"), Document("Two.", id="a")], "document 2: id 'a' is given twice"),
        ([Document("One.", {"x": 1}, id="a"), Document("One.", {"x": True}, id="a")], "given twice"),
        ([Document("One.", {"x": object()})], r"metadata\['x'\]"),
        ([Document("One.", {"x": {1: 2}})], "keys must be str"),
        ([Document("One.", {"x": "\ud800"})], "surrogate"),
        ([Document("One.", {"\udfff": 1})], "surrogate"),
        ([Document("One.", id="\ud83d")], "surrogate"),
        ([Document("Lone \udc00.")], "surrogate"),
        ([Document("One.", id="")], "non-empty"),
        ([Document("One.", id=" ")], "non-empty"),
        ([Document("One.", id=7)], "non-empty"),  # type: ignore[arg-type]
        ([Document("One.", {"x": 10**5000})], "cannot be written"),
        ([Document("One.", {"x": {1, 2}})], "JSON"),
    ],
)
def test_what_cannot_be_kept_is_refused(unchanged: CMTMemoryStore, documents: list[Document], told: str):
    with pytest.raises(InvalidInputError, match=told):
        unchanged.add_documents([Document("A good one."), *documents])


def test_metadata_that_contains_itself_is_refused(unchanged: CMTMemoryStore):
    endless: dict[str, Any] = {}
    endless["self"] = endless
    with pytest.raises(InvalidInputError, match="nested deeper"):
        unchanged.add_documents([Document("One.", endless)])


def test_the_same_document_twice_in_one_call_is_one(store: CMTMemoryStore):
    ids = store.add_documents([Document("Same.", {"x": 1}), Document("Same.", {"x": 1}), Document("Same.")])
    assert ids[0] == ids[1] != ids[2]
    assert len(store) == 3


@pytest.mark.parametrize("ids", ["\ud800", ["before", "\udfff"], [None], None, 3, [b"before"]])
def test_ids_that_are_none(unchanged: CMTMemoryStore, ids: Any):
    for use in (unchanged.get, unchanged.delete, lambda given: unchanged.ask("?", memory_ids=given)):
        if ids is None and use is not unchanged.get and use is not unchanged.delete:
            continue
        with pytest.raises(InvalidInputError):
            use(ids)


def test_unknown_ids(unchanged: CMTMemoryStore):
    assert unchanged.get(["nobody", "before", "' OR 1=1 --"]) == unchanged.get("before")
    with pytest.raises(InvalidInputError, match="nobody"):
        unchanged.delete(["before", "nobody"])
    for passage in ("before#00", "before#1", f"before#{10**30}", "before#" + "9" * 5000, "before#-0", "before#٠"):
        with pytest.raises(InvalidInputError, match="unknown"):
            unchanged.ask("What?", memory_ids=[passage])


@pytest.mark.parametrize("k", [1, 5, 1000, 10**6, 2**31, 2**63, 10**30])
def test_more_hits_than_there_are(store: CMTMemoryStore, k: int, caplog: pytest.LogCaptureFixture):
    store.add_documents([f"Document number {n} of a few." for n in range(6)])
    hits = store.search("Document number 3 of a few.", k=k)
    assert len(hits) == min(k, 7)
    assert hits[0].text == "Document number 3 of a few."
    assert len(store.search("Document", k=k, filter={"n": 1})) == 1
    assert not caplog.records


@pytest.mark.parametrize(
    ("filter", "count"),
    [
        ({"n": {"$in": list(range(30_000))}}, 1),
        ({"n": {"$nin": list(range(2, 30_000))}}, 2),
        ({"$or": [{"n": n} for n in range(500)]}, 1),
        ({"$and": [{"n": {"$ne": -n}} for n in range(1, 501)]}, 2),
        ({"$not": {"n": {"$in": [f"{n}" for n in range(5000)]}}}, 2),
    ],
    ids=["in", "nin", "or", "and", "not"],
)
def test_large_filters(store: CMTMemoryStore, filter: dict[str, Any], count: int, caplog: pytest.LogCaptureFixture):
    """Chroma by itself would overflow its stack on some of these."""
    store.add_documents([Document("Another.", {"n": 10**6})])
    hits = store.search("What was there before.", k=9, filter=filter)
    assert (hits[0].id, len(hits)) == ("before", count)
    assert not caplog.records


def nested(depth: int) -> dict[str, Any]:
    filter: dict[str, Any] = {"n": 1}
    for _ in range(depth):
        filter = {"$not": filter}
    return filter


def test_filters_that_are_too_large_are_refused(unchanged: CMTMemoryStore, caplog: pytest.LogCaptureFixture):
    for filter in ({"n": {"$in": list(range(30_001))}}, {"$or": [{"n": n} for n in range(501)]}):
        with pytest.raises(InvalidInputError, match="at most 30000 in 500"):
            unchanged.search("What?", filter=filter)
    for depth in (51, 100_000):
        with pytest.raises(InvalidInputError, match="deeper than 50"):
            unchanged.search("What?", filter=nested(depth))
    assert [hit.id for hit in unchanged.search("What?", filter=nested(50))] == ["before"]
    assert not caplog.records


def test_a_closed_store(store: CMTMemoryStore):
    store.close()
    store.close()
    for use in (
        lambda: store.add_documents(["New."]),
        lambda: store.get("before"),
        lambda: store.delete("before"),
        lambda: store.search("What?"),
        lambda: store.ask("What?", max_new_tokens=1),
        lambda: next(store.stream("What?", max_new_tokens=1)),
        lambda: store.bank.search_vectors(DigestEncoder().embed_query("x"), 1),  # type: ignore[arg-type]
        lambda: len(store),
        lambda: store.update("before", text="New."),
        store.stats,
        store.verify,
        store.compact,
        store.recompress,
        lambda: store.recompress(MODELS[1]),
        store.compress_pending,
    ):
        with pytest.raises(StoreClosedError, match="open it again"):
            use()
    assert store.bank._index is not None
    assert store.bank._index._index._client is None, "a closed store must not open Chroma again"
    with CMTMemoryStore(store.path, MODEL, encoder=DigestEncoder()) as again:
        assert again.bank.ids() == ["before"]
