"""CMTMemoryMiddleware: an agent's turn is answered with the memories that fit it, passed by id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, NotRequired, cast

from cmt_memory import CMTMemoryStore, MemoryHit, on_thread
from langchain.agents.middleware.types import AgentMiddleware, AgentState, ModelRequest, ModelResponse, PrivateStateAttr
from langchain_core.messages import AnyMessage, BaseMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import BaseTool, StructuredTool
from langgraph.prebuilt import ToolRuntime
from langgraph.runtime import Runtime
from langgraph.types import Command, Overwrite
from typing_extensions import TypedDict

from langchain_cmt.chat_models import ChatCMT
from langchain_cmt.messages import last_words
from langchain_cmt.tools import NOTHING, SEARCH, Query, check_texts, create_save_tool

TEXTS = "What is remembered about this:"


class Picked(TypedDict):
    """A memory that was picked: the id of its passage, and the version of its text.

    Ids and versions are JSON, so they go into checkpoints and cache keys, which tensors would break.
    """

    id: str
    version: str | None


def found_first(known: list[Picked], found: list[Picked]) -> list[Picked]:
    """What a search has found in front of what the turn has already; an agent may search several times at once."""
    return [*found, *(memory for memory in known if memory not in found)]


class MemoryState(AgentState[Any]):
    """The agent's state with the memories of its turn, which no one outside sees."""

    cmt_memories: NotRequired[Annotated[list[Picked], PrivateStateAttr, found_first]]


class CMTMemoryMiddleware(AgentMiddleware[MemoryState, Any, Any]):
    """Picks memories for each turn of an agent of `langchain.agents.create_agent`.

    What the user said last is searched for when the agent starts. If the agent's model is a `ChatCMT` of the same
    store, it is given the ids of the memories, and none of their text is in its prompt; any other model is given the
    text in front of the conversation. With `tools=True` the agent can also save memories and search for more.

    Args:
        store: the store.
        k: passages to pick at most, for the turn and for each search by the agent.
        filter: pick only from documents whose metadata pass this condition, such as whose they are.
        min_score: leave out passages with a lower score.
        tools: give the agent the tools `save_memory` and `search_memory`.
        metadata: metadata of what the agent saves.

    Examples:
        >>> from langchain.agents import create_agent
        >>> from langchain_cmt import ChatCMT, CMTMemoryMiddleware
        >>> agent = create_agent(ChatCMT(store=store), middleware=[CMTMemoryMiddleware(store)])  # doctest: +SKIP
    """

    state_schema = MemoryState

    def __init__(
        self,
        store: CMTMemoryStore,
        *,
        k: int = 4,
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        tools: bool = False,
        metadata: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.store, self.k, self.filter, self.min_score = store, k, filter, min_score
        self.tools: Sequence[BaseTool] = [create_save_tool(store, metadata), self._search_tool()] if tools else []

    # -- picking -----------------------------------------------------------------------------------------------

    def before_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """Pick memories for what the user said last."""
        return {"cmt_memories": Overwrite(self._pick(last_words(state["messages"])))}

    async def abefore_agent(self, state: MemoryState, runtime: Runtime[Any]) -> dict[str, Any] | None:
        """See `before_agent`."""
        words = last_words(state["messages"])
        return {"cmt_memories": Overwrite(await on_thread(lambda: self._pick(words)))}

    def _pick(self, words: str) -> list[Picked]:
        if not words:
            return []
        return self._picked([hit.passage for hit in self.store.search(words, self.k, self.filter, self.min_score)])

    def _picked(self, ids: list[str]) -> list[Picked]:
        """Ids with the versions of today; those that are gone are left out."""
        versions = self.store.versions(ids)
        return [{"id": id, "version": now} for id, now in zip(ids, versions, strict=True) if now is not None]

    # -- passing them on ---------------------------------------------------------------------------------------

    def wrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], ModelResponse[Any]]
    ) -> ModelResponse[Any]:
        """Give the model the memories that were picked."""
        return handler(self._with_memories(request))

    async def awrap_model_call(
        self, request: ModelRequest[Any], handler: Callable[[ModelRequest[Any]], Awaitable[ModelResponse[Any]]]
    ) -> ModelResponse[Any]:
        """See `wrap_model_call`."""
        return await handler(await on_thread(lambda: self._with_memories(request)))

    def _with_memories(self, request: ModelRequest[Any]) -> ModelRequest[Any]:
        chosen = cast("MemoryState", request.state).get("cmt_memories", [])
        picked = self._picked([memory["id"] for memory in chosen])  # what has changed since is read as it is now
        ids = [memory["id"] for memory in picked]
        if isinstance(request.model, ChatCMT) and request.model.store is self.store:
            chosen_now = {"memory_ids": ids, "memory_versions": [memory["version"] for memory in picked]}
            return request.override(model_settings={**request.model_settings, **chosen_now})
        check_texts(self.store)
        if not ids:
            return request
        return request.override(messages=_with_texts(request.messages, self.store.passages(ids)))

    # -- searching for more ------------------------------------------------------------------------------------

    def _search_tool(self) -> BaseTool:
        def search(query: Query, runtime: ToolRuntime[Any, MemoryState]) -> Command[Any]:
            return self._answered(self._pick(query), runtime)

        async def asearch(query: Query, runtime: ToolRuntime[Any, MemoryState]) -> Command[Any]:
            return self._answered(await on_thread(lambda: self._pick(query)), runtime)

        return StructuredTool.from_function(search, asearch, name="search_memory", description=SEARCH)

    def _answered(self, found: list[Picked], runtime: ToolRuntime[Any, MemoryState]) -> Command[Any]:
        """Say how much was found, and give it to the turn."""
        told = f"{len(found)} passages were found and are in your memory now." if found else NOTHING
        message = ToolMessage(told, tool_call_id=runtime.tool_call_id)
        return Command(update={"cmt_memories": found, "messages": [message]})


def _with_texts(messages: Sequence[AnyMessage], hits: list[MemoryHit]) -> list[AnyMessage]:
    """A conversation in whose first user message the texts of hits stand before the words."""
    texts = "\n\n".join(hit.text for hit in hits)
    told: list[AnyMessage] = list(messages)
    for place, message in enumerate(told):
        if isinstance(message, HumanMessage):
            words = [{"type": "text", "text": f"{TEXTS}\n\n{texts}\n\n"}, *_blocks(message)]
            told[place] = message.model_copy(update={"content": words})
            return told
    return [SystemMessage(f"{TEXTS}\n\n{texts}"), *told]


def _blocks(message: BaseMessage) -> list[Any]:
    content = message.content
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)
