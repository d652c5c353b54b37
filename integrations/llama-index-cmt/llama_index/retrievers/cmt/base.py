"""CMTRetriever: what a store finds, as LlamaIndex nodes."""

from __future__ import annotations

import asyncio
from typing import Any

from cmt_memory import CMTMemoryStore
from llama_index.core.base.base_retriever import BaseRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.constants import DEFAULT_SIMILARITY_TOP_K
from llama_index.core.schema import IndexNode, NodeWithScore, QueryBundle
from llama_index.core.vector_stores.types import MetadataFilters, VectorStoreQuery, VectorStoreQueryMode

from llama_index.vector_stores.cmt import CMTVectorStore


class CMTRetriever(BaseRetriever):
    """Retrieves from a `CMTMemoryStore`, with the arguments of `VectorIndexRetriever`.

    A query bundle's `embedding` is searched by where it has one, and the mean of its `custom_embedding_strs` likewise;
    else the store's own encoder reads the question.

    Args:
        store: the store.
        similarity_top_k: how many nodes at most.
        vector_store_query_mode: see `CMTVectorStore.query`.
        filters: conditions on metadata.
        alpha: share of the vectors in mode `hybrid`.
        node_ids: only these nodes.
        doc_ids: only nodes of these source documents.
        sparse_top_k: how many nodes in mode `sparse` or `text_search`.
        hybrid_top_k: how many nodes in mode `hybrid`.
        callback_manager: LlamaIndex's callbacks.
        object_map: objects that index nodes stand for.
        objects: index nodes with their objects.
        embed_model: embeds the questions in place of the store's encoder; it has to be the same model.
        verbose: print what is retrieved from objects.
        vector_store_kwargs: further settings of the query, such as `{"mmr_threshold": 0.5}`.

    Examples:
        >>> retriever = CMTRetriever(store=store, similarity_top_k=2)  # doctest: +SKIP
        >>> retriever.retrieve("When does the shop open?")[0].node.text  # doctest: +SKIP
        'The shop opens at 9:30.'
    """

    def __init__(
        self,
        store: CMTMemoryStore,
        similarity_top_k: int = DEFAULT_SIMILARITY_TOP_K,
        vector_store_query_mode: VectorStoreQueryMode = VectorStoreQueryMode.DEFAULT,
        filters: MetadataFilters | None = None,
        alpha: float | None = None,
        node_ids: list[str] | None = None,
        doc_ids: list[str] | None = None,
        sparse_top_k: int | None = None,
        hybrid_top_k: int | None = None,
        callback_manager: CallbackManager | None = None,
        object_map: dict[str, Any] | None = None,
        objects: list[IndexNode] | None = None,
        embed_model: BaseEmbedding | None = None,
        verbose: bool = False,
        vector_store_kwargs: dict[str, Any] | None = None,
    ) -> None:
        self._vector_store = CMTVectorStore(store=store)
        self._similarity_top_k = similarity_top_k
        self._settings: dict[str, Any] = {
            "mode": VectorStoreQueryMode(vector_store_query_mode),
            "filters": filters,
            "alpha": alpha,
            "node_ids": node_ids,
            "doc_ids": doc_ids,
            "sparse_top_k": sparse_top_k,
            "hybrid_top_k": hybrid_top_k,
        }
        self._embed_model = embed_model
        self._kwargs = dict(vector_store_kwargs or {})
        super().__init__(callback_manager=callback_manager, object_map=object_map, objects=objects, verbose=verbose)

    @property
    def store(self) -> CMTMemoryStore:
        """The store that is searched."""
        return self._vector_store.client

    @property
    def similarity_top_k(self) -> int:
        """How many nodes at most."""
        return self._similarity_top_k

    @similarity_top_k.setter
    def similarity_top_k(self, similarity_top_k: int) -> None:
        self._similarity_top_k = similarity_top_k

    def _retrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        query = VectorStoreQuery(
            query_str=query_bundle.query_str,
            query_embedding=self._embedding(query_bundle),
            similarity_top_k=self._similarity_top_k,
            **self._settings,
        )
        return self._vector_store.find(query, **self._kwargs)

    async def _aretrieve(self, query_bundle: QueryBundle) -> list[NodeWithScore]:
        return await asyncio.to_thread(self._retrieve, query_bundle)

    def _embedding(self, query_bundle: QueryBundle) -> list[float] | None:
        """The vector to search by, where it is not what the store's encoder makes of the question itself."""
        if query_bundle.embedding is not None:
            return query_bundle.embedding
        if self._embed_model is not None:
            made: list[float] = self._embed_model.get_agg_embedding_from_queries(query_bundle.embedding_strs)
            return made
        if query_bundle.custom_embedding_strs:
            mean: list[float] = self.store.embed(query_bundle.embedding_strs).mean(axis=0).tolist()
            return mean
        return None


def as_llama_index_retriever(store: CMTMemoryStore, **options: Any) -> CMTRetriever:
    """A retriever over a store; what `store.as_llama_index_retriever(...)` returns."""
    return CMTRetriever(store=store, **options)
