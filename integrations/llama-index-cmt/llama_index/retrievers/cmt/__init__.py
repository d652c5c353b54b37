"""A LlamaIndex retriever over a store of compressed memories."""

from llama_index.retrievers.cmt.base import CMTRetriever, as_llama_index_retriever

__all__ = ["CMTRetriever", "as_llama_index_retriever"]
