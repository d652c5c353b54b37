"""Hits of a store as LangChain documents, and back to what a store is asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from cmt_memory import InvalidInputError, MemoryHit
from langchain_core.documents import Document
from pydantic import AliasChoices, BaseModel

PLACE = "cmt_memory"
"""Key of a retrieved document's metadata that says which passage of the store it is, and how relevant."""


def to_document(hit: MemoryHit) -> Document:
    """A hit as the document that it belongs to: its id, its metadata, and the passage's text."""
    return Document(id=hit.id, page_content=hit.text, metadata=hit.metadata)


def to_placed_document(hit: MemoryHit) -> Document:
    """As `to_document`, with the passage, its span and its score under the metadata key `"cmt_memory"`."""
    place = {"passage": hit.passage, "span": list(hit.span), "score": hit.score}
    return Document(id=hit.id, page_content=hit.text, metadata=hit.metadata | {PLACE: place})


def memory_ids(documents: Iterable[Document]) -> list[str]:
    """Ids of the memories of retrieved documents: the passage where the document says it, else all of it.

    Raises:
        InvalidInputError: a document has no id.
    """
    ids: dict[str, None] = {}
    for document in documents:
        place = document.metadata.get(PLACE)
        id = place["passage"] if isinstance(place, dict) and "passage" in place else document.id
        if id is None:
            raise InvalidInputError(
                f"The retriever returned a document without an id ({document.page_content[:40]!r}), so its memory "
                "cannot be found; use a retriever of the same store."
            )
        ids[id] = None
    return list(ids)


def refuse_unknown_fields(cls: type[BaseModel], given: Any, shown: str, passed_by: Collection[str] = ()) -> Any:
    """Refuse what a model of pydantic is made with and would otherwise drop in silence.

    Args:
        cls: the model.
        given: what it is made with.
        shown: what the message says that it takes.
        passed_by: names that are dropped.
    """
    if isinstance(given, dict):
        aliases = [field.validation_alias for field in cls.model_fields.values()]
        others = [str(name) for alias in aliases if isinstance(alias, AliasChoices) for name in alias.choices]
        refuse(given.keys() - {*cls.model_fields, *others, *passed_by}, cls.__name__, shown)
    return given


def refuse(unknown: Collection[str], method: str, known: str) -> None:
    """Refuse keyword arguments that would otherwise be dropped in silence."""
    if unknown:
        raise TypeError(f"{method} got {', '.join(sorted(unknown))}, which it does not know; it takes {known}.")
