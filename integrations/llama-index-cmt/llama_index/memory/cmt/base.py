"""CMTMemoryBlock: what was said earlier in a session, found again when it matters."""

from __future__ import annotations

from typing import Any

from cmt_memory import CMTMemoryStore, Document, InvalidInputError
from llama_index.core.base.llms.types import ChatMessage, TextBlock
from llama_index.core.bridge.pydantic import Field
from llama_index.core.memory.memory import BaseMemoryBlock

BLOCK, SESSION = "memory_block", "session_id"


class CMTMemoryBlock(BaseMemoryBlock[str]):
    """Keeps the messages that `Memory` flushes and gives back those that bear on the conversation.

    A session sees its own messages only, and one without a session id those without one. Other documents of the store
    are not shown.

    Args:
        store: where messages are kept.
        name: name of the block; blocks of several names can share a store.
        similarity_top_k: how many messages to give back.
        retrieval_context_window: how many of the last messages are the question.
        min_score: leave out messages that bear less on it.
    """

    name: str = Field(default="RetrievedMessages", description="The name of the memory block.")
    store: Any = Field(exclude=True, description="The CMTMemoryStore that keeps the messages.")
    similarity_top_k: int = Field(default=2, ge=1, description="How many messages to give back.")
    retrieval_context_window: int = Field(
        default=5, ge=1, description="How many of the last messages are the question."
    )
    min_score: float | None = Field(default=None, description="Leave out messages with a lower score.")

    def __init__(self, store: CMTMemoryStore, **settings: Any) -> None:
        if not isinstance(store, CMTMemoryStore):
            raise InvalidInputError(f"store is {type(store).__name__}; expected an open CMTMemoryStore.")
        if not store.keep_text:
            raise InvalidInputError("CMTMemoryBlock gives back texts, and this store keeps none (keep_text=False).")
        if unknown := [name for name in settings if name not in type(self).model_fields]:
            known = ", ".join(type(self).model_fields)
            raise InvalidInputError(f"CMTMemoryBlock got {unknown}, which it does not know; it takes {known}.")
        super().__init__(**({"store": store} | settings))

    async def aput(
        self, messages: list[ChatMessage], from_short_term_memory: bool = False, session_id: str | None = None
    ) -> None:
        """Keep messages of a session; the messages themselves are left as they are."""
        if from_short_term_memory and not self.accept_short_term_memory:
            return
        await self._keep(messages, session_id)

    async def _aput(self, messages: list[ChatMessage]) -> None:
        await self._keep(messages, None)

    async def _keep(self, messages: list[ChatMessage], session_id: str | None) -> None:
        scope = self._scope(session_id)
        documents = [
            Document(f"{message.role.value}: {text}", {**scope, "role": message.role.value})
            for message in messages
            if (text := _text(message))
        ]
        if documents:
            await self.store.aadd_documents(documents)

    async def _aget(
        self, messages: list[ChatMessage] | None = None, session_id: str | None = None, **block_kwargs: Any
    ) -> str:
        """The messages that bear on the last ones, as text."""
        question = " ".join(filter(None, map(_text, (messages or [])[-self.retrieval_context_window :])))
        if not question:
            return ""
        where = self._scope(session_id)
        hits = await self.store.asearch(question, self.similarity_top_k, where, self.min_score)
        return "\n".join(hit.text for hit in hits)

    async def aforget(self, session_id: str | None = None) -> None:
        """Delete what was kept of a session."""
        ids = await self.store.adocument_ids(self._scope(session_id))
        await self.store.adelete(ids, missing_ok=True)

    def _scope(self, session_id: str | None) -> dict[str, Any]:
        """What marks a session's messages, and finds them; None is a session of its own."""
        session = {SESSION: session_id, "has_session": True} if session_id is not None else {"has_session": False}
        return {BLOCK: self.name, **session}


def _text(message: ChatMessage) -> str:
    return "".join(block.text for block in message.blocks if isinstance(block, TextBlock)).strip()
