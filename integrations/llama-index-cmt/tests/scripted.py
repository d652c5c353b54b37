"""An LM that says what a test wrote for it, so that what an agent's tools do can be tested."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from llama_index.core.base.llms.types import ChatMessage, CompletionResponse, CompletionResponseGen, LLMMetadata
from llama_index.core.bridge.pydantic import Field
from llama_index.core.llms import CustomLLM
from llama_index.core.llms.callbacks import llm_completion_callback


class ScriptedLLM(CustomLLM):
    """Answers each prompt by a function of it, and records the prompts."""

    says: Callable[[str], str] = Field(exclude=True)
    prompts: list[str] = Field(default_factory=list)

    @property
    def metadata(self) -> LLMMetadata:
        return LLMMetadata(context_window=100_000, model_name="scripted")

    @llm_completion_callback()
    def complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponse:
        self.prompts.append(prompt)
        return CompletionResponse(text=self.says(prompt))

    @llm_completion_callback()
    def stream_complete(self, prompt: str, formatted: bool = False, **kwargs: Any) -> CompletionResponseGen:
        def pieces() -> CompletionResponseGen:
            answer = self.complete(prompt)
            yield CompletionResponse(text=answer.text, delta=answer.text)

        return pieces()


def react(tool: str, questions: Sequence[str]) -> Callable[[str], str]:
    """What a ReAct agent's LM says that puts a question to a tool and then gives its answer back."""

    def says(prompt: str) -> str:
        question = next(question for question in questions if question in prompt)
        if "Observation:" in prompt.rpartition(question)[2]:
            found = prompt.rpartition("Observation:")[2].split("\n")[0].strip()
            return f"Thought: I can answer now.\nAnswer: {found}"
        return f'Thought: I need a tool.\nAction: {tool}\nAction Input: {{"input": "{question}"}}'

    return says


def user(text: str) -> ChatMessage:
    return ChatMessage(role="user", content=text)
