"""What goes into a bank and what comes out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Vector = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class VectorTable:
    """Where the ledger keeps one kind of vectors, and what of them its index holds.

    Args:
        name: Table of the vectors.
        flags: Table whose ``indexed`` is 0 until the index holds a passage's vector, and 1 from then on.
        key: Column of the passage's key in ``flags``.
        stale: Table of keys that the index may still hold though the ledger has dropped them.
        traces: Setting that says that the index's files keep traces of what was deleted.
        files: Setting that says what the index's files look like.
    """

    name: str
    flags: str
    key: str
    stale: str
    traces: str
    files: str


RETRIEVAL = VectorTable("vectors", "passages", "key", "stale", "index_has_traces", "index_files")
MEMORY = VectorTable(
    "memory_vectors",
    "memory_vectors",
    "passage",
    "stale_memory_vectors",
    "memory_index_has_traces",
    "memory_index_files",
)


@dataclass(slots=True)
class StoredPassage:
    """A passage ready to be kept.

    Args:
        start: First character in the document's text.
        end: One past the last character.
        n_tokens: Tokens of the passage.
        payload: What ``encode_memory`` made of its slots; None while it is not compressed.
        vector: ``[dims]`` float32 retrieval vector; None without an encoder.
    """

    start: int
    end: int
    n_tokens: int
    payload: bytes | None = None
    vector: Vector | None = None


@dataclass(slots=True)
class StoredDocument:
    """A document with its passages, kept or replaced as one.

    Args:
        id: Unique in the bank.
        text: The whole text, which the passages' spans refer to.
        metadata: JSON values.
        passages: At least one.
        expires: Unix time after which the document is gone; None for never.
    """

    id: str
    text: str
    metadata: dict[str, Any]
    passages: list[StoredPassage]
    expires: float | None = None


@dataclass(slots=True)
class PassageRow:
    """A passage as the ledger returns it; ``text`` is empty where no text is kept."""

    key: int
    document: str
    n: int
    start: int
    end: int
    n_tokens: int
    text: str
    metadata: dict[str, Any]


@dataclass(slots=True)
class DocumentInfo:
    """What is known of a document without reading its text."""

    id: str
    characters: int
    bytes: int
    passages: int
    tokens: int
    payload_bytes: int
    created: float
    updated: float
    expires: float | None
    metadata: dict[str, Any]
