"""Token ids of prompts: the same segments in every mode, tokenised apart and joined."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.prompt import encode, render_chat, sink_token, split_at_user

_SENTINEL = "cmtfirstuserwords"
_ANSWER = "cmtanswerwords"


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt without its documents, which stand between head and question.

    Attributes:
        head_ids: what comes first; see `PromptFormat`.
        question_ids: the question and the tail after it, at least one token.
        stop: strings that end the answer.
        question: the user's last words, for memories that depend on what is asked.
    """

    head_ids: tuple[int, ...]
    question_ids: tuple[int, ...]
    stop: tuple[str, ...]
    question: str

    def with_documents(self, lm: FrozenLM, texts: Sequence[str]) -> list[int]:
        """The prompt as plain text would give it: head, documents joined by a blank line, question, tail."""
        return [*self.head_ids, *(i for text in texts for i in lm.encode_document(text)), *self.question_ids]


Template = bool | Literal["applied"]


def question_prompt(lm: FrozenLM, question: str, stop: Sequence[str] | None, *, template: Template = True) -> Prompt:
    """A prompt that asks one question.

    With `template=False` the words stand alone, to be continued; with `"applied"` the caller has put them into the LM's
    format, so that control tokens in them count and a head that they begin with is not doubled.
    """
    if not isinstance(question, str) or not question.strip():
        raise InvalidInputError(f"The question must be a non-empty string, not {question!r}.")
    form = lm.prompt
    if template == "applied":
        return _formatted_prompt(lm, question, stop)
    if not isinstance(template, bool):
        raise InvalidInputError(f"template must be True, False or 'applied', not {template!r}.")
    before, tail, default_stop = (form.before, form.tail, form.stop) if template else ("", "", ())
    words = before + question.strip() if template else question
    ids = lm.encode_words(words) + encode(lm.tokenizer, tail)
    return Prompt(form.head_ids, tuple(ids), _stops(default_stop, stop), question.strip())


def _formatted_prompt(lm: FrozenLM, text: str, stop: Sequence[str] | None) -> Prompt:
    """A prompt as its author wrote it; documents go behind its head, or else behind a special first token."""
    ids, head = encode(lm.tokenizer, text), lm.prompt.head_ids
    if tuple(ids[: len(head)]) != head:
        head = (ids[0],) if ids and ids[0] in lm.tokenizer.all_special_ids else ()
    rest = tuple(ids[len(head) :])
    if not rest:
        raise InvalidInputError(f"The prompt {text!r:.80} has no words after its head.")
    return Prompt(head or (sink_token(lm.tokenizer),), rest, _stops((), stop), text.strip())


@dataclass(frozen=True, slots=True)
class AnswerFormat:
    """How an LM writes an answer after a prompt: what stands before the words, and the tokens that end it."""

    lead: str
    end_ids: tuple[int, ...]

    def encode(self, lm: FrozenLM, answer: str) -> list[int]:
        """Token ids of an answer with its end."""
        return [*lm.encode_words(self.lead + answer.strip()), *self.end_ids]


def answer_format(lm: FrozenLM, chat_template_kwargs: dict[str, Any] | None = None) -> AnswerFormat:
    """Read the format of answers off the chat template; without one, a space before and a newline after."""
    tokenizer = lm.tokenizer
    first = tokenizer.convert_ids_to_tokens(encode(tokenizer, "word"))[:1]
    spaces_itself = bool(first) and first[0].startswith(("Ġ", "▁"))
    if not lm.prompt.chat:
        return AnswerFormat("" if spaces_itself else " ", tuple(encode(tokenizer, lm.prompt.stop[0])))
    asked = [{"role": "user", "content": _SENTINEL}]
    settings = {"enable_thinking": False, **(chat_template_kwargs or {})}
    whole = str(
        tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": _ANSWER}], tokenize=False, **settings)
    )
    before, _, after = whole.partition(_ANSWER)
    prompt = render_chat(tokenizer, asked, chat_template_kwargs)
    lead = before.removeprefix(prompt) if before.startswith(prompt) else ""
    ends = lm.model.generation_config.eos_token_id if lm.model.generation_config else None
    eos = {tokenizer.eos_token_id, *(ends if isinstance(ends, list) else [ends])} - {None}
    end_ids = encode(tokenizer, after)
    stops = [place for place, token in enumerate(end_ids) if token in eos]
    end = end_ids[: stops[0] + 1] if stops else [tokenizer.eos_token_id]
    return AnswerFormat(lead.removeprefix(" ") if spaces_itself else lead, tuple(end))


def chat_prompt(
    lm: FrozenLM,
    messages: Sequence[dict[str, Any]],
    stop: Sequence[str] | None,
    chat_template_kwargs: dict[str, Any] | None = None,
    tools: list[Any] | None = None,
) -> Prompt:
    """A conversation by the tokenizer's template; documents go in front of the first user message.

    Raises:
        InvalidInputError: no user message, a message without text, or a tokenizer without a chat template
            and more than one message.
    """
    if not isinstance(messages, Sequence) or not all(isinstance(message, Mapping) for message in messages):
        raise InvalidInputError(f'messages must be a list of {{"role": …, "content": …}}, not {messages!r:.80}.')
    turns = [dict(message) for message in messages]
    for turn in turns:
        if not isinstance(turn.get("role"), str) or not isinstance(turn.get("content"), str | None):
            raise InvalidInputError(f'A message is {{"role": …, "content": …}} with text in both, not {turn!r}.')
    first = next((i for i, turn in enumerate(turns) if turn["role"] == "user"), None)
    if first is None or not (turns[first].get("content") or "").strip():
        raise InvalidInputError("A conversation needs a user message with text.")
    words = turns[first]["content"]
    if not lm.tokenizer.chat_template:
        if len(turns) > 1:
            raise InvalidInputError(
                f"{type(lm.tokenizer).__name__} has no chat template, so a conversation of {len(turns)} messages "
                "cannot be rendered; pass a single user message, or set tokenizer.chat_template."
            )
        return question_prompt(lm, words, stop)
    sentinel = _SENTINEL
    while any(sentinel in (turn.get("content") or "") for turn in turns):
        sentinel += "x"
    asked = next(
        turn["content"].strip()
        for turn in reversed(turns)
        if turn["role"] == "user" and (turn.get("content") or "").strip()
    )
    turns[first]["content"] = sentinel
    head, after = split_at_user(render_chat(lm.tokenizer, turns, chat_template_kwargs, tools), sentinel)
    head_ids = lm.prompt.head_ids if len(turns) == 1 and not tools else tuple(encode(lm.tokenizer, head))
    ids = lm.encode_words(words.strip()) + encode(lm.tokenizer, after)
    return Prompt(head_ids or lm.prompt.head_ids, tuple(ids), _stops(lm.prompt.stop, stop), asked)


def _stops(default: Sequence[str], given: Sequence[str] | str | None) -> tuple[str, ...]:
    if given is None:
        return tuple(default)
    if not isinstance(given, str | Sequence):
        raise InvalidInputError(f"stop must be a string or several, not {given!r}.")
    stops = (given,) if isinstance(given, str) else tuple(given)
    if not all(isinstance(stop, str) and stop for stop in stops):
        raise InvalidInputError(f"stop must be non-empty strings, not {given!r}.")
    return stops
