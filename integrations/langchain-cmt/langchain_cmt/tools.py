"""Tools with which an agent saves and searches memories."""

from __future__ import annotations

from typing import Annotated, Any

from cmt_memory import CMTMemoryStore, InvalidInputError, MemoryHit
from langchain_core.tools import BaseTool, StructuredTool
from pydantic import BaseModel, Field

_NOT_BLANK = r"\S"  # a blank argument goes back to the LM as its mistake, and does not end the agent
Query = Annotated[str, Field(description="What to look for, as a question or in keywords.", pattern=_NOT_BLANK)]


class SaveMemory(BaseModel):
    """Arguments of `save_memory`."""

    text: str = Field(
        description="What to remember, in whole sentences that can be understood by themselves.", pattern=_NOT_BLANK
    )


class SearchMemory(BaseModel):
    """Arguments of `search_memory`."""

    query: Query


SAVE = "Remember something for later conversations."
SEARCH = "Look something up in what was remembered before."
NOTHING = "Nothing was found."


def create_memory_tools(
    store: CMTMemoryStore,
    *,
    k: int = 4,
    filter: dict[str, Any] | None = None,
    min_score: float | None = None,
    metadata: dict[str, Any] | None = None,
) -> list[BaseTool]:
    """The tools `save_memory` and `search_memory` for any agent.

    What is found goes to the agent as text, with the hits as the message's artifact. Where the agent's model is a
    `ChatCMT`, `CMTMemoryMiddleware(store, tools=True)` has the same tools and gives it memories instead.

    Args:
        store: the store.
        k: passages to find at most.
        filter: search only documents whose metadata pass this condition.
        min_score: leave out passages with a lower score.
        metadata: metadata of what is saved, such as whose it is.

    Raises:
        InvalidInputError: the store keeps no texts that could be shown.
    """
    check_texts(store)

    def search(query: str) -> tuple[str, list[dict[str, Any]]]:
        return _found(store.search(query, k, filter, min_score))

    async def asearch(query: str) -> tuple[str, list[dict[str, Any]]]:
        return _found(await store.asearch(query, k, filter, min_score))

    found = StructuredTool.from_function(
        search,
        asearch,
        name="search_memory",
        description=SEARCH,
        args_schema=SearchMemory,
        response_format="content_and_artifact",
    )
    return [create_save_tool(store, metadata), found]


def check_texts(store: CMTMemoryStore) -> None:
    """Refuse to show the texts of a store that keeps none."""
    if not store.keep_text:
        raise InvalidInputError(
            "This store keeps no texts (keep_text=False), so there are none to show; CMTMemoryMiddleware gives its "
            "memories to a ChatCMT of the same store."
        )


def create_save_tool(store: CMTMemoryStore, metadata: dict[str, Any] | None = None) -> BaseTool:
    """The tool `save_memory` alone."""

    def save(text: str) -> str:
        return f"Saved as {store.add_documents([text], metadatas=[metadata])[0]}."

    async def asave(text: str) -> str:
        return f"Saved as {(await store.aadd_documents([text], metadatas=[metadata]))[0]}."

    return StructuredTool.from_function(save, asave, name="save_memory", description=SAVE, args_schema=SaveMemory)


def _found(hits: list[MemoryHit]) -> tuple[str, list[dict[str, Any]]]:
    places = [{"id": hit.id, "passage": hit.passage, "score": hit.score, "metadata": hit.metadata} for hit in hits]
    return "\n\n".join(hit.text for hit in hits) or NOTHING, places
