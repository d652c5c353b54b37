"""What stands before and after the user's words: the head (the attention sink) and the tail of a prompt."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from cmt_memory.errors import InvalidInputError, UnsupportedModelError

BLANK_LINE = "\n\n"
_SENTINEL = "cmtquestionhere"


@dataclass(frozen=True, slots=True)
class PromptFormat:
    """How a prompt is put together: head + documents + question + tail, each tokenised apart.

    Attributes:
        head_ids: BOS; with a chat template everything before the user's words; with neither, one special token.
            Its keys and values are the attention sink that a frozen LM needs, so it is never empty.
        before: text tokenised together with the question, in front of it.
        tail: text after the question, which makes the LM answer.
        stop: strings that end an answer besides the LM's own end-of-sequence tokens.
        chat: whether the tokenizer's chat template made head and tail.
    """

    head_ids: tuple[int, ...]
    before: str
    tail: str
    stop: tuple[str, ...]
    chat: bool

    @classmethod
    def from_tokenizer(
        cls, tokenizer: PreTrainedTokenizerBase, chat_template_kwargs: dict[str, Any] | None = None
    ) -> PromptFormat:
        """Read the format off a tokenizer: its chat template if it has one, else a plain question and answer."""
        if tokenizer.chat_template:
            text = render_chat(tokenizer, [{"role": "user", "content": _SENTINEL}], chat_template_kwargs)
            head, tail = split_at_user(text)
            head_ids = tuple(encode(tokenizer, head)) or (sink_token(tokenizer),)
            return cls(head_ids=head_ids, before="", tail=tail, stop=(), chat=True)
        return cls(head_ids=(sink_token(tokenizer),), before="Question: ", tail="\nAnswer:", stop=("\n",), chat=False)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready form."""
        return asdict(self) | {"head_ids": list(self.head_ids), "stop": list(self.stop)}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PromptFormat:
        """The inverse of `to_dict`."""
        return cls(
            head_ids=tuple(values["head_ids"]),
            before=values["before"],
            tail=values["tail"],
            stop=tuple(values["stop"]),
            chat=values["chat"],
        )


def encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of one segment, without the tokenizer's own BOS or EOS."""
    if not text:
        return []
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


def encode_document(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a document with the blank line that follows it in every prompt."""
    return encode(tokenizer, text + BLANK_LINE)


def sink_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id of BOS, or of the special token that stands in for it where a tokenizer has none."""
    for token_id in (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id):
        if token_id is not None:
            return int(token_id)
    if tokenizer.all_special_ids:
        return int(tokenizer.all_special_ids[0])
    raise UnsupportedModelError(
        "The tokenizer has no special token (BOS, EOS or padding) to start a prompt with; add one, for example "
        "tokenizer.add_special_tokens({'bos_token': '<s>'})."
    )


def render_chat(
    tokenizer: PreTrainedTokenizerBase,
    messages: list[dict[str, Any]],
    chat_template_kwargs: dict[str, Any] | None = None,
    tools: list[Any] | None = None,
) -> str:
    """Text of a conversation by the tokenizer's chat template, ready for the LM's next turn.

    Reasoning is switched off where the template knows the switch (`enable_thinking`), because an answer of a few
    dozen tokens leaves no room for it; pass `{"enable_thinking": True}` to have it.
    """
    if not tokenizer.chat_template:
        raise InvalidInputError(
            f"{type(tokenizer).__name__} has no chat template, so it cannot render messages; "
            "pass a plain string, or set tokenizer.chat_template."
        )
    text = tokenizer.apply_chat_template(
        messages,
        tools=tools,
        tokenize=False,
        add_generation_prompt=True,
        **{"enable_thinking": False, **(chat_template_kwargs or {})},
    )
    return str(text)


def split_at_user(text: str, sentinel: str = _SENTINEL) -> tuple[str, str]:
    """What a rendered conversation says before and after the words that `sentinel` stands for."""
    before, found, after = text.partition(sentinel)
    if not found:
        raise UnsupportedModelError(
            "The tokenizer's chat template does not show the user's words in the prompt, so documents cannot be "
            "placed before them."
        )
    return before, after
