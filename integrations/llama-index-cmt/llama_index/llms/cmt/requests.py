"""LlamaIndex's prompts and messages as requests to a generator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from cmt_memory import InvalidInputError
from llama_index.core.base.llms.types import ChatMessage, MessageRole, TextBlock
from llama_index.core.bridge.pydantic import BaseModel

SETTINGS = ("max_new_tokens", "temperature", "top_p", "seed", "stop", "alpha")
_ALIASES = {"max_tokens": "max_new_tokens"}
_MEMORIES = ("memory_ids", "memories")
_ROLES = {
    MessageRole.DEVELOPER: "system",
    MessageRole.CHATBOT: "assistant",
    MessageRole.MODEL: "assistant",
    MessageRole.FUNCTION: "tool",
}


class Request(NamedTuple):
    """What a generator is asked: a prompt or a conversation, in which format, with which memories and settings."""

    prompt: str | list[dict[str, Any]]
    template: bool | Literal["applied"]
    memories: Sequence[Any]
    settings: dict[str, Any]


def made_with(cls: type[BaseModel], given: Mapping[str, Any]) -> dict[str, Any]:
    """What an LLM is made with, by the names of its fields.

    Raises:
        InvalidInputError: an argument that this LLM does not have.
    """
    named = {_ALIASES.get(name, name): value for name, value in given.items()}
    if unknown := [name for name in named if name not in cls.model_fields]:
        known = ", ".join((*SETTINGS, *_ALIASES, "context_window"))
        raise InvalidInputError(
            f"{cls.__name__} got the settings {unknown}; it takes {known} and those of every LLM of LlamaIndex."
        )
    return named


def call_settings(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The settings of a call, its own before the LLM's, and the memories it names.

    Raises:
        InvalidInputError: an argument that this LLM does not have.
    """
    named = {_ALIASES.get(name, name): value for name, value in given.items()}
    if unknown := [name for name in named if name not in (*SETTINGS, *_MEMORIES)]:
        raise InvalidInputError(
            f"CMTLLM got the arguments {unknown}; a call takes {', '.join((*SETTINGS, *_ALIASES, *_MEMORIES))}."
        )
    settings = {name: named.get(name, defaults[name]) for name in SETTINGS}
    return settings, {name: named[name] for name in _MEMORIES if named.get(name) is not None}


def to_turns(messages: Sequence[ChatMessage]) -> list[dict[str, Any]]:
    """Messages as a chat template takes them.

    Raises:
        InvalidInputError: a message holds something else than text.
    """
    return [{"role": _ROLES.get(message.role, message.role.value), "content": _text(message)} for message in messages]


def _text(message: ChatMessage) -> str:
    others = [block.block_type for block in message.blocks if not isinstance(block, TextBlock)]
    if others:
        raise InvalidInputError(f"a message of the {message.role.value} holds {others}; this LM reads text alone.")
    return message.content or ""
