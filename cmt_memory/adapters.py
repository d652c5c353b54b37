"""What a store hands to frameworks, built by the distributions that integrate them.

A distribution offers a part by an entry point of the group `cmt_memory.adapters`: its name is the store's method, and
its value a callable that takes the store and the method's options. So the core names no framework and imports none.
"""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from cmt_memory.errors import MissingIntegrationError

GROUP = "cmt_memory.adapters"


class Adapters:
    """The store's methods that return a framework's own kind of object."""

    def as_retriever(self, **options: Any) -> Any:
        """A LangChain retriever over this store, such as `as_retriever(k=4)`; options as `langchain_cmt.CMTRetriever`.

        Raises:
            MissingIntegrationError: the integration is not installed, as for the others below.
        """
        return _build("as_retriever", "langchain", self, options)

    def as_vector_store(self, **options: Any) -> Any:
        """A LangChain vector store over this store; options as `langchain_cmt.CMTVectorStore`."""
        return _build("as_vector_store", "langchain", self, options)

    def as_chat_model(self, **options: Any) -> Any:
        """A LangChain chat model that answers from this store; options as `langchain_cmt.ChatCMT`."""
        return _build("as_chat_model", "langchain", self, options)

    def as_llama_index_retriever(self, **options: Any) -> Any:
        """A LlamaIndex retriever over this store; options as `llama_index.retrievers.cmt.CMTRetriever`."""
        return _build("as_llama_index_retriever", "llama-index", self, options)

    def as_query_engine(self, **options: Any) -> Any:
        """A LlamaIndex query engine that injects this store's memories; options as its retriever and synthesizer."""
        return _build("as_query_engine", "llama-index", self, options)


def _build(name: str, extra: str, store: Adapters, options: dict[str, Any]) -> Any:
    found = list(entry_points(group=GROUP, name=name))
    if not found:
        raise MissingIntegrationError(
            f"{name}() comes with an extra that is not installed: pip install 'cmt-memory[{extra}]'."
        )
    return found[0].load()(store, **options)
