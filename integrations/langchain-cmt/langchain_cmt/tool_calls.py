"""Tool calls in the words of a local LM: the format that its chat template has for them, and finding them in a text."""

from __future__ import annotations

import json
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from cmt_memory import InvalidInputError
from langchain_core.messages import InvalidToolCall, ToolCall
from langchain_core.messages.tool import invalid_tool_call, tool_call
from transformers import PreTrainedTokenizerBase

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
_NAME, _KEY, _VALUE = "cmttoolname", "cmttoolkey", "cmttoolvalue"
_ARGUMENTS = ("arguments", "parameters")


@dataclass(frozen=True, slots=True)
class ToolFormat:
    """How a chat template writes a tool call.

    Attributes:
        before_name: what stands between the beginning of the LM's turn and the tool's name.
        before_arguments: what stands between the name and the arguments' JSON.
    """

    before_name: str
    before_arguments: str

    def lead(self, names: Sequence[str]) -> str:
        """The opening of a call: of the tool itself where there is one, else up to the name."""
        return f"{self.before_name}{names[0]}{self.before_arguments}" if len(names) == 1 else self.before_name


def tool_format(tokenizer: PreTrainedTokenizerBase, tools: Sequence[dict[str, Any]], **template: Any) -> ToolFormat:
    """Read the format of tool calls off a tokenizer's chat template.

    Args:
        tokenizer: the LM's tokenizer.
        tools: the tools, in OpenAI's format.
        template: arguments of the template, such as `enable_thinking`.

    Raises:
        InvalidInputError: there is no template, or it shows the LM no tools or no calls; the message says what to do.
    """
    kind = type(tokenizer).__name__
    remedy = "use an LM that was trained to call tools, or call the tools yourself"
    if not tokenizer.chat_template:
        raise InvalidInputError(f"{kind} has no chat template, so its LM cannot be shown tools; {remedy}.")
    asked: list[dict[str, Any]] = [{"role": "user", "content": "?"}]
    settings = {"tools": list(tools), "tokenize": False, "enable_thinking": False, **template}
    shown = str(tokenizer.apply_chat_template(asked, add_generation_prompt=True, **settings))
    hidden = [name for name in tool_names(tools) if name not in shown]
    if hidden:
        raise InvalidInputError(
            f"The chat template of {kind} does not show tools to its LM ({', '.join(hidden)} is not in the prompt); "
            f"{remedy}."
        )
    call = {"type": "function", "id": "123456789", "function": {"name": _NAME, "arguments": {_KEY: _VALUE}}}
    turn: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call]}
    written = str(tokenizer.apply_chat_template([*asked, turn], **settings))
    before, _, after = written.removeprefix(shown).partition(_NAME)
    between = after.partition(_KEY)[0]
    if not written.startswith(shown) or "{" not in between:
        return ToolFormat(f'{_OPEN}\n{{"name": "', '", "arguments": ')
    return ToolFormat(before, between[: between.rindex("{")])


def tool_names(tools: Sequence[dict[str, Any]]) -> list[str]:
    """Names of tools in OpenAI's format."""
    return [tool["function"]["name"] for tool in tools]


@dataclass(frozen=True, slots=True)
class Said:
    """What an LM said: words, and calls of tools."""

    text: str
    calls: list[ToolCall]
    invalid: list[InvalidToolCall]


def parse(text: str, names: Collection[str]) -> Said:
    """Take the tool calls out of a text.

    A call is JSON with a name and arguments, between `<tool_call>` tags or, where the name is that of a tool, by
    itself or in a list. What cannot be read is kept as an invalid call with the reason.

    Args:
        text: what the LM wrote.
        names: the tools that it was shown.
    """
    start = _start(text)
    if not text.startswith(_OPEN, start):
        calls = _bare(text[start:], names)
        return Said("" if calls else text, calls, [])
    found, unread = list[ToolCall](), list[InvalidToolCall]()
    for piece in text[start:].split(_OPEN)[1:]:
        words = piece.partition(_CLOSE)[0].strip()
        call = _call(words)
        if call is not None:
            found.append(call)
        else:
            error = f"not a JSON object with a name and arguments: {words[:80]!r}"
            unread.append(invalid_tool_call(name=None, args=words, id=_new_id(), error=error))
    return Said(text[:start].rstrip(), found, unread)


def shown_length(text: str) -> int:
    """How many characters of an unfinished text are surely words and not the beginning of a tool call."""
    start = _start(text)
    if start < len(text):
        return len(text[:start].rstrip())
    partial = next((size for size in range(len(_OPEN) - 1, 0, -1) if text.endswith(_OPEN[:size])), 0)
    return len(text[: len(text) - partial].rstrip())


def _start(text: str) -> int:
    """Where calls begin: at the first tag, or at the beginning of a text that may be JSON; its end without any."""
    if text.lstrip()[:1] in ("{", "["):
        return 0
    place = text.find(_OPEN)
    return len(text) if place < 0 else place


def _bare(text: str, names: Collection[str]) -> list[ToolCall]:
    try:
        value, _ = json.JSONDecoder().raw_decode(text.lstrip())
    except ValueError:
        return []
    calls = [_of(item) for item in (value if isinstance(value, list) else [value])]
    known = [call for call in calls if call is not None and call["name"] in names]
    return known if len(known) == len(calls) else []


def _call(words: str) -> ToolCall | None:
    try:
        return _of(json.JSONDecoder().raw_decode(words)[0])
    except ValueError:
        return None


def _of(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        return None
    given: Any = next((value[key] for key in _ARGUMENTS if key in value), {})
    if isinstance(given, str):
        try:
            given = json.loads(given)
        except ValueError:
            return None
    return tool_call(name=value["name"], args=given, id=_new_id()) if isinstance(given, dict) else None


def _new_id() -> str:
    return f"call_{uuid.uuid4().hex}"
