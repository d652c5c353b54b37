"""LangChain's messages as the dicts that a tokenizer's chat template takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cmt_memory import InvalidInputError
from langchain_core.messages import AIMessage, BaseMessage, ChatMessage, HumanMessage, SystemMessage, ToolMessage


def to_turns(messages: Sequence[BaseMessage]) -> list[dict[str, Any]]:
    """Messages for a chat template.

    Raises:
        InvalidInputError: a message holds something else than text, or is of a kind that templates do not know.
    """
    return [_turn(message) for message in messages]


def last_words(messages: Sequence[BaseMessage]) -> str:
    """What the user said last; empty where the user said nothing."""
    said = [_text(message) for message in messages if isinstance(message, HumanMessage)]
    return next((words for words in reversed(said) if words.strip()), "")


def _turn(message: BaseMessage) -> dict[str, Any]:
    if isinstance(message, SystemMessage):
        return {"role": "system", "content": _text(message)}
    if isinstance(message, HumanMessage):
        return {"role": "user", "content": _text(message)}
    if isinstance(message, ToolMessage):
        return {
            "role": "tool",
            "name": message.name or "",
            "content": _text(message),
            "tool_call_id": message.tool_call_id,
        }
    if isinstance(message, AIMessage):
        turn: dict[str, Any] = {"role": "assistant", "content": str(message.text)}
        if message.tool_calls:
            turn["tool_calls"] = [
                {"type": "function", "id": call["id"], "function": {"name": call["name"], "arguments": call["args"]}}
                for call in message.tool_calls
            ]
        return turn
    if isinstance(message, ChatMessage):
        return {"role": message.role, "content": _text(message)}
    raise InvalidInputError(f"A {type(message).__name__} has no place in a chat template.")


def _text(message: BaseMessage) -> str:
    """The text of a message from outside; what an LM has said itself may hold other blocks, which are left out."""
    if isinstance(message.content, list):
        kinds = {str(block.get("type")) for block in message.content if isinstance(block, dict)} - {"text"}
        if kinds:
            raise InvalidInputError(
                f"A {type(message).__name__} holds {', '.join(sorted(kinds))}; this LM reads text only."
            )
    return str(message.text)
