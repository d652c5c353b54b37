from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any

import chromadb
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_memory.bank.filters import index_metadata, is_filterable, label_value, matches, parse, to_chroma, to_sql
from cmt_memory.errors import InvalidInputError

METADATA: list[dict[str, Any]] = [
    {},
    {"x": 1},
    {"x": 1.0},
    {"x": True},
    {"x": False},
    {"x": 0},
    {"x": -0.0},
    {"x": "1"},
    {"x": ""},
    {"x": "a\0b"},
    {"x": "é"},
    {"x": "z" * 600},
    {"x": 2**53},
    {"x": 2**53 + 1},
    {"x": 2**63 - 1},
    {"x": -(2**63)},
    {"x": 2**63},
    {"x": 2**200},
    {"x": float("nan")},
    {"x": float("inf")},
    {"x": 0.1 + 0.2},
    {"x": 0.3},
    {"x": 5e-324},
    {"x": None},
    {"x": [1]},
    {"x": {"y": 1}},
    {"x": 1, "y": "b", "$odd": 1, "": 2, "#hash": 3, "chroma:document": 4, "a\"'b": 5, "z" * 600: 6},
    {"x": "2024-05-01", "y": 2},
    {"x": "2024-11-30", "y": 3},
    {"y": True},
    {"x": 1.0000000000000002},
    {"x": 2.5182341951596846e70},
]

operands = st.sampled_from(
    [
        0,
        1,
        1.0,
        -1,
        True,
        False,
        "",
        "1",
        "a\0b",
        "2024-06-01",
        0.3,
        0.1 + 0.2,
        2**53,
        2**53 + 1,
        2**63 - 1,
        -(2**63),
        float(2**53),
        1e308,
        "z" * 600,
        "é",
        2,
        "b",
    ]
)
orders = operands.filter(lambda value: not isinstance(value, bool))
keys = st.sampled_from(["x", "y", "missing", "", "#hash", "chroma:document", "a\"'b", "z" * 600])
tests = st.one_of(
    operands,
    st.fixed_dictionaries({}, optional={"$eq": operands, "$ne": operands, "$gt": orders, "$lte": orders}).filter(bool),
    st.fixed_dictionaries({}, optional={"$gte": orders, "$lt": orders}).filter(bool),
    st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(operands, max_size=4), min_size=1),
)
ids = st.sampled_from(["d0", "d7", "d30", "", "a\0b"])
id_tests = ids | st.dictionaries(st.sampled_from(["$eq", "$ne"]), ids, min_size=1)
id_tests |= st.dictionaries(st.sampled_from(["$in", "$nin"]), st.lists(ids, max_size=4), min_size=1)
filters = st.recursive(
    st.dictionaries(keys, tests, max_size=2) | st.fixed_dictionaries({"$id": id_tests}),
    lambda inner: (
        st.dictionaries(st.sampled_from(["$and", "$or"]), st.lists(inner, min_size=1, max_size=3), min_size=1)
        | st.fixed_dictionaries({"$not": inner})
        | st.fixed_dictionaries({"$not": inner, "x": tests})
    ),
    max_leaves=6,
)


@pytest.fixture(scope="module")
def labels() -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(":memory:")
    connection.execute("CREATE TABLE documents (key INTEGER PRIMARY KEY, id)")
    connection.execute("CREATE TABLE labels (document, key, value, PRIMARY KEY (document, key)) WITHOUT ROWID")
    for number, metadata in enumerate(METADATA):
        connection.execute("INSERT INTO documents VALUES (?, ?)", (number, f"d{number}"))
        for key, value in metadata.items():
            if is_filterable(value):
                connection.execute("INSERT INTO labels VALUES (?, ?, ?)", (number, key, label_value(value)))
    yield connection
    connection.close()


@pytest.fixture(scope="module")
def collection() -> Any:
    client = chromadb.EphemeralClient(chromadb.config.Settings(anonymized_telemetry=False))
    collection = client.create_collection("filters", embedding_function=None)
    collection.upsert(
        ids=[str(number) for number in range(len(METADATA))],
        embeddings=np.eye(len(METADATA), dtype=np.float32),
        metadatas=[index_metadata(metadata) for metadata in METADATA],
    )
    return collection


@settings(max_examples=400)
@given(filter=filters)
def test_sql_means_the_same_as_python(labels: sqlite3.Connection, filter: dict[str, Any]):
    expected = [number for number, metadata in enumerate(METADATA) if matches(filter, metadata | {"$id": f"d{number}"})]
    condition = parse(filter)
    sql, values = ("1", []) if condition is None else to_sql(condition, "d.key")
    found = labels.execute(f"SELECT key FROM documents d WHERE {sql} ORDER BY key", values).fetchall()
    assert [row[0] for row in found] == expected


@settings(max_examples=200)
@given(filter=filters)
def test_chroma_never_misses_what_python_accepts(collection: Any, filter: dict[str, Any]):
    expected = {number for number, metadata in enumerate(METADATA) if matches(filter, metadata | {"$id": f"d{number}"})}
    condition = parse(filter)
    where = None if condition is None else to_chroma(condition)
    assert expected <= {int(id) for id in collection.get(where=where)["ids"]}


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=4,
)


@settings(max_examples=150)
@given(metadata=st.dictionaries(st.text() | st.sampled_from(["$a", "#a", "chroma:a", "a.b", " "]), json_values))
def test_chroma_takes_what_is_left_of_any_metadata(collection: Any, metadata: dict[str, Any]):
    kept = index_metadata(metadata)
    collection.upsert(ids=["any"], embeddings=np.ones((1, len(METADATA)), np.float32), metadatas=[kept])
    found = collection.get(ids=["any"])["metadatas"][0] or {}
    collection.delete(ids=["any"])
    # Chroma may read a float back as its neighbour: the ledger answers for exactness.
    near = {key: pytest.approx(value, rel=1e-12) if type(value) is float else value for key, value in found.items()}
    assert (kept or {}) == near


@pytest.mark.parametrize(
    ("filter", "expected"),
    [
        (None, range(len(METADATA))),
        ({}, range(len(METADATA))),
        ({"x": 1}, [1, 2, 26]),
        ({"x": True}, [3]),
        ({"x": {"$gt": 0.2, "$lt": 2}}, [1, 2, 20, 21, 26, 30]),
        ({"x": {"$gt": "2024-05-31", "$lt": "2025"}}, [28]),
        ({"x": 1, "y": "b"}, [26]),
        ({"$or": [{"y": 2}, {"y": {"$in": [3, "b"]}}]}, [26, 27, 28]),
        ({"$and": [{"x": 1}, {"$not": {"y": "b"}}]}, [1, 2]),
        ({"x": {"$in": []}}, []),
        ({"x": 2**53 + 1}, [13]),
    ],
)
def test_what_filters_mean(filter: Any, expected: Any):
    assert [
        number for number, metadata in enumerate(METADATA) if matches(filter, metadata | {"$id": f"d{number}"})
    ] == list(expected)


def test_a_missing_key_passes_only_negations():
    assert matches({"x": {"$ne": 1}}, {})
    assert matches({"x": {"$nin": [1]}}, {"x": None})
    assert matches({"$not": {"x": {"$gt": 1}}}, {"x": [5]})
    assert not matches({"x": {"$lt": 1}}, {})


@pytest.mark.parametrize(
    ("filter", "told"),
    [
        ("x", "filter is 'x'"),
        ([], "filter is"),
        ({1: 2}, "key 1"),
        ({"x": None}, r"filter\['x'\] is None"),
        ({"x": [1]}, r"filter\['x'\] is \[1\]"),
        ({"x": float("nan")}, "finite"),
        ({"x": 2**63}, "64-bit"),
        ({"x": {}}, "is empty"),
        ({"x": {"$regex": "a"}}, r"filter\['x'\]\['\$regex'\]: unknown operator"),
        ({"$xor": []}, "unknown operator"),
        ({"$and": {"x": 1}}, "list of filters"),
        ({"$and": []}, "list of filters"),
        ({"$and": [{"y": 1}, {"x": {"$in": 3}}]}, r"filter\['\$and'\]\[1\]\['x'\]\['\$in'\] is 3"),
        ({"x": {"$gt": True}}, "no order"),
        ({"$not": 3}, r"filter\['\$not'\] is 3"),
        ({"x": "\ud800"}, "surrogate"),
    ],
)
def test_bad_filters_name_the_key_path(filter: Any, told: str):
    with pytest.raises(InvalidInputError, match=told):
        parse(filter)
