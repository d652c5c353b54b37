"""ChatCMT: a local LM that answers with a store's memories, as LangChain's chat model."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Generator, Iterator, Sequence
from contextlib import aclosing, closing
from functools import partial
from typing import Any, Literal, Self

from cmt_memory import (
    CMTGenerator,
    CMTMemoryStore,
    CMTModel,
    InvalidInputError,
    pieces_on_threads,
    result_on_thread,
)
from cmt_memory.opening import load_model
from langchain_core.callbacks import AsyncCallbackManagerForLLMRun, CallbackManagerForLLMRun
from langchain_core.language_models import BaseChatModel, LanguageModelInput
from langchain_core.language_models.base import LangSmithParams
from langchain_core.language_models.model_profile import ModelProfile
from langchain_core.messages import AIMessage, AIMessageChunk, BaseMessage
from langchain_core.messages.tool import tool_call_chunk
from langchain_core.outputs import ChatGeneration, ChatGenerationChunk, ChatResult
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import Runnable
from langchain_core.tools import BaseTool
from langchain_core.utils.function_calling import convert_to_openai_tool
from pydantic import AliasChoices, ConfigDict, Field, PrivateAttr, model_validator

from langchain_cmt.calls import Answered, Call, finish_reason, metadata, usage
from langchain_cmt.documents import memory_ids, refuse, refuse_unknown_fields
from langchain_cmt.messages import last_words, to_turns
from langchain_cmt.tool_calls import ToolFormat, shown_length, tool_format, tool_names

_SETTINGS = ("max_tokens", "temperature", "top_p", "seed", "alpha")
_CONTEXT = ("k", "mode", "filter", "min_score")
_MEMORIES = ("memory_ids", "memory_versions")
_PASSED_BY = ("stream", "strict", "parallel_tool_calls", "structured_output_format")
"""What LangChain passes to a call of any model, and a local LM has no use for."""
_MADE_WITH = ("timeout", "max_retries", "api_key")
"""What LangChain's standard suite makes every model with, likewise."""


class ChatCMT(BaseChatModel):
    """Chats with a local LM; with a store, its memories stand in front of the conversation, not in the prompt.

    The user's last words are searched for in the store. `memory_ids=[…]` of a call names documents or passages
    instead, and so does what a `retriever` finds. Every setting can also be given per call or by `bind`.

    Args:
        store: where memories come from; its model answers. Or leave it out and give `model`.
        model: without a store: a `CMTModel`, or a name or folder as `CMTMemoryStore` takes it. `model_id` is another
            name.
        model_kwargs: arguments of `CMTModel.from_llm`, for an LM by name, such as `device` and `dtype`.
        retriever: finds the memories in place of the store's own search.
        k: passages to use at most.
        mode: `"memory"` injects memories, `"text"` puts the same passages into the prompt as text, `"none"` asks the
            LM alone.
        filter: a condition on metadata, such as `{"year": {"$gte": 2024}}`.
        min_score: leave out passages with a lower score, from 0 to 1.
        max_tokens: tokens to generate at most. `max_new_tokens` is another name.
        temperature: 0 takes the most likely token.
        top_p: sample from the smallest set of tokens with this much probability.
        seed: makes sampling repeatable.
        stop: strings that end the answer. `stop_sequences` is another name.
        alpha: contrast with the LM without memory; see `CMTMemoryStore.ask`.

    Raises:
        ValueError: neither a store nor a model is given, or both.
        TypeError: an argument that it does not know.

    Examples:
        >>> from langchain_cmt import ChatCMT
        >>> ChatCMT(store=store, k=2).invoke("Who has the spare key?").text  # doctest: +SKIP
    """

    model_config = ConfigDict(populate_by_name=True, arbitrary_types_allowed=True)

    store: CMTMemoryStore | None = None
    model: CMTModel | str | None = Field(default=None, validation_alias=AliasChoices("model", "model_id"))
    model_kwargs: dict[str, Any] = Field(default_factory=dict)
    retriever: BaseRetriever | None = None
    k: int = 4
    mode: Literal["memory", "text", "none"] = "memory"
    filter: dict[str, Any] | None = None
    min_score: float | None = None
    max_tokens: int = Field(default=256, validation_alias=AliasChoices("max_tokens", "max_new_tokens"))
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: list[str] | None = Field(default=None, validation_alias=AliasChoices("stop", "stop_sequences"))
    alpha: float = 0.0
    streaming: bool = False

    _generator: CMTGenerator | None = PrivateAttr(default=None)

    @model_validator(mode="before")
    @classmethod
    def _nothing_else(cls, given: Any) -> Any:
        known = ("store", "model", "model_kwargs", "retriever", *_SETTINGS, *_CONTEXT, "stop", "streaming")
        return refuse_unknown_fields(cls, given, ", ".join(known), _MADE_WITH)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.store is None) == (self.model is None):
            raise InvalidInputError("ChatCMT takes either store=…, whose model answers, or model=…")
        if self.store is None and self.retriever is not None:
            raise InvalidInputError("A retriever finds memories of a store; give ChatCMT the store too.")
        if self.model is not None:
            self._generator = CMTGenerator(_loaded(self.model, self.model_kwargs))
        return self

    # -- what it is --------------------------------------------------------------------------------------------

    @property
    def generator(self) -> CMTGenerator:
        """What runs the LM."""
        generator = self._generator if self.store is None else self.store.generator
        assert generator is not None
        return generator

    @property
    def model_name(self) -> str:
        """Name of the LM: its hub id or folder, or its class."""
        return self.generator.model.config.lm or type(self.generator.lm.model).__name__

    @property
    def _llm_type(self) -> str:
        return "cmt-chat"

    @property
    def _identifying_params(self) -> dict[str, Any]:
        """What an answer depends on, as a key for caches: a change of the store's documents is a change of this."""
        settings = {name: getattr(self, name) for name in (*_SETTINGS, *_CONTEXT, "stop")}
        settings |= {"model_name": self.model_name, "fingerprint": self.generator.model.fingerprint}
        if self.retriever is not None:
            settings["retriever"] = repr(self.retriever)
        if self.store is not None:
            settings |= {"store": str(self.store.path.absolute()), "changes": self.store.changes()}
            settings["documents"] = len(self.store)  # those that expire go without a change
        return settings

    def _get_ls_params(self, stop: list[str] | None = None, **kwargs: Any) -> LangSmithParams:
        given = {"model": self.model_name} | kwargs
        params = super()._get_ls_params(stop=stop or self.stop, **given)
        params["ls_provider"] = "cmt-memory"
        return params

    def _resolve_model_profile(self) -> ModelProfile:
        profile: ModelProfile = {"name": self.model_name, "open_weights": True, "text_inputs": True}
        if (positions := self.generator.lm.max_positions) is not None:
            profile["max_input_tokens"] = positions
        return profile

    def get_token_ids(self, text: str) -> list[int]:
        """Token ids of a text, by the LM's own tokenizer."""
        ids: list[int] = self.generator.lm.tokenizer.encode(text, add_special_tokens=False)
        return ids

    # -- tools -------------------------------------------------------------------------------------------------

    def bind_tools(
        self,
        tools: Sequence[dict[str, Any] | type | Callable[..., Any] | BaseTool],
        *,
        tool_choice: str | bool | dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> Runnable[LanguageModelInput, AIMessage]:
        """Show tools to the LM through its chat template.

        Args:
            tools: functions, LangChain tools, pydantic classes or JSON schemas.
            tool_choice: `"auto"` or None leaves it to the LM whether to call one; `"any"`, `"required"` or True makes
                it begin a call, and a name, or OpenAI's dict with one, a call of that tool; `"none"` shows none.
            kwargs: settings of the call.

        Raises:
            InvalidInputError: the chat template has no place for tools, or there is no tool of that name.
        """
        shown = [convert_to_openai_tool(tool) for tool in tools]
        chosen = tool_choice["function"]["name"] if isinstance(tool_choice, dict) else tool_choice
        if chosen == "none":
            shown = []
        forced = chosen not in (None, False, "auto", "none")
        if isinstance(chosen, str) and chosen not in ("auto", "any", "required", "none"):
            named = [tool for tool in shown if tool["function"]["name"] == chosen]
            if not named:
                raise InvalidInputError(
                    f"tool_choice is {chosen!r}; there are {', '.join(tool_names(shown)) or 'none'}."
                )
            shown = named
        if not shown:
            return self.bind(**kwargs)
        self._tool_format(shown)
        return self.bind(tools=shown, tool_choice="any" if forced else "auto", **kwargs)

    def _tool_format(self, tools: Sequence[dict[str, Any]]) -> ToolFormat:
        model = self.generator.model
        return tool_format(model.lm.tokenizer, tools, **model.config.chat_template_kwargs)

    # -- answers -----------------------------------------------------------------------------------------------

    def _generate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        self._retrieve(call, messages)
        if self.store is None:
            return self._result(call, self.generator.chat(call.turns, **call.settings))
        self._check_versions(call)
        return self._result(call, self.store.ask(call.turns, **call.context, **call.settings))

    async def _agenerate(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> ChatResult:
        call = self._call(messages, stop, kwargs)
        await self._aretrieve(call, messages)
        return self._result(call, await result_on_thread(partial(self._pieces, call)))

    def _stream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: CallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> Iterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        self._retrieve(call, messages)
        with closing(self._chunks(call)) as chunks:
            for chunk in chunks:
                if run_manager is not None and chunk.text:
                    run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    async def _astream(
        self,
        messages: list[BaseMessage],
        stop: list[str] | None = None,
        run_manager: AsyncCallbackManagerForLLMRun | None = None,
        **kwargs: Any,
    ) -> AsyncIterator[ChatGenerationChunk]:
        call = self._call(messages, stop, kwargs)
        await self._aretrieve(call, messages)
        async with aclosing(pieces_on_threads(partial(self._chunks, call))) as chunks:
            async for chunk in chunks:
                if run_manager is not None and chunk.text:
                    await run_manager.on_llm_new_token(chunk.text, chunk=chunk)
                yield chunk

    def _pieces(self, call: Call) -> Generator[str, None, Answered]:
        if self.store is None:
            return self.generator.stream(call.turns, **call.settings)
        self._check_versions(call)
        return self.store.stream(call.turns, **call.context, **call.settings)

    def _chunks(self, call: Call) -> Generator[ChatGenerationChunk, None, None]:
        """The words as they come; tool calls, usage and the rest with the last chunk."""
        text, shown = call.lead, 0
        with closing(self._pieces(call)) as pieces:
            try:
                while True:
                    text += next(pieces)
                    sure = shown_length(text) if call.names else len(text)
                    if sure > shown:
                        piece, shown = text[shown:sure], sure
                        yield ChatGenerationChunk(message=AIMessageChunk(content=piece))
            except StopIteration as end:
                answer: Answered = end.value
        said = call.said(answer)
        made: list[tuple[str | None, str | None, str | None]]
        made = [(call["name"], json.dumps(call["args"], ensure_ascii=False), call["id"]) for call in said.calls]
        made += [(call["name"], call["args"], call["id"]) for call in said.invalid]
        message = AIMessageChunk(
            content=said.text[shown:],
            tool_call_chunks=[
                tool_call_chunk(name=name, args=args, id=id, index=index) for index, (name, args, id) in enumerate(made)
            ],
            usage_metadata=usage(answer),
            response_metadata=metadata(answer, self.model_name),
            chunk_position="last",
        )
        yield ChatGenerationChunk(message=message, generation_info={"finish_reason": finish_reason(answer, said)})

    def _result(self, call: Call, answer: Answered) -> ChatResult:
        said = call.said(answer)
        message = AIMessage(
            content=said.text,
            tool_calls=said.calls,
            invalid_tool_calls=said.invalid,
            usage_metadata=usage(answer),
            response_metadata=metadata(answer, self.model_name),
        )
        info = {"finish_reason": finish_reason(answer, said)}
        return ChatResult(generations=[ChatGeneration(message=message, generation_info=info)])

    # -- what a call is given ----------------------------------------------------------------------------------

    def _call(self, messages: Sequence[BaseMessage], stop: list[str] | None, given: dict[str, Any]) -> Call:
        known = (*_SETTINGS, *_CONTEXT, *_MEMORIES, *_PASSED_BY, "max_new_tokens", "tools", "tool_choice")
        refuse(given.keys() - set(known), "ChatCMT", ", ".join((*_SETTINGS, *_CONTEXT, *_MEMORIES, "tools, stop")))
        values = {name: given.get(name, getattr(self, name)) for name in (*_SETTINGS, *_CONTEXT)}
        values["max_tokens"] = given.get("max_new_tokens", values["max_tokens"])
        settings: dict[str, Any] = {name: values[name] for name in _SETTINGS if name != "max_tokens"}
        settings |= {"max_new_tokens": values["max_tokens"], "stop": stop or self.stop or None}
        call = Call(to_turns(messages), settings)
        if tools := given.get("tools"):
            self._offer(call, [convert_to_openai_tool(tool) for tool in tools], given.get("tool_choice"))
        if self.store is not None:
            call.context = {name: values[name] for name in _CONTEXT} | {"memory_ids": given.get("memory_ids")}
            call.versions = given.get("memory_versions")
        elif asked := [name for name in (*_CONTEXT, *_MEMORIES) if given.get(name) is not None]:
            raise InvalidInputError(
                f"{', '.join(asked)} choose memories, and this ChatCMT has no store; give it store=…"
            )
        return call

    def _offer(self, call: Call, tools: list[dict[str, Any]], choice: str | None) -> None:
        """Show the LM tools, and begin a call for it where it has to make one."""
        call.names, call.settings["tools"] = tool_names(tools), tools
        if choice == "any":
            lead = self._tool_format(tools).lead(call.names)
            tokenizer = self.generator.lm.tokenizer
            read = tokenizer.decode(tokenizer.encode(lead, add_special_tokens=False), skip_special_tokens=True)
            call.settings["lead"], call.lead = lead, str(read)

    def _asks_retriever(self, call: Call) -> bool:
        return bool(call.context) and call.context["memory_ids"] is None and call.context["mode"] != "none"

    def _retrieve(self, call: Call, messages: Sequence[BaseMessage]) -> None:
        if self.retriever is not None and self._asks_retriever(call):
            call.context["memory_ids"] = memory_ids(self.retriever.invoke(last_words(messages)))

    async def _aretrieve(self, call: Call, messages: Sequence[BaseMessage]) -> None:
        if self.retriever is not None and self._asks_retriever(call):
            call.context["memory_ids"] = memory_ids(await self.retriever.ainvoke(last_words(messages)))

    def _check_versions(self, call: Call) -> None:
        """Refuse memories whose text has changed since they were chosen."""
        ids = call.context["memory_ids"]
        if call.versions is None or ids is None or self.store is None:
            return
        if len(call.versions) != len(ids):
            raise InvalidInputError(f"memory_versions has {len(call.versions)} values for {len(ids)} memory_ids.")
        now = self.store.versions(ids)
        changed = [id for id, old, new in zip(ids, call.versions, now, strict=True) if old != new]
        if changed:
            raise InvalidInputError(f"The memories {changed[:10]} have changed since they were chosen; choose again.")


def _loaded(model: CMTModel | str, settings: dict[str, Any]) -> CMTModel:
    if isinstance(model, CMTModel):
        return model
    return CMTModel.from_llm(model, **settings) if settings else load_model(model)
