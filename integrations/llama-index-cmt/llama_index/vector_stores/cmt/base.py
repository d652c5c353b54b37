"""CMTVectorStore: a store of memories behind LlamaIndex's indexes and ingestion pipelines."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial
from typing import Any

from cmt_memory import CMTMemoryStore, Document, InvalidInputError, on_thread
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.bridge.pydantic import Field
from llama_index.core.schema import BaseNode, NodeWithScore
from llama_index.core.vector_stores.types import (
    BasePydanticVectorStore,
    MetadataFilters,
    VectorStoreQuery,
    VectorStoreQueryResult,
)

from llama_index.vector_stores.cmt.embedding import StoreEmbedding
from llama_index.vector_stores.cmt.filters import all_of, translate
from llama_index.vector_stores.cmt.nodes import (
    id_list,
    last_of_each,
    to_document,
    to_node,
    to_nodes,
    with_documents,
)
from llama_index.vector_stores.cmt.searching import run_query, source_filter

logger = logging.getLogger(__name__)

_AT_ONCE = 1_000
_ADD_OPTIONS = ("show_progress", "on_progress", "ttl")


class CMTVectorStore(BasePydanticVectorStore):
    """A vector store that compresses each node once into a memory which a frozen LM answers from.

    Nodes are embedded by the store's own encoder, from their text, and questions too: what an index's embed model makes
    is not kept, so that the two can never disagree. Pass `embed_model=vector_store.embed_model` to the index, which
    costs nothing. To search by an embed model of yours, make the store with `encoder=embed_model`.

    Adding a node again replaces it, and costs no LM pass where its text has not changed.

    Args:
        store: an open `CMTMemoryStore`; closing it is left to its owner.

    Examples:
        >>> from llama_index.core import StorageContext, VectorStoreIndex  # doctest: +SKIP
        >>> vector_store = CMTVectorStore(store=store)  # doctest: +SKIP
        >>> context = StorageContext.from_defaults(vector_store=vector_store)  # doctest: +SKIP
        >>> VectorStoreIndex(nodes, storage_context=context, embed_model=vector_store.embed_model)  # doctest: +SKIP
    """

    stores_text: bool = True
    is_embedding_query: bool = False
    store: Any = Field(exclude=True, description="The CMTMemoryStore.")

    def __init__(self, store: CMTMemoryStore, **kwargs: Any) -> None:
        if not isinstance(store, CMTMemoryStore):
            raise InvalidInputError(f"store is {type(store).__name__}; expected an open CMTMemoryStore.")
        if unknown := [name for name in kwargs if name not in type(self).model_fields]:
            raise InvalidInputError(f"CMTVectorStore got {unknown}, which it does not know; it takes a store.")
        settings: dict[str, Any] = {"store": store, "stores_text": store.keep_text}
        super().__init__(**(settings | kwargs))

    @classmethod
    def class_name(cls) -> str:
        """Name of the class, as LlamaIndex serialises it."""
        return "CMTVectorStore"

    @property
    def client(self) -> CMTMemoryStore:
        """The store."""
        store: CMTMemoryStore = self.store
        return store

    @property
    def embed_model(self) -> BaseEmbedding:
        """What to pass as an index's or pipeline's embed model: the store embeds by itself, so it does nothing."""
        return StoreEmbedding()

    # -- nodes -------------------------------------------------------------------------------------------------

    def add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """Keep nodes, each in place of the one with its id; of two with one id, the later stays.

        A node without text cannot be remembered: it is left out with a warning, and takes the place of its former self.

        Args:
            nodes: any nodes with text; their embeddings are not used.
            kwargs: `show_progress`, `on_progress` and `ttl` of `CMTMemoryStore.add_documents`.

        Returns:
            The nodes' ids.

        Raises:
            InvalidInputError: metadata that is not JSON; nothing was changed.
        """
        documents = self._documents(nodes)
        if documents:
            self.client.add_documents(documents, **_add_options(kwargs))
        return [node.node_id for node in nodes]

    async def async_add(self, nodes: Sequence[BaseNode], **kwargs: Any) -> list[str]:
        """See `add`; cancelled, it keeps what was committed."""
        documents = await asyncio.to_thread(self._documents, nodes)
        if documents:
            await self.store.aadd_documents(documents, **_add_options(kwargs))
        return [node.node_id for node in nodes]

    def _documents(self, nodes: Sequence[BaseNode]) -> list[Document]:
        documents = [to_document(node) for node in last_of_each(nodes)]
        empty = [str(document.id) for document in documents if not document.text.strip()]
        if empty:
            logger.warning("nodes without text are not kept, as there is nothing to remember: %s", empty[:10])
            self._delete(empty)
        return [document for document in documents if document.text.strip()]

    def delete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """Delete all nodes of a source document; a document that was added itself goes by its own id."""
        self._delete_where(source_filter([ref_doc_id]))

    async def adelete(self, ref_doc_id: str, **delete_kwargs: Any) -> None:
        """See `delete`."""
        await on_thread(partial(self.delete, ref_doc_id))

    def delete_nodes(
        self, node_ids: str | list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """Delete nodes by id, by filter, or by both; ids that are not there are passed over.

        Raises:
            InvalidInputError: neither is given; `clear` deletes everything.
        """
        if node_ids is None and filters is None:
            raise InvalidInputError("give node_ids or filters; to delete everything, call clear().")
        if filters is None:
            self._delete(id_list(node_ids or ()))
            return
        where, rest = translate(filters)
        named = [] if node_ids is None else [{"$id": {"$in": id_list(node_ids)}}]
        self._delete_where(all_of([where, *named]), rest)

    async def adelete_nodes(
        self, node_ids: str | list[str] | None = None, filters: MetadataFilters | None = None, **delete_kwargs: Any
    ) -> None:
        """See `delete_nodes`."""
        await on_thread(partial(self.delete_nodes, node_ids, filters))

    def clear(self) -> None:
        """Delete every document of the store."""
        self._delete_where({})

    async def aclear(self) -> None:
        """See `clear`."""
        await on_thread(self.clear)

    def _delete_where(self, where: dict[str, Any], rest: Any = None) -> None:
        passed_over = 0
        while documents := self.client.documents(where, limit=_AT_ONCE, offset=passed_over):
            ids = [str(document.id) for document in documents if rest is None or rest(document.metadata)]
            passed_over += len(documents) - len(ids)
            self._delete(ids)

    def _delete(self, ids: list[str]) -> None:
        for start in range(0, len(ids), _AT_ONCE):
            self.client.delete(ids[start : start + _AT_ONCE], missing_ok=True)

    def get_nodes(
        self, node_ids: str | list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """Nodes by id, by filter, or by both; in the order of the ids, without those that are not there."""
        ids = None if node_ids is None else id_list(node_ids)
        documents = self._passing(ids, filters)
        if ids is None:
            return [to_node(document) for document in documents]
        whole = {str(document.id): document for document in documents}
        return [node for id in ids if (node := self._node(id, whole)) is not None]

    def _passing(self, ids: list[str] | None, filters: MetadataFilters | None) -> list[Document]:
        """The documents of some nodes, or of all, that pass filters."""
        if ids is not None and filters is None:
            return self.client.get(with_documents(ids))
        where, rest = translate(filters)
        named = [] if ids is None else [{"$id": {"$in": with_documents(ids)}}]
        documents = self.client.documents(all_of([where, *named]))
        return [document for document in documents if rest is None or rest(document.metadata)]

    def _node(self, id: str, whole: dict[str, Document]) -> BaseNode | None:
        if id in whole:
            return to_node(whole[id])
        if id.rpartition("#")[0] not in whole:
            return None
        try:
            return to_nodes(self.client, self.client.passages(id))[0]
        except InvalidInputError:
            return None

    async def aget_nodes(
        self, node_ids: str | list[str] | None = None, filters: MetadataFilters | None = None
    ) -> list[BaseNode]:
        """See `get_nodes`."""
        return await asyncio.to_thread(self.get_nodes, node_ids, filters)

    # -- questions ---------------------------------------------------------------------------------------------

    def find(self, query: VectorStoreQuery, **kwargs: Any) -> list[NodeWithScore]:
        """The nodes that a query finds, best first; see `query`."""
        return run_query(self.client, query, **kwargs)

    def query(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """Search; the similarity is the store's score, in [0, 1], or by MMR that which decided.

        By default the store searches by its own channels with the query's text, or its embedding where one is given.
        `TEXT_SEARCH` and `SPARSE` search by words, `HYBRID` by both (`alpha` is the vectors' share), `MMR` for
        diversity (`mmr_threshold`, `mmr_prefetch_factor`).

        Raises:
            InvalidInputError: a mode or filter that the store does not know, or an embedding that its encoder did
                not make.
        """
        found = self.find(query, **kwargs)
        ids = [scored.node.node_id for scored in found]
        similarities = [scored.score or 0.0 for scored in found]
        nodes = [scored.node for scored in found] if self.stores_text else None
        return VectorStoreQueryResult(nodes=nodes, similarities=similarities, ids=ids)

    async def aquery(self, query: VectorStoreQuery, **kwargs: Any) -> VectorStoreQueryResult:
        """See `query`."""
        return await asyncio.to_thread(self.query, query, **kwargs)


def _add_options(given: dict[str, Any]) -> dict[str, Any]:
    return {name: given[name] for name in _ADD_OPTIONS if name in given}
