"""One call of the LM: what it is given, and what its answer says beside the words."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from cmt_memory import Answer, Completion
from langchain_core.messages.ai import InputTokenDetails, UsageMetadata

from langchain_cmt.tool_calls import Said, parse

Answered = Answer | Completion


@dataclass(slots=True)
class Call:
    """What the LM is given.

    Attributes:
        turns: the conversation, for the chat template.
        settings: decoding settings, tools and lead, as `CMTGenerator.chat` takes them.
        context: which memories, as `CMTMemoryStore.ask` takes them.
        versions: what the texts of `context["memory_ids"]` were when they were chosen.
        names: tools that the LM may call.
        lead: what its turn begins with, as it reads in the decoded text.
    """

    turns: list[dict[str, Any]]
    settings: dict[str, Any]
    context: dict[str, Any] = field(default_factory=dict)
    versions: list[str | None] | None = None
    names: list[str] = field(default_factory=list)
    lead: str = ""

    def said(self, answer: Answered) -> Said:
        """The words and the tool calls of an answer."""
        return parse(self.lead + answer.text, self.names) if self.names else Said(answer.text, [], [])


def usage(answer: Answered) -> UsageMetadata:
    """Token counts; memories count as input that was read from a cache."""
    used = answer.usage
    read = used.prompt_tokens + used.memory_slots
    return UsageMetadata(
        input_tokens=read,
        output_tokens=used.completion_tokens,
        total_tokens=read + used.completion_tokens,
        input_token_details=InputTokenDetails(cache_read=used.memory_slots),
    )


def metadata(answer: Answered, model_name: str) -> dict[str, Any]:
    """What the answer rests on, without any document's text."""
    told: dict[str, Any] = {"model_name": model_name, "memory_slots": answer.usage.memory_slots}
    if isinstance(answer, Answer):
        told["grounded"] = answer.grounded
        told["memories"] = [{"id": hit.id, "passage": hit.passage, "score": hit.score} for hit in answer.hits]
        told["left_out"] = answer.usage.left_out
    return told


def finish_reason(answer: Answered, said: Said) -> str:
    """`"tool_calls"`, `"stop"` or `"length"`."""
    return "tool_calls" if said.calls else answer.finish_reason
