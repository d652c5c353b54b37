from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_memory.documents import Document, coerce_documents, content_id, metadata_json
from cmt_memory.errors import InvalidInputError


class PageLike:
    def __init__(self, page_content: Any, metadata: Any = None, id: str | None = None) -> None:
        self.page_content, self.metadata, self.id = page_content, metadata, id

    def __iter__(self) -> Any:  # as pydantic models do
        return iter([("page_content", self.page_content)])


class NodeLike:
    def __init__(self, text: str, metadata: dict[str, Any], node_id: str) -> None:
        self.text, self.metadata, self.node_id = text, metadata, node_id

    def get_content(self) -> str:
        return self.text


def test_import_needs_no_framework():
    code = (
        "import sys, cmt_memory.documents, cmt_memory.bank.filters;"
        "print([m for m in ('torch', 'chromadb', 'numpy', 'transformers') if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_every_shape_is_accepted():
    items = [
        "a text",
        Document("two", {"k": 1}),
        {"text": "three", "metadata": {"k": [1, None]}, "id": "my id"},
        {"page_content": "four"},
        {"content": "five", "metadata": None, "id": None},
        PageLike("six", {"k": "v"}, "p"),
        PageLike("seven"),
        NodeLike("eight", {"k": True}, "n"),
    ]
    documents, ids = coerce_documents(items)
    assert [d.text for d in documents] == ["a text", "two", "three", "four", "five", "six", "seven", "eight"]
    assert [d.metadata for d in documents] == [{}, {"k": 1}, {"k": [1, None]}, {}, {}, {"k": "v"}, {}, {"k": True}]
    assert [d.id for d in documents] == ids
    assert ids[2] == "my id"
    assert ids[5] == "p"
    assert ids[7] == "n"
    assert ids[0] == content_id("a text")
    assert ids[1] == content_id("two", {"k": 1})


@pytest.mark.parametrize("one", ["a", Document("a"), {"text": "a"}, PageLike("a"), NodeLike("a", {}, "i")])
def test_one_is_a_list_of_one(one: Any):
    assert len(coerce_documents(one).documents) == 1


def test_generators_and_nothing():
    assert coerce_documents(str(n) for n in range(3)).ids == [content_id(str(n)) for n in range(3)]
    assert coerce_documents([]) == ([], [])


def test_metadatas_and_ids_per_position():
    documents, ids = coerce_documents(
        [Document("a", {"x": 1, "y": 1}, "old"), "b"], metadatas=[{"x": 2}, None], ids=["new", None]
    )
    assert documents[0] == Document("a", {"x": 2, "y": 1}, "new")
    assert ids == ["new", content_id("b")]
    with pytest.raises(InvalidInputError, match="1 values for 2 documents"):
        coerce_documents(["a", "b"], ids=["x"])
    with pytest.raises(InvalidInputError, match="a string"):
        coerce_documents(["a", "b"], ids="xy")


@pytest.mark.parametrize("text", ["\0", "a\0b", "👩‍👩‍👧‍👦", "שלום עולם", "x" * 1_000_000, "\ufeff", "\x1b[31m"])
def test_unusual_texts_are_kept(text: str):
    assert coerce_documents(text).documents[0].text == text


@pytest.mark.parametrize(
    ("bad", "told"),
    [
        ("", "document 1: the text is empty"),
        (" \n\t\u3000", "document 1: the text is only whitespace"),
        (b"bytes", "document 1 is bytes b'bytes'"),
        (7, "document 1 is int 7"),
        (None, "document 1 is NoneType"),
        ({"text": 7}, "document 1: the text is int 7"),
        ({"metadata": {}}, r"exactly one of \['text'"),
        ({"text": "a", "content": "b"}, "exactly one of"),
        ({"text": "a", "author": "x"}, r"unknown keys \['author'\]"),
        ({"text": "a", "metadata": "m"}, "metadata is str 'm'"),
        ({"text": "a", "id": ""}, "the id is str ''"),
        ({"text": "a", "id": 7}, "the id is int 7"),
        ({"text": "a", "id": "\udc00"}, "lone surrogate"),
        ("ab\ud800", "lone surrogate at character 2"),
        (Document("a", {"when": object()}), r"metadata\['when'\] is object"),
        (Document("a", {"a": [{"b": {1}}]}), r"metadata\['a'\]\[0\]\['b'\] is set"),
        (Document("a", {1: 2}), "has the key 1"),  # type: ignore[dict-item]
        (Document("a", {"k": "\ud800"}), r"metadata\['k'\] has a lone surrogate"),
        (Document("a", {"k": 10**5000}), "cannot be written as JSON"),
        (PageLike(3), "the text is int 3"),
    ],
)
def test_bad_items_are_named(bad: Any, told: str):
    with pytest.raises(InvalidInputError, match=told):
        coerce_documents(["good", bad])


def test_endless_metadata_is_refused():
    loop: dict[str, Any] = {}
    loop["me"] = loop
    with pytest.raises(InvalidInputError, match="nested deeper"):
        coerce_documents(Document("a", loop))


def test_duplicates_in_one_call():
    documents, ids = coerce_documents(["a", "b", "a", {"text": "b", "metadata": {}}])
    assert [d.text for d in documents] == ["a", "b"]
    assert ids == [content_id("a"), content_id("b")] * 2
    assert len(coerce_documents([Document("a", {}, "x"), Document("a", {}, "x")]).documents) == 1
    with pytest.raises(InvalidInputError, match="document 1: id 'x' is given twice"):
        coerce_documents([Document("a", {}, "x"), Document("b", {}, "x")])
    with pytest.raises(InvalidInputError, match="given twice"):
        coerce_documents([Document("a", {"k": 1}, "x"), Document("a", {"k": 1.0}, "x")])


def test_what_is_given_is_not_shared():
    mine = {"tags": ["a"]}
    kept = coerce_documents(Document("t", mine)).documents[0]
    mine["tags"].append("b")
    assert kept.metadata == {"tags": ["a"]}


def test_content_id_separates_text_from_metadata():
    assert content_id("a", {"x": 1, "y": 2}) == content_id("a", {"y": 2, "x": 1})
    assert len({content_id("a", {"x": value}) for value in (1, 1.0, True, "1", None, [1], 2**70, float("nan"))}) == 8
    assert content_id("a", {}) == content_id("a", None)
    assert content_id('a\0{"x":1}') != content_id("a", {"x": 1})
    assert content_id("a", {"x": float("nan")}) == content_id("a", {"x": float("nan")})


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), json_values, max_size=4))
def test_metadata_survives(metadata: dict[str, Any]):
    kept = coerce_documents(Document("t", metadata)).documents[0].metadata
    assert metadata_json(kept) == metadata_json(metadata)
    assert repr(kept) == repr(metadata)
