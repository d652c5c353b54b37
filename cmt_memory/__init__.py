"""Documents compressed once into key/value memories that a frozen language model answers from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cmt_memory.lazy import lazily

if TYPE_CHECKING:
    from cmt_memory.asynchronous import on_thread, pieces_on_threads, result_on_thread
    from cmt_memory.documents import Answer, Document, MemoryHit
    from cmt_memory.errors import (
        CMTError,
        FingerprintMismatchError,
        InvalidInputError,
        MissingIntegrationError,
        StoreClosedError,
        StoreCorruptError,
        StoreLockedError,
        UnsupportedModelError,
    )
    from cmt_memory.generation import CMTGenerator, Completion
    from cmt_memory.model import CMTModel
    from cmt_memory.store import CMTMemoryStore

__version__ = "0.1.0"

_EXPORTS = {
    "Answer": "cmt_memory.documents",
    "Document": "cmt_memory.documents",
    "MemoryHit": "cmt_memory.documents",
    "on_thread": "cmt_memory.asynchronous",
    "pieces_on_threads": "cmt_memory.asynchronous",
    "result_on_thread": "cmt_memory.asynchronous",
    "CMTGenerator": "cmt_memory.generation",
    "Completion": "cmt_memory.generation",
    "CMTModel": "cmt_memory.model",
    "CMTMemoryStore": "cmt_memory.store",
    "CMTError": "cmt_memory.errors",
    "FingerprintMismatchError": "cmt_memory.errors",
    "InvalidInputError": "cmt_memory.errors",
    "StoreClosedError": "cmt_memory.errors",
    "MissingIntegrationError": "cmt_memory.errors",
    "StoreCorruptError": "cmt_memory.errors",
    "StoreLockedError": "cmt_memory.errors",
    "UnsupportedModelError": "cmt_memory.errors",
}
__all__ = [  # noqa: RUF022 - by role, most used first
    "CMTMemoryStore",
    "CMTModel",
    "CMTGenerator",
    "Document",
    "MemoryHit",
    "Answer",
    "Completion",
    "on_thread",
    "pieces_on_threads",
    "result_on_thread",
    "CMTError",
    "InvalidInputError",
    "UnsupportedModelError",
    "FingerprintMismatchError",
    "StoreLockedError",
    "StoreClosedError",
    "StoreCorruptError",
    "MissingIntegrationError",
    "__version__",
]

__getattr__, __dir__ = lazily(__name__, _EXPORTS)
