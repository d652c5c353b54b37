"""CMTLLM: the frozen LM of a store, or of a model, as a LlamaIndex LLM."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any

from cmt_memory import (
    CMTGenerator,
    CMTMemoryStore,
    CMTModel,
    InvalidInputError,
    pieces_on_threads,
    result_on_thread,
)
from cmt_memory.opening import load_model
from llama_index.core.base.llms.generic_utils import messages_to_prompt
from llama_index.core.base.llms.types import (
    ChatMessage,
    ChatResponse,
    ChatResponseAsyncGen,
    ChatResponseGen,
    CompletionResponse,
    CompletionResponseAsyncGen,
    CompletionResponseGen,
    LLMMetadata,
    MessageRole,
)
from llama_index.core.bridge.pydantic import Field, PrivateAttr
from llama_index.core.llms.callbacks import llm_chat_callback, llm_completion_callback
from llama_index.core.llms.llm import LLM, default_completion_to_prompt

from llama_index.llms.cmt.requests import SETTINGS, Request, call_settings, made_with, to_turns

_WITHOUT_LIMIT = 131_072


class CMTLLM(LLM):
    """A local LM that takes memories beside its prompt.

    A call with `memory_ids=` (documents, passages or nodes of the store) has them injected as keys and values in front
    of the user's words; their text is not in the prompt. `max_new_tokens` (or `max_tokens`), `temperature`, `top_p`,
    `seed`, `stop` and `alpha` are obeyed per call too. Any other argument is refused by name.

    A prompt goes into the LM's own format: its chat template, or question and answer. Where `formatted=True`, or
    `messages_to_prompt` or `completion_to_prompt` is given, the prompt is taken as it is, with one BOS.

    Args:
        store: the store whose LM answers and whose memories can be named.
        model: in place of a store: a `CMTModel`, or a name or folder as `CMTMemoryStore` takes it.
        max_new_tokens: tokens to generate at most. `max_tokens` is another name.
        temperature: 0 takes the most likely token.
        top_p: sample from the smallest set of tokens with this much probability.
        seed: makes sampling repeatable.
        stop: strings that end an answer.
        alpha: contrast with the LM without memory.
        context_window: what LlamaIndex reckons with; the LM's own, unless given.
        settings: those above, and those of every LLM of LlamaIndex; any other is refused by name.

    Examples:
        >>> llm = CMTLLM(store=store)  # doctest: +SKIP
        >>> llm.complete("What is Mara's locker code?", memory_ids=["note"]).text  # doctest: +SKIP
        '4471'
    """

    store: Any = Field(default=None, exclude=True, description="The CMTMemoryStore whose LM answers.")
    max_new_tokens: int = Field(default=64, description="Tokens to generate at most.")
    temperature: float = Field(default=0.0, description="0 takes the most likely token.")
    top_p: float = Field(default=1.0, description="Probability mass to sample from.")
    seed: int | None = Field(default=None, description="Makes sampling repeatable.")
    stop: list[str] | str | None = Field(default=None, description="Strings that end an answer.")
    alpha: float = Field(default=0.0, description="Contrast with the LM without memory.")
    context_window: int | None = Field(default=None, description="The LM's own, unless given.")
    _generator: CMTGenerator | None = PrivateAttr(default=None)

    def __init__(
        self, store: CMTMemoryStore | None = None, model: CMTModel | str | None = None, **settings: Any
    ) -> None:
        if (store is None) == (model is None):
            raise InvalidInputError("give a store whose LM answers, or a model without a store, and not both.")
        if store is not None and not isinstance(store, CMTMemoryStore):
            raise InvalidInputError(f"store is {type(store).__name__}; expected an open CMTMemoryStore.")
        super().__init__(**({"store": store} | made_with(type(self), settings)))
        if model is not None:
            self._generator = CMTGenerator(model if isinstance(model, CMTModel) else load_model(model))

    @classmethod
    def class_name(cls) -> str:
        """Name of the class, as LlamaIndex serialises it."""
        return "CMTLLM"

    @property
    def generator(self) -> CMTGenerator:
        """What runs the LM; a store's own, which changes when its memories are made anew by another model."""
        generator: CMTGenerator = self.store.generator if self._generator is None else self._generator
        return generator

    @property
    def metadata(self) -> LLMMetadata:
        """The LM's name, context and kind."""
        lm = self.generator.lm
        return LLMMetadata(
            context_window=self.context_window or lm.max_positions or _WITHOUT_LIMIT,
            num_output=self.max_new_tokens,
            is_chat_model=bool(lm.tokenizer.chat_template),
            model_name=self.generator.model.config.lm or "unknown",
        )

    # -- one prompt --------------------------------------------------------------------------------------------

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """Answer a prompt.

        Args:
            prompt: the words.
            formatted: they are in the LM's format already.
            kwargs: settings of this call, and `memory_ids`.

        Raises:
            InvalidInputError: an argument or an id that is unknown, or a prompt longer than the LM's context.
        """
        return _completed(self._run(self._prompt_request(prompt, formatted, kwargs)))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        """Answer piece by piece; an error reaches whoever iterates. See `complete`."""
        return _streamed(self._pieces(self._prompt_request(prompt, formatted, kwargs)))

    @llm_completion_callback()
    async def acomplete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        """See `complete`; cancelled, the LM stops after the token it is at."""
        pieces = await result_on_thread(lambda: self._pieces(self._prompt_request(prompt, formatted, kwargs)))
        return _completed(pieces)

    @llm_completion_callback()
    async def astream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseAsyncGen:
        """See `stream_complete`; closed early, the LM stops after the token it is at."""
        return pieces_on_threads(lambda: _streamed(self._pieces(self._prompt_request(prompt, formatted, kwargs))))

    # -- conversations -----------------------------------------------------------------------------------------

    @llm_chat_callback()
    def chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """Take the LM's next turn; memories stand before the first user message. Arguments as `complete`."""
        return _as_chat(_completed(self._run(self._chat_request(messages, kwargs))))

    @llm_chat_callback()
    def stream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseGen:
        """See `chat` and `stream_complete`."""
        return _chat_stream(self._pieces(self._chat_request(messages, kwargs)))

    @llm_chat_callback()
    async def achat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponse:
        """See `chat`; cancelled, the LM stops after the token it is at."""
        pieces = await result_on_thread(lambda: self._pieces(self._chat_request(messages, kwargs)))
        return _as_chat(_completed(pieces))

    @llm_chat_callback()
    async def astream_chat(self, messages: Sequence[ChatMessage], **kwargs: Any) -> ChatResponseAsyncGen:
        """See `stream_chat`; closed early, the LM stops after the token it is at."""
        return pieces_on_threads(lambda: _chat_stream(self._pieces(self._chat_request(messages, kwargs))))

    # -- requests ----------------------------------------------------------------------------------------------

    def _prompt_request(self, prompt: str, formatted: bool, given: dict[str, Any]) -> Request:
        settings, memories = self._settings(given)
        if formatted:
            return Request(prompt, "applied", memories, settings)
        if self.completion_to_prompt not in (None, default_completion_to_prompt):
            return Request(self.completion_to_prompt(prompt), "applied", memories, settings)
        return Request(prompt, True, memories, settings)

    def _chat_request(self, messages: Sequence[ChatMessage], given: dict[str, Any]) -> Request:
        """A conversation by the tokenizer's template, or in words where there is none."""
        settings, memories = self._settings(given)
        if self.messages_to_prompt not in (None, messages_to_prompt):
            return Request(self.messages_to_prompt(messages), "applied", memories, settings)
        turns = to_turns(messages)
        if self.metadata.is_chat_model or len(turns) == 1:
            return Request(turns, True, memories, settings)
        return Request(messages_to_prompt(messages), False, memories, settings)

    def _settings(self, given: dict[str, Any]) -> tuple[dict[str, Any], Sequence[Any]]:
        settings, named = call_settings({name: getattr(self, name) for name in SETTINGS}, given)
        if len(named) > 1:
            raise InvalidInputError("give memory_ids or memories, not both.")
        if "memory_ids" not in named:
            return settings, named.get("memories", ())
        if self.store is None:
            raise InvalidInputError("memory_ids name memories of a store; make the LLM with CMTLLM(store=store).")
        return settings, self.store.passages(named["memory_ids"])

    def _run(self, request: Request) -> Any:
        if isinstance(request.prompt, str):
            return self.generator.generate(
                request.prompt, request.memories, template=request.template, **request.settings
            )
        return self.generator.chat(request.prompt, request.memories, **request.settings)

    def _pieces(self, request: Request) -> Generator[str, None, Any]:
        return self.generator.stream(request.prompt, request.memories, template=request.template, **request.settings)


def _completed(completion: Any) -> CompletionResponse:
    raw = {"finish_reason": completion.finish_reason, "usage": asdict(completion.usage), "timings": completion.timings}
    counts = {
        "prompt_tokens": completion.usage.prompt_tokens,
        "completion_tokens": completion.usage.completion_tokens,
        "total_tokens": completion.usage.prompt_tokens + completion.usage.completion_tokens,
    }
    return CompletionResponse(text=completion.text, raw=raw, additional_kwargs=counts)


def _streamed(pieces: Generator[str, None, Any]) -> CompletionResponseGen:
    """The text so far with each piece; at the end once more, with what it cost."""
    text = ""
    try:
        while True:
            piece = next(pieces)
            text += piece
            yield CompletionResponse(text=text, delta=piece)
    except StopIteration as end:
        yield _completed(end.value).model_copy(update={"delta": ""})
    finally:
        pieces.close()


def _as_chat(response: CompletionResponse) -> ChatResponse:
    return ChatResponse(
        message=ChatMessage(role=MessageRole.ASSISTANT, content=response.text),
        delta=response.delta,
        raw=response.raw,
        additional_kwargs=response.additional_kwargs,
    )


def _chat_stream(pieces: Generator[str, None, Any]) -> ChatResponseGen:
    responses = _streamed(pieces)
    try:
        for response in responses:
            yield _as_chat(response)
    finally:
        responses.close()
