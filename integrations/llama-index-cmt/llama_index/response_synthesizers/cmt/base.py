"""CMTSynthesizer: from retrieved nodes to an answer, without their text in the prompt."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Sequence
from typing import Any

from cmt_memory import CMTMemoryStore, InvalidInputError
from llama_index.core.base.response.schema import RESPONSE_TYPE
from llama_index.core.callbacks.base import CallbackManager
from llama_index.core.llms.llm import astream_completion_response_to_tokens, stream_completion_response_to_tokens
from llama_index.core.prompts.mixin import PromptDictType
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.response_synthesizers.base import BaseSynthesizer, QueryTextType
from llama_index.core.schema import MetadataMode, NodeWithScore
from llama_index.core.types import RESPONSE_TEXT_TYPE

from llama_index.llms.cmt import CMTLLM
from llama_index.retrievers.cmt import CMTRetriever

logger = logging.getLogger(__name__)


class CMTSynthesizer(BaseSynthesizer):
    """Hands the ids of the retrieved nodes to the LM, which is given their memories; the prompt is the question alone.

    For any query engine: `RetrieverQueryEngine(retriever, response_synthesizer=CMTSynthesizer(llm=llm))`, or
    `index.as_query_engine(llm=llm, response_synthesizer=CMTSynthesizer(llm=llm))`. Nodes that the LM's store does not
    hold are compressed for this one answer, at an LM pass each.

    Args:
        llm: the LM, of the store that the nodes are in.
        streaming: answer piece by piece.
        callback_manager: LlamaIndex's callbacks.
        empty_response: what to answer where nothing was retrieved.
    """

    def __init__(
        self,
        llm: CMTLLM,
        streaming: bool = False,
        callback_manager: CallbackManager | None = None,
        empty_response: str | None = None,
    ) -> None:
        if not isinstance(llm, CMTLLM):
            raise InvalidInputError(
                f"llm is {type(llm).__name__}; only CMTLLM takes memories. For other LMs use LlamaIndex's synthesizers."
            )
        super().__init__(llm=llm, streaming=streaming, callback_manager=callback_manager, empty_response=empty_response)
        self._lm = llm

    def _get_prompts(self) -> PromptDictType:
        return {}

    def _update_prompts(self, prompts: PromptDictType) -> None:
        """There is no prompt but the question."""

    def synthesize(
        self,
        query: QueryTextType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """Answer a query from nodes; they become the response's `source_nodes`.

        Args:
            query: the question.
            nodes: most relevant first.
            additional_source_nodes: sources to name besides.
            response_kwargs: settings of the LM for this answer, such as `max_new_tokens`.
        """
        return super().synthesize(query, nodes, additional_source_nodes, nodes_given=nodes, **response_kwargs)

    async def asynthesize(
        self,
        query: QueryTextType,
        nodes: list[NodeWithScore],
        additional_source_nodes: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TYPE:
        """See `synthesize`."""
        return await super().asynthesize(query, nodes, additional_source_nodes, nodes_given=nodes, **response_kwargs)

    def get_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        nodes_given: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """Answer a question; without nodes, the chunks are compressed and injected."""
        settings = self._memories(text_chunks, nodes_given) | response_kwargs
        if self._streaming:
            return stream_completion_response_to_tokens(self._lm.stream_complete(query_str, **settings))
        return str(self._lm.complete(query_str, **settings).text)

    async def aget_response(
        self,
        query_str: str,
        text_chunks: Sequence[str],
        nodes_given: Sequence[NodeWithScore] | None = None,
        **response_kwargs: Any,
    ) -> RESPONSE_TEXT_TYPE:
        """See `get_response`."""
        settings = await asyncio.to_thread(self._memories, text_chunks, nodes_given) | response_kwargs
        if self._streaming:
            return await astream_completion_response_to_tokens(await self._lm.astream_complete(query_str, **settings))
        return str((await self._lm.acomplete(query_str, **settings)).text)

    def _memories(self, text_chunks: Sequence[str], nodes: Sequence[NodeWithScore] | None) -> dict[str, Any]:
        """The memories to inject: by id where the store has them all as they are here, else made of the texts."""
        if nodes is None:
            return {"memories": self._compressed(text_chunks)}
        ids = [scored.node.node_id for scored in nodes]
        texts = [scored.node.get_content(MetadataMode.NONE) for scored in nodes]
        if self._lm.store is not None:
            if _holds(self._lm.store, ids, texts):
                return {"memory_ids": ids}
            logger.warning("the LM's store does not hold all of the nodes %s as they are; compressing them", ids[:10])
        return {"memories": self._compressed(texts)}

    def _compressed(self, texts: Sequence[str]) -> list[Any]:
        made: list[Any] = self._lm.generator.model.compress([text for text in texts if text.strip()])
        return made


def _holds(store: CMTMemoryStore, ids: list[str], texts: list[str]) -> bool:
    """Whether a store has memories of nodes with these texts: a postprocessor may have put another in its place."""
    try:
        hits = store.passages(ids)
    except InvalidInputError:
        return False
    held = {str(document.id): document.text for document in store.get(ids)}
    held |= {hit.passage: hit.text for hit in hits}  # "a#0" names a passage of "a" before it names a document
    return not store.keep_text or all(held[id].strip() == text.strip() for id, text in zip(ids, texts, strict=True))


_OF_SYNTHESIZER = ("streaming", "callback_manager", "empty_response")
_OF_RETRIEVER = tuple(inspect.signature(CMTRetriever).parameters)[1:]


def as_query_engine(
    store: CMTMemoryStore, *, llm: CMTLLM | None = None, node_postprocessors: Any = None, **options: Any
) -> RetrieverQueryEngine:
    """A query engine over a store; what `store.as_query_engine(...)` returns.

    Args:
        store: the store.
        llm: a `CMTLLM` of the store; one with the options below, unless given.
        node_postprocessors: LlamaIndex's, between retrieving and answering.
        options: of `CMTRetriever`, of `CMTSynthesizer`, and the LM's settings, such as `similarity_top_k=4`,
            `streaming=True` and `max_new_tokens=64`.
    """
    retriever = CMTRetriever(store, **{name: options.pop(name) for name in _OF_RETRIEVER if name in options})
    answering = {name: options.pop(name) for name in _OF_SYNTHESIZER if name in options}
    if llm is not None and options:
        raise InvalidInputError(f"as_query_engine got the options {list(options)} beside an llm; set them on the llm.")
    synthesizer = CMTSynthesizer(llm if llm is not None else CMTLLM(store=store, **options), **answering)
    return RetrieverQueryEngine(retriever, response_synthesizer=synthesizer, node_postprocessors=node_postprocessors)
