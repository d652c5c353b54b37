"""CMTRetriever: the passages of a store that answer a question, as documents."""

from __future__ import annotations

from typing import Any

from cmt_memory import CMTMemoryStore, MemoryHit
from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import model_validator

from langchain_cmt.documents import refuse, refuse_unknown_fields, to_placed_document

_KNOWN = "k, filter and min_score"


class CMTRetriever(BaseRetriever):
    """Retrieves from a store by words and vectors together.

    Every argument but the store can also be given per call, as in `retriever.invoke("…", k=2)`. A document has the id
    of the store's document; which passage it is and how relevant is in its metadata, under `"cmt_memory"`.

    Args:
        store: the store.
        k: how many passages at most.
        filter: a condition on metadata, such as `{"year": {"$gte": 2024}}`.
        min_score: leave out passages with a lower score, from 0 to 1.

    Examples:
        >>> from langchain_cmt import CMTRetriever
        >>> CMTRetriever(store=store, k=2).invoke("Who has the spare key?")  # doctest: +SKIP
    """

    store: CMTMemoryStore
    k: int = 4
    filter: dict[str, Any] | None = None
    min_score: float | None = None

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, given: Any) -> Any:
        return refuse_unknown_fields(cls, given, f"store, {_KNOWN}")

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return _documents(self.store.search(query, **self._settings(kwargs)))

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, **kwargs: Any
    ) -> list[Document]:
        return _documents(await self.store.asearch(query, **self._settings(kwargs)))

    def _settings(self, given: dict[str, Any]) -> dict[str, Any]:
        settings: dict[str, Any] = {"k": self.k, "filter": self.filter, "min_score": self.min_score}
        refuse(given.keys() - settings.keys(), "CMTRetriever.invoke", _KNOWN)
        return settings | given


def _documents(hits: list[MemoryHit]) -> list[Document]:
    return [to_placed_document(hit) for hit in hits]
