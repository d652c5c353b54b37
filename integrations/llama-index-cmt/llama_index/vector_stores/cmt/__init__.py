"""A LlamaIndex vector store whose documents are compressed memories."""

from llama_index.vector_stores.cmt.base import CMTVectorStore

__all__ = ["CMTVectorStore"]
