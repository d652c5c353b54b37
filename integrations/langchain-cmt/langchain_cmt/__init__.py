"""cmt-memory for LangChain: documents become key/value memories of a local LM, with nothing in the prompt."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from langchain_cmt.chat_models import ChatCMT
    from langchain_cmt.middleware import CMTMemoryMiddleware
    from langchain_cmt.retrievers import CMTRetriever
    from langchain_cmt.stores import CMTStore
    from langchain_cmt.tools import create_memory_tools
    from langchain_cmt.vectorstores import CMTVectorStore

__version__ = "0.1.0"

_EXPORTS = {
    "ChatCMT": "chat_models",
    "CMTMemoryMiddleware": "middleware",
    "CMTRetriever": "retrievers",
    "CMTStore": "stores",
    "CMTVectorStore": "vectorstores",
    "create_memory_tools": "tools",
}
__all__ = [
    "CMTMemoryMiddleware",
    "CMTRetriever",
    "CMTStore",
    "CMTVectorStore",
    "ChatCMT",
    "__version__",
    "create_memory_tools",
]


def __getattr__(name: str) -> Any:
    """Import a name at its first use, as agents and graphs take seconds to load."""
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_EXPORTS[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
