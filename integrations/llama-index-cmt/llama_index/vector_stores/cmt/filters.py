"""LlamaIndex's metadata filters in terms of the store's."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cmt_memory import InvalidInputError
from llama_index.core.vector_stores.types import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

Metadata = Mapping[str, Any]
Where = dict[str, Any]

EVERYTHING: Where = {}
_NOTHING: Where = {"$id": {"$in": []}}
_STORED = {
    FilterOperator.EQ: "$eq",
    FilterOperator.NE: "$ne",
    FilterOperator.GT: "$gt",
    FilterOperator.GTE: "$gte",
    FilterOperator.LT: "$lt",
    FilterOperator.LTE: "$lte",
    FilterOperator.IN: "$in",
    FilterOperator.NIN: "$nin",
}
_ORDERS = {
    FilterOperator.GT: operator.gt,
    FilterOperator.GTE: operator.ge,
    FilterOperator.LT: operator.lt,
    FilterOperator.LTE: operator.le,
}
_LISTS = (FilterOperator.IN, FilterOperator.NIN, FilterOperator.ANY, FilterOperator.ALL)
_TEXTS = (FilterOperator.TEXT_MATCH, FilterOperator.TEXT_MATCH_INSENSITIVE)


class Translation(NamedTuple):
    """A filter of the store, and what is left to check on the metadata of what it lets through, if anything.

    ``where`` never leaves out what the filters accept.
    """

    where: Where
    rest: Callable[[Metadata], bool] | None


def translate(filters: MetadataFilters | None) -> Translation:
    """The filters as the store can evaluate them, and the rest of them.

    Every operator and condition of LlamaIndex has the meaning that its `SimpleVectorStore` gives it, and conditions can
    be nested. Values of different kinds (number, string, boolean) are never equal, and have no order.

    Raises:
        InvalidInputError: an operator got a value of a kind that it cannot compare with.
    """
    if filters is None:
        return Translation(EVERYTHING, None)
    where, exact = _stored(filters)
    return Translation(where, None if exact else lambda metadata: accepts(filters, metadata))


def accepts(filters: MetadataFilters | MetadataFilter, metadata: Metadata) -> bool:
    """Whether metadata passes filters."""
    if isinstance(filters, MetadataFilter):
        return _passes(filters, metadata.get(filters.key))
    if not filters.filters:
        return True
    results = (accepts(part, metadata) for part in filters.filters)
    if filters.condition == FilterCondition.NOT:
        return not any(results)
    return any(results) if filters.condition == FilterCondition.OR else all(results)


def _stored(filters: MetadataFilters | MetadataFilter) -> tuple[Where, bool]:
    """A filter of the store that lets through all that the filters accept, and whether it lets nothing else through."""
    if isinstance(filters, MetadataFilter):
        return _stored_leaf(filters)
    parts = [_stored(part) for part in filters.filters]
    exact = all(is_exact for _, is_exact in parts)
    if filters.condition == FilterCondition.NOT:
        return all_of([{"$not": where} if where else _NOTHING for where, is_exact in parts if is_exact]), exact
    if filters.condition != FilterCondition.OR:
        return all_of([where for where, _ in parts]), exact
    if not all(where for where, _ in parts):
        return EVERYTHING, exact
    return ({"$or": [where for where, _ in parts]} if parts else EVERYTHING), exact


def all_of(parts: list[Where]) -> Where:
    """A filter for what passes every one of these."""
    return {"$and": parts} if (parts := [part for part in parts if part]) else EVERYTHING


def _stored_leaf(leaf: MetadataFilter) -> tuple[Where, bool]:
    if leaf.operator in _LISTS and not isinstance(leaf.value, list):
        raise InvalidInputError(
            f"the filter on {leaf.key!r} by {leaf.operator.value!r} takes a list, not {leaf.value!r}."
        )
    if leaf.operator in _TEXTS and not isinstance(leaf.value, str):
        raise InvalidInputError(
            f"the filter on {leaf.key!r} by {leaf.operator.value!r} takes a str, not {leaf.value!r}."
        )
    is_plain = isinstance(leaf.value, str | int | float) or (leaf.operator in _LISTS and isinstance(leaf.value, list))
    if leaf.operator not in _STORED or not is_plain or leaf.key.startswith("$"):
        return EVERYTHING, False
    return {leaf.key: {_STORED[leaf.operator]: leaf.value}}, True


def _passes(leaf: MetadataFilter, found: Any) -> bool:
    value, name = leaf.value, leaf.operator
    if name == FilterOperator.IS_EMPTY:
        return found is None or found in ("", [])
    if name in (FilterOperator.NE, FilterOperator.NIN):
        positive = FilterOperator.EQ if name == FilterOperator.NE else FilterOperator.IN
        return not _passes(MetadataFilter(key=leaf.key, value=value, operator=positive), found)
    if found is None:
        return False
    if name == FilterOperator.EQ:
        return _same(found, value)
    if name == FilterOperator.IN:
        return any(_same(found, item) for item in _items(value))
    if name in _TEXTS:
        return isinstance(found, str) and _text_in(
            str(value), found, fold=name == FilterOperator.TEXT_MATCH_INSENSITIVE
        )
    if name == FilterOperator.CONTAINS:
        return _contains(found, value)
    if name == FilterOperator.ANY:
        return any(_contains(found, item) for item in _items(value))
    if name == FilterOperator.ALL:
        return all(_contains(found, item) for item in _items(value))
    return _in_order(name, found, value)


def _items(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _text_in(value: str, found: str, *, fold: bool) -> bool:
    return value.lower() in found.lower() if fold else value in found


def _contains(found: Any, value: Any) -> bool:
    """Whether a list has an element, or a text a part."""
    if isinstance(found, str):
        return isinstance(value, str) and value in found
    return any(_same(item, value) for item in found) if isinstance(found, list) else _same(found, value)


def _in_order(name: FilterOperator, found: Any, value: Any) -> bool:
    if _kind(found) != _kind(value) or _kind(found) not in ("number", "text"):
        return False
    return bool(_ORDERS[name](found, value))


def _same(found: Any, value: Any) -> bool:
    return _kind(found) == _kind(value) and bool(found == value)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "number" if isinstance(value, int | float) else "text" if isinstance(value, str) else type(value).__name__
