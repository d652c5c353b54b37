"""CMTStore: a store as LangGraph's long-term memory, with namespaces, times to live, filters and semantic search."""

from __future__ import annotations

import json
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

from cmt_memory import CMTMemoryStore, Document, InvalidInputError, on_thread
from langgraph.store.base import (
    BaseStore,
    GetOp,
    Item,
    ListNamespacesOp,
    MatchCondition,
    Op,
    PutOp,
    Result,
    SearchItem,
    SearchOp,
    TTLConfig,
    get_text_at_path,
)

_MINE = "langgraph"
_MORE = 4
_ORDERS: dict[str, Callable[[Any, Any], bool]] = {
    "$gt": operator.gt,
    "$gte": operator.ge,
    "$lt": operator.lt,
    "$lte": operator.le,
}


class CMTStore(BaseStore):
    """Items of LangGraph's `BaseStore`, each kept as a document of a `CMTMemoryStore` with its memory.

    So what agents put here survives the process, is searched by words and vectors together, and can be answered from
    by `ChatCMT`. Filters take LangGraph's operators on any value. A time to live is in minutes; what has expired is
    never returned. Other documents of the same `CMTMemoryStore` are not touched.

    Args:
        store: the store.
        fields: which parts of a value are its text, as paths such as `"text"` or `"facts[*].text"`; the whole value
            as JSON, unless given. `put(index=…)` says it for one item, and `index=False` leaves it out of searches.
        ttl: `default_ttl` (minutes) and `refresh_on_read` (True, unless given).

    Examples:
        >>> from langchain_cmt import CMTStore
        >>> memories = CMTStore(store, fields=["text"])  # doctest: +SKIP
        >>> memories.put(("users", "mara"), "locker", {"text": "Mara's locker code is 4471."})  # doctest: +SKIP
        >>> memories.search(("users", "mara"), query="Which code?", limit=1)  # doctest: +SKIP
    """

    supports_ttl = True

    def __init__(self, store: CMTMemoryStore, *, fields: Sequence[str] = ("$",), ttl: TTLConfig | None = None) -> None:
        if isinstance(fields, str) or not fields:
            raise InvalidInputError(f"fields is {fields!r}; expected a list of paths, such as ['text'].")
        self.store = store
        self.fields = list(fields)
        self.ttl_config = ttl

    def batch(self, ops: Iterable[Op]) -> list[Result]:
        """Run operations; what is read is what was there before the writes among them."""
        given = list(ops)
        results: list[Result] = [None if isinstance(op, PutOp) else self._read(op) for op in given]
        writes = {item_id(op.namespace, op.key): op for op in given if isinstance(op, PutOp)}
        if writes:
            self._write(writes)
        return results

    async def abatch(self, ops: Iterable[Op]) -> list[Result]:
        """See `batch`."""
        given = list(ops)
        return await on_thread(lambda: self.batch(given))

    # -- reading -----------------------------------------------------------------------------------------------

    def _read(self, op: Op) -> Result:
        if isinstance(op, GetOp):
            found = self._items([item_id(op.namespace, op.key)])
            self._refresh(found, op.refresh_ttl)
            return Item(**_parts(found[0])) if found else None
        if isinstance(op, SearchOp):
            items = self._search(op)
            return items
        if isinstance(op, ListNamespacesOp):
            return self._namespaces(op)
        raise InvalidInputError(f"{type(op).__name__} is no operation of a store.")

    def _items(self, ids: Sequence[str]) -> list[Document]:
        return [document for document in self.store.get(list(ids)) if document.metadata.get(_MINE) is True]

    def _search(self, op: SearchOp) -> list[SearchItem]:
        wanted, where = op.offset + op.limit, _where(op)
        words = (op.query or "").strip()
        scored = self._ranked(words, op, where, wanted) if words else []
        if len(scored) < wanted:
            rest = {"$and": [where, {"indexed": False}]} if words else where
            documents = self._items(self.store.document_ids(rest))
            scored += [(document, None) for document in documents if _passes(op.filter, document.metadata)]
        chosen = scored[op.offset : wanted]
        self._refresh([document for document, _ in chosen], op.refresh_ttl)
        return [SearchItem(**_parts(document), score=score) for document, score in chosen]

    def _ranked(
        self, words: str, op: SearchOp, where: dict[str, Any], wanted: int
    ) -> list[tuple[Document, float | None]]:
        """The items nearest to a query that pass the filter, at least as many as are wanted where there are."""
        where = {"$and": [where, {"indexed": True}]}
        k = max(1, wanted)
        while True:
            hits = self.store.search(words, k, where)
            best = {hit.id: hit for hit in reversed(hits)}  # the first of several passages of one item
            order = [best[id] for id in dict.fromkeys(hit.id for hit in hits)]
            kept = [hit for hit in order if _passes(op.filter, hit.metadata)]
            if len(kept) >= wanted or len(hits) < k:
                return [(Document(hit.text, hit.metadata, hit.id), hit.score) for hit in kept]
            k *= _MORE

    def _namespaces(self, op: ListNamespacesOp) -> list[tuple[str, ...]]:
        conditions = op.match_conditions or ()
        fixed = [_prefix(condition.path) for condition in conditions if condition.match_type == "prefix"]
        where = {"$and": [{_MINE: True}, *(part for parts in fixed for part in parts)]}
        found = {tuple(json.loads(id)[0]) for id in self.store.document_ids(where)}
        found = {namespace for namespace in found if all(_matches(condition, namespace) for condition in conditions)}
        return sorted({namespace[: op.max_depth] for namespace in found})[op.offset : op.offset + op.limit]

    def _refresh(self, documents: Sequence[Document], wanted: bool) -> None:
        """Give items that were read their time to live anew; one that has gone since stays gone."""
        for document in documents if wanted and not self.store.read_only else ():
            minutes = document.metadata["ttl"]
            if minutes is not None:
                with suppress(InvalidInputError):
                    self.store.update(str(document.id), ttl=minutes * 60)

    # -- writing -----------------------------------------------------------------------------------------------

    def _write(self, writes: Mapping[str, PutOp]) -> None:
        there = {str(document.id): document for document in self._items(list(writes))}
        gone = [id for id, op in writes.items() if op.value is None and id in there]
        if gone:
            self.store.delete(gone, missing_ok=True)
        lifetimes: dict[float | None, list[Document]] = {}
        for id, op in writes.items():
            if op.value is not None:
                document = self._document(id, op, there.get(id))
                lifetimes.setdefault(op.ttl, []).append(document)
        for minutes, documents in lifetimes.items():
            self.store.add_documents(documents, ttl=None if minutes is None else minutes * 60)

    def _document(self, id: str, op: PutOp, before: Document | None) -> Document:
        value, now = dict(op.value or {}), datetime.now(UTC).isoformat()
        paths = self.fields if op.index is None else op.index or []
        texts = [text for path in paths for text in get_text_at_path(value, path) if text.strip()]
        metadata = {
            _MINE: True,
            "indexed": bool(texts),
            "value": value,
            "created_at": before.metadata["created_at"] if before else now,
            "updated_at": now,
            "ttl": op.ttl,
        }
        metadata |= {f"namespace.{level}": label for level, label in enumerate(op.namespace)}
        metadata |= {f"value.{key}": held for key, held in value.items() if isinstance(held, str)}
        whole = json.dumps(value, ensure_ascii=False, sort_keys=True)
        return Document("\n\n".join(texts) or whole, metadata, id)


def item_id(namespace: tuple[str, ...], key: str) -> str:
    """The id of an item's document: namespace and key as JSON, which no two items share."""
    return json.dumps([list(namespace), key], ensure_ascii=False)


def _parts(document: Document) -> dict[str, Any]:
    namespace, key = json.loads(str(document.id))
    held = document.metadata
    times = {name: datetime.fromisoformat(held[name]) for name in ("created_at", "updated_at")}
    return {"namespace": tuple(namespace), "key": key, "value": held["value"], **times}


def _where(op: SearchOp) -> dict[str, Any]:
    """What the store itself can filter by: the namespace, and equality of texts."""
    given = op.filter or {}
    texts = [{f"value.{key}": value} for key, value in given.items() if isinstance(value, str)]
    return {"$and": [{_MINE: True}, *_prefix(op.namespace_prefix), *texts]}


def _prefix(path: Sequence[str]) -> list[dict[str, Any]]:
    return [{f"namespace.{level}": label} for level, label in enumerate(path) if label != "*"]


def _matches(condition: MatchCondition, namespace: tuple[str, ...]) -> bool:
    path = condition.path
    if len(namespace) < len(path):
        return False
    part = namespace[: len(path)] if condition.match_type == "prefix" else namespace[len(namespace) - len(path) :]
    return all(wanted in ("*", label) for wanted, label in zip(path, part, strict=True))


def _passes(filter: dict[str, Any] | None, metadata: dict[str, Any]) -> bool:
    value = metadata["value"]
    return all(_equals(value.get(key), wanted) for key, wanted in (filter or {}).items())


def _equals(value: Any, wanted: Any) -> bool:
    """Whether a value is what a filter wants, part by part; a dict of operators is a condition."""
    if isinstance(wanted, dict):
        if any(key.startswith("$") for key in wanted):
            return all(_holds(value, name, operand) for name, operand in wanted.items())
        return isinstance(value, dict) and all(_equals(value.get(key), part) for key, part in wanted.items())
    if isinstance(wanted, list | tuple):
        if not isinstance(value, list) or len(value) != len(wanted):
            return False
        return all(_equals(held, part) for held, part in zip(value, wanted, strict=True))
    return bool(value == wanted)


def _holds(value: Any, name: str, operand: Any) -> bool:
    if name in ("$eq", "$ne"):
        return bool(value == operand) == (name == "$eq")
    if name not in _ORDERS:
        raise InvalidInputError(f"{name} is no operator of a filter; there are $eq, $ne, {', '.join(_ORDERS)}.")
    numbers = isinstance(value, int | float) and isinstance(operand, int | float)
    return (numbers or (isinstance(value, str) and isinstance(operand, str))) and _ORDERS[name](value, operand)
