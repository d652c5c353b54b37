from __future__ import annotations

from typing import Any

import pytest
from cmt_memory import CMTMemoryStore, InvalidInputError
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters
from llama_index.core.vector_stores.utils import build_metadata_filter_fn

from llama_index.vector_stores.cmt import CMTVectorStore
from llama_index.vector_stores.cmt.filters import accepts, translate

METADATA: list[dict[str, Any]] = [
    {},
    {"x": 1},
    {"x": 2.5},
    {"x": "b"},
    {"x": "a b c"},
    {"x": ""},
    {"x": []},
    {"x": ["a", "b"]},
    {"x": [1, 2, "b"]},
    {"x": None, "y": "a"},
    {"x": 3, "y": "B"},
    {"x": "2024-05-01", "y": ["a"]},
]

scalars = st.sampled_from([1, 2.5, 3, "a", "b", "", "2024-06-01"])
lists = st.lists(st.sampled_from(["a", "b", "zz"]), max_size=3) | st.lists(st.sampled_from([1, 2, 3]), max_size=3)
keys = st.sampled_from(["x", "y", "missing"])
ORDERS = [FilterOperator.GT, FilterOperator.GTE, FilterOperator.LT, FilterOperator.LTE]
leaves = st.one_of(
    st.builds(
        MetadataFilter,
        key=keys,
        value=scalars,
        operator=st.sampled_from([FilterOperator.EQ, FilterOperator.NE, FilterOperator.CONTAINS, *ORDERS]),
    ),
    st.builds(
        MetadataFilter,
        key=keys,
        value=lists,
        operator=st.sampled_from([FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL]),
    ),
    st.builds(
        MetadataFilter,
        key=keys,
        value=st.sampled_from(["a", "B", ""]),
        operator=st.sampled_from([FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE]),
    ),
    st.builds(MetadataFilter, key=keys, value=st.none(), operator=st.just(FilterOperator.IS_EMPTY)),
)
conditions = st.sampled_from([*FilterCondition, None])
flat = st.builds(MetadataFilters, filters=st.lists(leaves, max_size=3), condition=conditions)
nested = st.builds(MetadataFilters, filters=st.lists(leaves | flat, max_size=3), condition=conditions)


@pytest.fixture(scope="module")
def vector_store(qwen, tmp_path_factory):
    with CMTMemoryStore(tmp_path_factory.mktemp("filters"), qwen, encoder=None, lazy=True) as store:
        made = CMTVectorStore(store=store)
        made.add([TextNode(id_=str(n), text=f"text {n}", metadata=one) for n, one in enumerate(METADATA)])
        yield made


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(filters=nested)
def test_what_the_store_evaluates_and_the_rest_make_the_whole(vector_store, filters):
    expected = [str(number) for number, metadata in enumerate(METADATA) if accepts(filters, metadata)]
    assert [node.node_id for node in vector_store.get_nodes(filters=filters)] == expected


@settings(max_examples=500, deadline=None)
@given(filters=flat)
def test_the_meaning_is_that_of_llama_indexs_own_store(filters):
    theirs = build_metadata_filter_fn(lambda number: METADATA[int(number)], filters)
    for number, metadata in enumerate(METADATA):
        try:
            expected = theirs(str(number))
        except TypeError:  # it cannot compare values of different kinds; here they just do not match
            continue
        assert accepts(filters, metadata) == expected, (filters, metadata)


def test_what_the_store_can_evaluate_is_left_to_it():
    exact = MetadataFilters(
        filters=[
            MetadataFilter(key="x", value=1, operator=">"),
            MetadataFilters(filters=[MetadataFilter(key="y", value=["a"], operator="in")], condition="not"),
        ]
    )
    assert translate(exact).rest is None
    assert translate(exact).where == {"$and": [{"x": {"$gt": 1}}, {"$and": [{"$not": {"y": {"$in": ["a"]}}}]}]}
    mixed = MetadataFilters(filters=[*exact.filters, MetadataFilter(key="t", value="a", operator="contains")])
    assert translate(mixed).where == translate(exact).where
    assert translate(mixed).rest is not None
    assert translate(None) == ({}, None)


@pytest.mark.parametrize(
    ("operator", "value", "said"),
    [("in", "a", "takes a list"), ("any", 1, "takes a list"), ("text_match", 3, "takes a str")],
)
def test_values_that_an_operator_cannot_take(operator, value, said):
    with pytest.raises(InvalidInputError, match=said):
        translate(MetadataFilters(filters=[MetadataFilter(key="x", value=value, operator=operator)]))
