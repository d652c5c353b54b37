"""What stands before and after the user's words: the head (the attention sink) and the tail of a prompt."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any

from jinja2 import TemplateError
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
            try:
                text = render_chat(tokenizer, [{"role": "user", "content": _SENTINEL}], chat_template_kwargs)
            except InvalidInputError as error:
                raise UnsupportedModelError(
                    f"The chat template cannot render a single user message, which is what a question is: {error}"
                ) from error
            head, tail = split_at_user(text, _SENTINEL)
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
    """Token ids of one segment of a template, without the tokenizer's own BOS or EOS."""
    if not text:
        return []
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    return ids


class WordsEncoder:
    """Token ids of what users and documents say, in which a control token is nothing but its letters.

    A document that happens to contain `<|im_end|>` must not end the user's turn.

    Args:
        tokenizer: the LM's tokenizer.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._controls = sorted(
            {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
            | set(tokenizer.all_special_tokens)
        )
        self._literal: PreTrainedTokenizerBase | None = None

    def __call__(self, text: str) -> list[int]:
        """Token ids of a text.

        Raises:
            InvalidInputError: it is not a string, or holds lone surrogates.
        """
        if not isinstance(text, str):
            raise InvalidInputError(f"Expected text, not {type(text).__name__}: {text!r:.80}.")
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            raise InvalidInputError(f"The text has a lone surrogate at character {error.start}.") from None
        if not any(control in text for control in self._controls):
            return encode(self._tokenizer, text)
        if self._literal is None:
            self._literal = copy.deepcopy(self._tokenizer)
            self._literal.split_special_tokens = True
        return encode(self._literal, text)


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
    try:
        text = tokenizer.apply_chat_template(
            messages,
            tools=tools,
            tokenize=False,
            add_generation_prompt=True,
            **{"enable_thinking": False, **(chat_template_kwargs or {})},
        )
    except TemplateError as error:
        raise InvalidInputError(f"The tokenizer's chat template refuses these messages: {error}") from error
    return str(text)


def split_at_user(text: str, sentinel: str) -> tuple[str, str]:
    """What a rendered conversation says before and after the words that `sentinel` stands for."""
    if text.count(sentinel) != 1:
        raise UnsupportedModelError(
            f"The tokenizer's chat template shows the user's words {text.count(sentinel)} times instead of once, so "
            "documents cannot be placed before them."
        )
    before, _, after = text.partition(sentinel)
    return before, after
