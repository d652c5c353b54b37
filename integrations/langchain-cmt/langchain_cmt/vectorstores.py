"""CMTVectorStore: a store as LangChain's vector store, with the argument names of `langchain_chroma.Chroma`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import numpy as np
from cmt_memory import CMTMemoryStore, CMTModel, InvalidInputError, MemoryHit, on_thread
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from langchain_core.vectorstores import VectorStore
from langchain_core.vectorstores.utils import maximal_marginal_relevance

from langchain_cmt.documents import refuse, to_document

_ADD = "documents (or texts, metadatas), ids, ttl and show_progress"
_SEARCH = "k, filter and min_score"
_DELETE_AT_ONCE = 10_000


class CMTVectorStore(VectorStore):
    """Documents of a `CMTMemoryStore` behind the interface of LangChain's vector stores.

    What is added is compressed to memories as well, so the same store answers through `ChatCMT`. Searches use words
    and vectors together; those by a given vector use vectors alone. A document that is too long for one memory is
    found by its passages: `page_content` is then the passage, `id` the document's. Scores are between 0 and 1, and
    higher is better.

    Args:
        store: the store; or leave it out and give `persist_directory`.
        persist_directory: the folder of a store to open or to make.
        embedding_function: the retrieval encoder of a store that is opened here; the store's own, unless given.
        model: the model of a store that is opened here.
        options: others of `CMTMemoryStore`, for a store that is opened here.

    Raises:
        InvalidInputError: neither a store nor a folder is given, or both.

    Examples:
        >>> from langchain_cmt import CMTVectorStore
        >>> vector_store = CMTVectorStore(persist_directory="mem")  # doctest: +SKIP
        >>> vector_store.add_texts(["Mara's locker code is 4471."])  # doctest: +SKIP
        >>> vector_store.similarity_search("Mara's locker", k=1)  # doctest: +SKIP
    """

    def __init__(
        self,
        store: CMTMemoryStore | None = None,
        *,
        persist_directory: str | os.PathLike[str] | None = None,
        embedding_function: Embeddings | None = None,
        model: str | CMTModel = "cmt-tiny",
        **options: Any,
    ) -> None:
        if (store is None) == (persist_directory is None):
            raise InvalidInputError("CMTVectorStore takes either store=… or persist_directory=…, a folder.")
        if store is not None and (embedding_function is not None or options):
            raise InvalidInputError(
                "embedding_function and other options are for a store that is opened here; this store has its own."
            )
        if store is None:
            encoder = "auto" if embedding_function is None else embedding_function
            store = CMTMemoryStore(str(persist_directory), model, encoder=encoder, **options)
        self.store = store
        self._embeddings = embedding_function

    @property
    def embeddings(self) -> Embeddings | None:
        """What turns texts into the vectors that are searched; None for a store without vectors."""
        return self._embeddings or (StoreEmbeddings(self.store) if self.store.encoder else None)

    # -- documents ---------------------------------------------------------------------------------------------

    def add_documents(
        self, documents: list[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """Add documents, or replace those with the same ids; what is unchanged costs nothing.

        Args:
            documents: the documents.
            ids: an id for each, in place of its own; None keeps it. Without one, it is the hash of the content.
            kwargs: `ttl` (seconds to live) and `show_progress`, as of `CMTMemoryStore.add_documents`.

        Returns:
            One id a document.

        Raises:
            InvalidInputError: a text is empty, ids do not fit, or metadata is not JSON; nothing was added.
        """
        return self.store.add_documents(documents, ids=ids, **_adding(kwargs))

    async def aadd_documents(
        self, documents: list[Document], *, ids: Sequence[str | None] | None = None, **kwargs: Any
    ) -> list[str]:
        """See `add_documents`."""
        return await self.store.aadd_documents(documents, ids=ids, **_adding(kwargs))

    def add_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts with their metadata; see `add_documents`."""
        return self.store.add_documents(list(texts), metadatas=metadatas, ids=ids, **_adding(kwargs))

    async def aadd_texts(
        self,
        texts: Iterable[str],
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        **kwargs: Any,
    ) -> list[str]:
        """Add texts with their metadata; see `add_documents`."""
        return await self.store.aadd_documents(list(texts), metadatas=metadatas, ids=ids, **_adding(kwargs))

    def update_document(self, document_id: str, document: Document) -> None:
        """Put another text and metadata under an id."""
        self.update_documents([document_id], [document])

    def update_documents(self, ids: list[str], documents: list[Document]) -> None:
        """Put other texts and metadata under ids."""
        self.add_documents(documents, ids=ids)

    def get_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """Documents by id, whole and in the order asked for; unknown ids are left out."""
        return [_whole(document) for document in self.store.get(ids)]

    async def aget_by_ids(self, ids: Sequence[str], /) -> list[Document]:
        """See `get_by_ids`."""
        return [_whole(document) for document in await self.store.aget(ids)]

    def get(
        self,
        ids: str | list[str] | None = None,
        where: dict[str, Any] | None = None,
        limit: int | None = None,
        offset: int | None = None,
    ) -> dict[str, list[Any]]:
        """Documents by id, by a condition on metadata, or all, as lists under `ids`, `documents` and `metadatas`.

        Args:
            ids: one id or several.
            where: a condition on metadata, in place of ids.
            limit: how many at most.
            offset: how many to leave out before those.
        """
        if ids is not None and where is not None:
            raise InvalidInputError("get takes ids or where, not both.")
        if ids is None:
            named = self.store.document_ids(where, limit=limit, offset=offset or 0)
        else:
            named = ([ids] if isinstance(ids, str) else list(ids))[offset or 0 :][:limit]
        found = self.store.get(named)
        return {
            "ids": [document.id for document in found],
            "documents": [document.text for document in found],
            "metadatas": [document.metadata for document in found],
        }

    def delete(
        self, ids: str | list[str] | None = None, *, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> bool | None:
        """Delete documents with their memories; ids that are not there are passed over.

        Args:
            ids: one id or several; without ids and filter, everything is deleted.
            filter: delete what passes this condition on metadata.
            kwargs: none are known; they are refused, as dropping one could delete everything.

        Returns:
            True.
        """
        refuse(kwargs, "delete", "ids or filter")
        if ids is not None and filter is not None:
            raise InvalidInputError("delete takes ids or filter, not both.")
        named = self.store.document_ids(filter) if ids is None else [ids] if isinstance(ids, str) else list(ids)
        for start in range(0, len(named), _DELETE_AT_ONCE):
            self.store.delete(named[start : start + _DELETE_AT_ONCE], missing_ok=True)
        return True

    async def adelete(
        self, ids: str | list[str] | None = None, *, filter: dict[str, Any] | None = None, **kwargs: Any
    ) -> bool | None:
        """See `delete`."""
        return await on_thread(partial(self.delete, ids, filter=filter, **kwargs))

    # -- searches ----------------------------------------------------------------------------------------------

    def similarity_search(self, query: str, k: int = 4, **kwargs: Any) -> list[Document]:
        """The passages most relevant to a question, best first.

        Args:
            query: the question.
            k: how many at most.
            kwargs: `filter`, a condition on metadata in Chroma's dialect, and `min_score`.
        """
        return [to_document(hit) for hit in self._search(query, k, kwargs)]

    def similarity_search_with_score(self, *args: Any, **kwargs: Any) -> list[tuple[Document, float]]:
        """As `similarity_search`, each with its relevance from 0 to 1; higher is better."""
        return self._scored(*args, **kwargs)

    def _scored(self, query: str, k: int = 4, **kwargs: Any) -> list[tuple[Document, float]]:
        return [(to_document(hit), hit.score) for hit in self._search(query, k, kwargs)]

    def similarity_search_by_vector(self, embedding: list[float], k: int = 4, **kwargs: Any) -> list[Document]:
        """The passages nearest to a vector; see `similarity_search`."""
        return [to_document(hit) for hit in self._nearest(embedding, k, kwargs)]

    def similarity_search_by_vector_with_relevance_scores(
        self, embedding: list[float], k: int = 4, **kwargs: Any
    ) -> list[tuple[Document, float]]:
        """The passages nearest to a vector, each with its relevance from 0 to 1."""
        return [(to_document(hit), hit.score) for hit in self._nearest(embedding, k, kwargs)]

    def max_marginal_relevance_search(
        self, query: str, k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """Passages that are relevant to a question and differ from each other (Carbonell and Goldstein, 1998).

        Args:
            query: the question.
            k: how many at most.
            fetch_k: how many to choose from.
            lambda_mult: 1 for relevance alone, 0 for difference alone.
            kwargs: `filter` and `min_score`, as of `similarity_search`.

        Raises:
            InvalidInputError: the store has no vectors.
        """
        hits = self._search(query, fetch_k, kwargs)
        return self._diverse(self.store.embed(query)[0], hits, k, lambda_mult)

    def max_marginal_relevance_search_by_vector(
        self, embedding: list[float], k: int = 4, fetch_k: int = 20, lambda_mult: float = 0.5, **kwargs: Any
    ) -> list[Document]:
        """As `max_marginal_relevance_search`, for a vector."""
        return self._diverse(
            np.asarray(embedding, np.float32), self._nearest(embedding, fetch_k, kwargs), k, lambda_mult
        )

    def _diverse(self, vector: Any, hits: list[MemoryHit], k: int, lambda_mult: float) -> list[Document]:
        if not hits:
            return []
        vectors = self.store.vectors([hit.passage for hit in hits])
        chosen = maximal_marginal_relevance(vector, list(vectors), lambda_mult, k)
        return [to_document(hits[place]) for place in chosen]

    def _search(self, query: str, k: int, kwargs: dict[str, Any]) -> list[MemoryHit]:
        refuse(kwargs.keys() - {"filter", "min_score"}, "The search", _SEARCH)
        return self.store.search(query, k, **kwargs)

    def _nearest(self, embedding: list[float], k: int, kwargs: dict[str, Any]) -> list[MemoryHit]:
        refuse(kwargs.keys() - {"filter", "min_score"}, "The search", _SEARCH)
        return self.store.search(None, k, vector=embedding, **kwargs)

    def _select_relevance_score_fn(self) -> Callable[[float], float]:
        return float

    # -- making one --------------------------------------------------------------------------------------------

    @classmethod
    def from_texts(
        cls,
        texts: list[str],
        embedding: Embeddings | None = None,
        metadatas: list[dict[str, Any]] | None = None,
        *,
        ids: list[str] | None = None,
        store: CMTMemoryStore | None = None,
        persist_directory: str | os.PathLike[str] | None = None,
        **kwargs: Any,
    ) -> CMTVectorStore:
        """Open a vector store and add texts to it.

        Args:
            texts: the texts.
            embedding: the retrieval encoder of a store that is opened here; the best one at hand, unless given.
            metadatas: metadata for each text.
            ids: an id for each text.
            store: the store; or leave it out and give `persist_directory`.
            persist_directory: the folder of a store to open or to make.
            kwargs: `model` and other options of `CMTMemoryStore`.
        """
        made = cls(store, persist_directory=persist_directory, embedding_function=embedding, **kwargs)
        made.add_texts(texts, metadatas, ids=ids)
        return made


class StoreEmbeddings(Embeddings):
    """A store's retrieval encoder as LangChain's embeddings.

    Args:
        store: a store with an encoder.
    """

    def __init__(self, store: CMTMemoryStore) -> None:
        self._store = store

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        """Vectors of texts."""
        encoder: Any = self._store.encoder
        vectors: list[list[float]] = encoder.encode_documents(texts).tolist()
        return vectors

    def embed_query(self, text: str) -> list[float]:
        """The vector of a question."""
        vector: list[float] = self._store.embed(text)[0].tolist()
        return vector


def _adding(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The store's own arguments; `batch_size` is what `langchain_core.indexing` passes, and the store needs none."""
    refuse(kwargs.keys() - {"ttl", "show_progress", "on_progress", "batch_size"}, "Adding", _ADD)
    return {name: value for name, value in kwargs.items() if name != "batch_size"}


def _whole(document: Any) -> Document:
    return Document(id=document.id, page_content=document.text, metadata=document.metadata)
