"""Metadata filters: one meaning, stated in Python, and its translation to SQL and to Chroma.

The dialect is Chroma's ``where``. ``{"k": v}`` is ``{"k": {"$eq": v}}``; several keys or several operators in
one dict must all hold. Operators: ``$eq $ne $gt $gte $lt $lte $in $nin`` on a key, ``$and $or $not`` around
filters. The key ``$id`` is the document's id, for ``$eq $ne $in $nin``.

A filter sees strings, booleans, finite floats and 64-bit integers at the top level of the metadata; a key
with any other value (``None``, lists, dicts, NaN, larger integers) counts as missing. Values of different
kinds (number, string, boolean) are never equal, ``1`` and ``1.0`` are. ``$ne`` and ``$nin`` hold for a
missing key, the others do not. Strings are ordered by code point, so ISO dates can be compared; booleans have
no order. A filter has at most 30,000 values in 500 conditions, 50 levels deep.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from cmt_memory.errors import InvalidInputError

_INT64 = 2**63
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}
_OPERATORS = ("$eq", "$ne", *_ORDERS, "$in", "$nin")
_SQL_OPERATORS = {"$gt": ">", "$gte": ">=", "$lt": "<", "$lte": "<="}
_NEGATED = {"$eq": "$ne", "$ne": "$eq", "$in": "$nin", "$nin": "$in"}
# Chroma keeps every string once more in a second index.
_MAX_INDEXED_TEXT = 512
_EXACT_INT = 2**53
# SQLite binds at most 32,766 values and nests expressions 1,000 deep. Chroma makes one level of every value, and
# some thousands of them overflow its stack, which ends the process.
_MOST_VALUES = 30_000
_MOST_CONDITIONS = 500
_MOST_LEVELS = 50
_MOST_IN_CHROMA = 200

ID = "$id"
"""The key of a filter that stands for the document's id."""

Filter = Mapping[str, Any]


class Leaf(NamedTuple):
    """One condition on one key; ``operand`` is a list for ``$in`` and ``$nin``."""

    key: str
    operator: str
    operand: Any


class Group(NamedTuple):
    """``and``, ``or`` or ``not`` (one part) of conditions; an empty ``and`` holds always."""

    kind: str
    parts: tuple[Leaf | Group, ...]


Condition = Leaf | Group


def parse(filter: Filter | None) -> Condition | None:
    """Check a filter and return its conditions, or None where it accepts everything.

    Raises:
        InvalidInputError: The filter is not in the dialect; the message names the key path.
    """
    if filter is None or filter == {}:
        return None
    condition = _parse(filter, "filter", 0)
    conditions, values = _size(condition)
    if conditions > _MOST_CONDITIONS or values > _MOST_VALUES:
        raise InvalidInputError(
            f"the filter has {values} values in {conditions} conditions; expected at most {_MOST_VALUES} in "
            f"{_MOST_CONDITIONS}. Mark the documents by a metadata key of their own and filter on that."
        )
    return condition


def matches(filter: Filter | None, metadata: Mapping[str, Any]) -> bool:
    """Whether metadata passes a filter: the meaning that every channel gives it; under ``$id`` stands the id.

    Raises:
        InvalidInputError: The filter is not in the dialect.

    Examples:
        >>> matches({"year": {"$gte": 1815}}, {"year": 1843})
        True
        >>> matches({"year": {"$ne": 1815}}, {})
        True
    """
    condition = parse(filter)
    return condition is None or holds(condition, metadata)


def holds(condition: Condition, metadata: Mapping[str, Any]) -> bool:
    """Evaluate parsed conditions on metadata."""
    if isinstance(condition, Group):
        if condition.kind == "not":
            return not holds(condition.parts[0], metadata)
        results = (holds(part, metadata) for part in condition.parts)
        return all(results) if condition.kind == "and" else any(results)
    value = metadata.get(condition.key)
    present = is_filterable(value)
    if condition.operator in ("$eq", "$ne"):
        return (present and _same(value, condition.operand)) == (condition.operator == "$eq")
    if condition.operator in ("$in", "$nin"):
        found = present and any(_same(value, item) for item in condition.operand)
        return found == (condition.operator == "$in")
    if not present or _kind(value) != _kind(condition.operand):
        return False
    return _ORDERS[condition.operator](value, condition.operand)


def is_filterable(value: Any) -> bool:
    """Whether a filter can see a metadata value."""
    if isinstance(value, bool | str):
        return True
    if isinstance(value, int):
        return -_INT64 <= value < _INT64
    return isinstance(value, float) and math.isfinite(value)


def to_sql(condition: Condition, document: str) -> tuple[str, list[Any]]:
    """Translate conditions to an SQL expression with bound values, exactly equal to `holds`.

    Args:
        condition: What `parse` returned.
        document: The SQL column with the document's key, e.g. ``"p.document"``.
    """
    if isinstance(condition, Group):
        parts = [to_sql(part, document) for part in condition.parts]
        values = [value for _, bound in parts for value in bound]
        if condition.kind == "not":
            return f"NOT {parts[0][0]}", values
        empty = "1" if condition.kind == "and" else "0"
        return "(" + (f" {condition.kind.upper()} ".join(sql for sql, _ in parts) or empty) + ")", values
    name, operand = condition.operator, condition.operand
    if name in _SQL_OPERATORS:
        storage = "IN ('integer','real')" if _kind(operand) == "number" else "= 'text'"
        test, values = f"value {_SQL_OPERATORS[name]} ? AND typeof(value) {storage}", [label_value(operand)]
    else:
        values = [label_value(item) for item in (operand if name in ("$in", "$nin") else [operand])]
        test = f"value IN ({','.join('?' * len(values))})"
    negation = "NOT " if name in ("$ne", "$nin") else ""
    if condition.key == ID:
        return f"{negation}{document} IN (SELECT key FROM documents WHERE id {test.removeprefix('value ')})", values
    sql = f"SELECT 1 FROM labels WHERE document = {document} AND key = ? AND {test}"
    return f"{negation}EXISTS ({sql})", [condition.key, *values]


def label_value(value: Any) -> Any:
    """A filterable value as SQLite keeps it: booleans as blobs, so that they equal no number."""
    return (b"\1" if value else b"\0") if isinstance(value, bool) else value


def index_metadata(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The part of a document's metadata that Chroma can hold, or None where there is none."""
    kept = {key: value for key, value in metadata.items() if _indexable_key(key) and _indexable(value)}
    return kept or None


def to_chroma(condition: Condition) -> dict[str, Any] | None:
    """A Chroma ``where`` that holds wherever the conditions hold, or None where Chroma can tell nothing.

    It may hold for more: what Chroma finds is checked with `holds` afterwards.
    """
    return None if sum(_size(condition)) > _MOST_IN_CHROMA else _chroma(condition, negated=False)


def _chroma(condition: Condition, negated: bool) -> dict[str, Any] | None:
    if isinstance(condition, Leaf):
        return _chroma_leaf(condition, negated)
    if condition.kind == "not":
        return _chroma(condition.parts[0], not negated)
    parts = [_chroma(part, negated) for part in condition.parts]
    known = [part for part in parts if part is not None]
    if (condition.kind == "and") != negated:
        return _join("$and", known)
    return _join("$or", known) if len(known) == len(parts) else None


def _chroma_leaf(leaf: Leaf, negated: bool) -> dict[str, Any] | None:
    if not _indexable_key(leaf.key):
        return None
    name = _NEGATED.get(leaf.operator) if negated else leaf.operator
    if name is None:  # a negated order also holds for a missing key, which Chroma's opposite order does not
        return None
    if name in _ORDERS:
        return _chroma_bound(leaf.key, name, leaf.operand) if _is_close_number(leaf.operand) else None
    operands = leaf.operand if name in ("$in", "$nin") else [leaf.operand]
    if name in ("$eq", "$in"):
        parts = [_chroma_equal(leaf.key, item) for item in operands]
        known = [part for part in parts if part is not None]
        return _join("$or", known) if len(known) == len(parts) else None
    exact = [item for item in operands if _indexable(item) and _kind(item) != "number"]
    return _join("$and", [{leaf.key: {"$ne": item}} for item in exact])


def _chroma_equal(key: str, operand: Any) -> dict[str, Any] | None:
    if _kind(operand) != "number":
        return {key: {"$eq": operand}} if _indexable(operand) else None
    if not _is_close_number(operand):
        return None
    if operand == int(operand):
        return {key: {"$eq": int(operand)}}
    return {"$and": [_chroma_bound(key, "$gte", operand), _chroma_bound(key, "$lte", operand)]}


def _chroma_bound(key: str, name: str, operand: float) -> dict[str, Any]:
    """A bound at the next integer outwards.

    Chroma 1.5.9 cuts a fraction off when it compares with a stored integer, and may read a float back as its
    neighbour, so an exact bound would miss some.
    """
    if name in ("$gt", "$gte"):
        return {key: {"$gte": math.floor(operand)}}
    return {key: {"$lte": math.ceil(operand)}}


def _is_close_number(operand: Any) -> bool:
    """Whether an operand is a number below the place where a float64 begins to skip integers."""
    return _kind(operand) == "number" and abs(operand) <= _EXACT_INT


def _join(name: str, parts: list[dict[str, Any]]) -> dict[str, Any] | None:
    if len(parts) < 2:
        return parts[0] if parts else None
    return {name: parts}


def _indexable_key(key: str) -> bool:
    return bool(key) and not key.startswith(("$", "#", "chroma:")) and len(key) <= _MAX_INDEXED_TEXT


def _indexable(value: Any) -> bool:
    return len(value) <= _MAX_INDEXED_TEXT if isinstance(value, str) else is_filterable(value)


def _size(condition: Condition) -> tuple[int, int]:
    """Number of conditions on keys, and of the values they compare with."""
    if isinstance(condition, Leaf):
        return 1, len(condition.operand) if condition.operator in ("$in", "$nin") else 1
    sizes = [_size(part) for part in condition.parts]
    return sum(conditions for conditions, _ in sizes), sum(values for _, values in sizes)


def _parse(filter: Any, path: str, level: int) -> Condition:
    if level > _MOST_LEVELS:
        raise InvalidInputError(f"{path[:80]}… is nested deeper than {_MOST_LEVELS} levels.")
    if not isinstance(filter, Mapping):
        raise InvalidInputError(f"{path} is {filter!r}; expected a dict such as {{'year': {{'$gte': 1815}}}}.")
    parts: list[Condition] = []
    for key, value in filter.items():
        if not isinstance(key, str) or not _is_unicode(key):
            raise InvalidInputError(f"{path} has the key {key!r}; keys are str without lone surrogates.")
        here = f"{path}[{key!r}]"
        if key in ("$and", "$or"):
            if not isinstance(value, list | tuple) or not value:
                raise InvalidInputError(f"{here} is {value!r}; expected a list of filters.")
            inner = tuple(_parse(item, f"{here}[{number}]", level + 1) for number, item in enumerate(value))
            parts.append(Group(key[1:], inner))
        elif key == "$not":
            parts.append(Group("not", (_parse(value, here, level + 1),)))
        elif key == ID:
            parts.extend(_parse_id(value, here))
        elif key.startswith("$"):
            raise InvalidInputError(f"{here}: unknown operator; around filters there are $and, $or and $not.")
        elif isinstance(value, Mapping):
            parts.extend(_parse_operators(key, value, here))
        else:
            parts.append(Leaf(key, "$eq", _operand(value, here)))
    return parts[0] if len(parts) == 1 else Group("and", tuple(parts))


def _parse_operators(key: str, operators: Mapping[Any, Any], path: str) -> list[Condition]:
    if not operators:
        raise InvalidInputError(f"{path} is empty; expected a value or one of {' '.join(_OPERATORS)}.")
    parts: list[Condition] = []
    for name, value in operators.items():
        here = f"{path}[{name!r}]"
        if name not in _OPERATORS:
            raise InvalidInputError(f"{here}: unknown operator; a key takes {' '.join(_OPERATORS)}.")
        if name in ("$in", "$nin"):
            if not isinstance(value, list | tuple | set | frozenset):
                raise InvalidInputError(f"{here} is {value!r}; expected a list.")
            value = [_operand(item, here) for item in value]
        else:
            value = _operand(value, here)
            if name in _ORDERS and isinstance(value, bool):
                raise InvalidInputError(f"{here} is {value!r}; booleans have no order, use $eq or $ne.")
        parts.append(Leaf(key, name, value))
    return parts


def _parse_id(value: Any, path: str) -> list[Condition]:
    parts = _parse_operators(ID, value if isinstance(value, Mapping) else {"$eq": value}, path)
    for part in parts:
        assert isinstance(part, Leaf)
        ids = part.operand if part.operator in ("$in", "$nin") else [part.operand]
        if part.operator in _ORDERS or not all(isinstance(id, str) for id in ids):
            raise InvalidInputError(f"{path} is {value!r}; an id is a str, compared by $eq, $ne, $in or $nin.")
    return parts


def names_ids(condition: Condition) -> bool:
    """Whether conditions ask for ids of documents."""
    return condition.key == ID if isinstance(condition, Leaf) else any(map(names_ids, condition.parts))


def _operand(value: Any, path: str) -> Any:
    if not is_filterable(value):
        raise InvalidInputError(f"{path} is {value!r}; expected a str, a bool, a finite float or a 64-bit int.")
    if isinstance(value, str) and not _is_unicode(value):
        raise InvalidInputError(f"{path} is {value!r}; it has a lone surrogate, which no metadata can have.")
    return value


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "bool"
    return "text" if isinstance(value, str) else "number"


def _same(value: Any, operand: Any) -> bool:
    return _kind(value) == _kind(operand) and bool(value == operand)
