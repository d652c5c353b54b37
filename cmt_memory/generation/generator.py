"""CMTGenerator: the LM wrapper that answers with memories in front of the question instead of text in the prompt."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import replace
from typing import Any, Protocol

from cmt_memory.documents import MemoryHit
from cmt_memory.errors import InvalidInputError
from cmt_memory.generation.engine import Engine
from cmt_memory.generation.prefixes import PrefixCache
from cmt_memory.generation.prompts import Prompt, Template, chat_prompt, question_prompt
from cmt_memory.generation.request import Completion, Row, checked_settings
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.model.prompt import encode

PREFIX_CACHE_BYTES = 256 << 20

MemoryLike = Memory | MemoryHit | str


class MemorySource(Protocol):
    """Where a generator finds memories by passage id, such as a store."""

    def memory_keys(self, passages: Sequence[str]) -> list[str]:
        """A content digest for each passage, without loading it."""

    def load_memories(self, passages: Sequence[str]) -> list[Memory]:
        """The memories themselves."""


class CMTGenerator:
    """Answers, streams and chats with the frozen LM of a `CMTModel`.

    Memories are given as `Memory` objects, or as hits or passage ids where the generator has a `source` to load
    them from. The most relevant comes first; what does not fit into the LM's positions is left out from the end
    and counted in `usage.left_out`.

    Args:
        model: LM, aggregator and aligner.
        source: where hits and ids are loaded from, such as a `CMTMemoryStore`.
        prefix_cache_bytes: limit of the LRU of assembled prefixes; 0 switches it off.

    Examples:
        >>> from cmt_memory import CMTGenerator, CMTModel
        >>> model = CMTModel.from_llm("cmt-tiny", ratio=1)
        >>> memories = model.compress(["The code of the blue locker is 4471."])
        >>> generator = CMTGenerator(model)
        >>> generator.generate("What is the code of the blue locker?", memories).usage.memory_slots > 0
        True
    """

    def __init__(
        self,
        model: CMTModel,
        *,
        source: MemorySource | None = None,
        prefix_cache_bytes: int = PREFIX_CACHE_BYTES,
    ) -> None:
        self.model = model
        self.lm = model.lm
        self.source = source
        self.prefixes = PrefixCache(prefix_cache_bytes)
        self._engine = Engine(model, self.prefixes)

    # -- what a user calls -------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        memories: Sequence[MemoryLike] = (),
        *,
        texts: Sequence[str] | None = None,
        template: Template = True,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
        num_beams: int = 1,
    ) -> Completion:
        """Answer one question.

        Args:
            prompt: the question.
            memories: memories to inject, most relevant first.
            texts: documents to put into the prompt as text instead (not both).
            template: put the question into the LM's prompt format; False continues the words as they are, in which
                control tokens are nothing but letters; `"applied"` takes them as a prompt in the LM's format already.
            max_new_tokens: tokens to generate at most.
            temperature: 0 takes the most likely token.
            top_p: sample from the smallest set of tokens with this much probability.
            seed: makes sampling repeatable, whatever else runs beside it.
            stop: strings that end the answer and are not part of it.
            alpha: contrast with the LM without memory; see `MemoryContrast`.
            num_beams: beams of a beam search.

        Raises:
            InvalidInputError: a setting is out of range, or the question is longer than the LM's context.

        Examples:
            >>> from cmt_memory import CMTGenerator, CMTModel
            >>> generator = CMTGenerator(CMTModel.from_llm("cmt-tiny", ratio=1))
            >>> document = "The code of the blue locker is 4471."
            >>> question = "What is the code of the blue locker?"
            >>> [memory] = generator.model.compress([document])
            >>> from_memory = generator.generate(question, [memory])
            >>> from_memory.text == generator.generate(question, texts=[document]).text  # exact at ratio 1
            True
        """
        given = checked_settings(max_new_tokens, temperature, top_p, seed, stop, alpha, num_beams)
        row = self._row(question_prompt(self.lm, prompt, given.stop, template=template), memories, texts)
        return self._engine.run([row], given)[0]

    def batch(
        self,
        prompts: Sequence[str],
        memories: Sequence[Sequence[MemoryLike]] | None = None,
        *,
        texts: Sequence[Sequence[str]] | None = None,
        template: Template = True,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> list[Completion]:
        """Answer several questions in one batch, each with memories (or texts) of its own, of any length.

        Each answer is what `generate` gives for it alone, with the same seed. Arguments as there.

        Examples:
            >>> from cmt_memory import CMTGenerator, CMTModel
            >>> generator = CMTGenerator(CMTModel.from_llm("cmt-tiny", ratio=1))
            >>> blue, shop = generator.model.compress(["The blue locker's code is 4471.", "The shop opens at 9:30."])
            >>> done = generator.batch(["What is the code?", "When does the shop open?"], [[blue], [shop, blue]])
            >>> [completion.memories for completion in done]
            [1, 2]
        """
        given = checked_settings(max_new_tokens, temperature, top_p, seed, stop, alpha, 1)
        if isinstance(prompts, str):
            raise InvalidInputError("batch takes a list of prompts; for one, use generate.")
        for name, lists in (("memories", memories), ("texts", texts)):
            if lists is not None and len(lists) != len(prompts):
                raise InvalidInputError(f"{len(prompts)} prompts but {name} for {len(lists)}; give one list a prompt.")
        rows = [
            self._row(
                question_prompt(self.lm, prompt, given.stop, template=template),
                () if memories is None else memories[i],
                None if texts is None else texts[i],
            )
            for i, prompt in enumerate(prompts)
        ]
        return self._engine.batch(rows, given)

    def chat(
        self,
        messages: Sequence[dict[str, Any]] | str,
        memories: Sequence[MemoryLike] = (),
        *,
        texts: Sequence[str] | None = None,
        tools: list[Any] | None = None,
        lead: str = "",
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> Completion:
        """Take the LM's next turn in a conversation, by the tokenizer's chat template.

        Args:
            messages: `[{"role": "user", "content": "…"}, …]`, or one user message as a string.
            memories: stand before the first user message, where text would stand.
            tools: tool descriptions for the template.
            lead: what the turn begins with, such as the opening of a tool call; not part of the text.
            texts: see `generate`, as for all other arguments.
            max_new_tokens: see `generate`.
            temperature: see `generate`.
            top_p: see `generate`.
            seed: see `generate`.
            stop: see `generate`.
            alpha: see `generate`.

        Examples:
            >>> from cmt_memory import CMTGenerator, CMTModel
            >>> generator = CMTGenerator(CMTModel.from_llm("cmt-tiny", ratio=1))
            >>> memories = generator.model.compress(["The code of the blue locker is 4471."])
            >>> turns = [{"role": "user", "content": "What is the code of the blue locker?"}]
            >>> generator.chat(turns, memories, max_new_tokens=8).memories
            1
        """
        given = checked_settings(max_new_tokens, temperature, top_p, seed, stop, alpha, 1)
        row = self._row(self._chat_prompt(messages, given.stop, tools, lead), memories, texts)
        return self._engine.run([row], given)[0]

    def stream(
        self,
        prompt: str | Sequence[dict[str, Any]],
        memories: Sequence[MemoryLike] = (),
        *,
        texts: Sequence[str] | None = None,
        template: Template = True,
        tools: list[Any] | None = None,
        lead: str = "",
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> Generator[str, None, Completion]:
        """Yield an answer piece by piece; the pieces joined are `generate(...).text` (or `chat`'s, for messages).

        Tools and a lead are for messages; see `chat`.

        Bad input raises here, at once. An error during generation is raised to whoever iterates. Closing the
        iterator stops the LM after the token it is at. The generator's return value is the `Completion`.

        Examples:
            >>> from cmt_memory import CMTGenerator, CMTModel
            >>> generator = CMTGenerator(CMTModel.from_llm("cmt-tiny", ratio=1))
            >>> pieces = generator.stream("Who keeps the blue locker?", max_new_tokens=8)
            >>> "".join(pieces) == generator.generate("Who keeps the blue locker?", max_new_tokens=8).text
            True
        """
        given = checked_settings(max_new_tokens, temperature, top_p, seed, stop, alpha, 1)
        if isinstance(prompt, str) and tools is None and not lead:
            asked = question_prompt(self.lm, prompt, given.stop, template=template)
        else:
            asked = self._chat_prompt(prompt, given.stop, tools, lead)
        return self._engine.stream(self._row(asked, memories, texts), given)

    # -- requests ----------------------------------------------------------------------------------------------

    def _chat_prompt(
        self,
        messages: Sequence[dict[str, Any]] | str,
        stop: Sequence[str] | str | None,
        tools: list[Any] | None,
        lead: str,
    ) -> Prompt:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        prompt = chat_prompt(self.lm, messages, stop, self.model.config.chat_template_kwargs, tools)
        return replace(prompt, question_ids=(*prompt.question_ids, *encode(self.lm.tokenizer, lead)))

    def _row(self, prompt: Prompt, memories: Sequence[MemoryLike], texts: Sequence[str] | None) -> Row:
        given = [memories] if isinstance(memories, Memory | MemoryHit) else list(memories or ())
        if texts is not None:
            if given:
                raise InvalidInputError("Pass memories or texts, not both.")
            if isinstance(texts, str) or not all(isinstance(text, str) for text in texts):
                raise InvalidInputError("texts must be a list of strings.")
            return Row(prompt, texts=tuple(texts))
        own = [memory for memory in given if isinstance(memory, Memory)]
        if len(own) == len(given):
            return Row(prompt, tuple(memory.key for memory in own), lambda start, stop: own[start:stop])
        passages = [memory.passage if isinstance(memory, MemoryHit) else memory for memory in given]
        if isinstance(memories, str) or not all(isinstance(passage, str) for passage in passages):
            raise InvalidInputError("memories are Memory objects, or all of them hits or passage ids of a store.")
        source, names = self.source, [str(passage) for passage in passages]
        if source is None:
            raise InvalidInputError(
                "Hits and ids are loaded from a store: use CMTGenerator(model, source=store), or store.ask."
            )
        return Row(
            prompt,
            tuple(source.memory_keys(names)),
            lambda start, stop: source.load_memories(names[start:stop]),
        )
