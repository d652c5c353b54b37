"""What `CMTMemoryStore.as_retriever`, `.as_vector_store` and `.as_chat_model` return."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cmt_memory import CMTMemoryStore

    from langchain_cmt.chat_models import ChatCMT
    from langchain_cmt.retrievers import CMTRetriever
    from langchain_cmt.vectorstores import CMTVectorStore


def as_retriever(store: CMTMemoryStore, **options: Any) -> CMTRetriever:
    """A retriever over a store."""
    from langchain_cmt.retrievers import CMTRetriever

    return CMTRetriever(store=store, **options)


def as_vector_store(store: CMTMemoryStore, **options: Any) -> CMTVectorStore:
    """A vector store over a store."""
    from langchain_cmt.vectorstores import CMTVectorStore

    return CMTVectorStore(store=store, **options)


def as_chat_model(store: CMTMemoryStore, **options: Any) -> ChatCMT:
    """A chat model that answers with a store's memories."""
    from langchain_cmt.chat_models import ChatCMT

    return ChatCMT(store=store, **options)
