"""What stands in the place of an embed model where the store embeds by itself."""

from __future__ import annotations

from cmt_memory import InvalidInputError
from llama_index.core.base.embeddings.base import BaseEmbedding


class StoreEmbedding(BaseEmbedding):
    """Satisfies indexes and pipelines, which embed every node before they add it; the store makes the real vectors."""

    model_name: str = "cmt-memory store"
    embed_batch_size: int = 2048

    @classmethod
    def class_name(cls) -> str:
        """Name of the class, as LlamaIndex serialises it."""
        return "StoreEmbedding"

    def _get_text_embedding(self, text: str) -> list[float]:
        return [0.0]

    def _get_query_embedding(self, query: str) -> list[float]:
        raise InvalidInputError(
            "this stands in for an embed model; the store's own vectors come from store.embed(...)."
        )

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_query_embedding(query)
