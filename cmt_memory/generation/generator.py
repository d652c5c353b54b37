"""CMTGenerator: the LM wrapper that answers with memories in front of the question instead of text in the prompt."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from cmt_memory.documents import MemoryHit, Usage
from cmt_memory.errors import InvalidInputError
from cmt_memory.generation.decoding import TextStream, Watch
from cmt_memory.generation.prefixes import PrefixCache
from cmt_memory.generation.prompts import Prompt, chat_prompt, question_prompt
from cmt_memory.generation.sampling import MemoryContrast, processors
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.model.prefix import KVPrefix, PrefixTooLongError

PREFIX_CACHE_BYTES = 256 << 20

MemoryLike = Memory | MemoryHit | str


class MemorySource(Protocol):
    """Where a generator finds memories by passage id, such as a store."""

    def memory_keys(self, passages: Sequence[str]) -> list[str]:
        """A content digest for each passage, without loading it."""

    def load_memories(self, passages: Sequence[str]) -> list[Memory]:
        """The memories themselves."""


@dataclass(slots=True)
class Completion:
    """What an LM wrote.

    Attributes:
        text: the answer alone, never the prompt.
        usage: token and slot counts.
        timings: seconds by stage: `prefix`, `first_token` (since the call), `total`.
        finish_reason: `"stop"` (end of sequence or a stop string) or `"length"`.
        memories: how many of the given memories were used, counted from the most relevant.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    timings: dict[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    memories: int = 0


@dataclass(frozen=True, slots=True)
class Settings:
    """Decoding settings; see `CMTGenerator.generate`."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] | str | None = None
    alpha: float = 0.0
    num_beams: int = 1

    def __post_init__(self) -> None:
        """Refuse what no LM could do."""
        _check(_is_int(self.max_new_tokens) and self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "≥ 1")
        _check(_is_number(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "≥ 0")
        _check(_is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _check(self.seed is None or _is_int(self.seed), "seed", self.seed, "a whole number or None")
        _check(_is_number(self.alpha), "alpha", self.alpha, "a finite number")
        _check(_is_int(self.num_beams) and self.num_beams >= 1, "num_beams", self.num_beams, "≥ 1")
        if self.num_beams > 1 and (self.temperature > 0 or self.alpha):
            raise InvalidInputError("Beam search goes with temperature=0 and alpha=0.")


@dataclass(frozen=True, slots=True)
class _Row:
    """One question on its way through the LM: its prompt, its memories' keys, and how to load them."""

    prompt: Prompt
    keys: tuple[str, ...] = ()
    load: Callable[[], list[Memory]] = list
    texts: tuple[str, ...] | None = None


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
        >>> CMTGenerator(model).generate("What is the code of the blue locker?", memories).usage.memory_slots > 0
        True
    """

    def __init__(
        self, model: CMTModel, *, source: MemorySource | None = None, prefix_cache_bytes: int = PREFIX_CACHE_BYTES
    ) -> None:
        self.model = model
        self.lm = model.lm
        self.source = source
        self.prefixes = PrefixCache(prefix_cache_bytes)

    # -- what a user calls -------------------------------------------------------------------------------------

    def generate(
        self,
        prompt: str,
        memories: Sequence[MemoryLike] = (),
        *,
        texts: Sequence[str] | None = None,
        template: bool = True,
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
            template: put the question into the LM's prompt format; False continues the words as they are.
            max_new_tokens: tokens to generate at most.
            temperature: 0 takes the most likely token.
            top_p: sample from the smallest set of tokens with this much probability.
            seed: makes sampling repeatable, whatever else runs beside it.
            stop: strings that end the answer and are not part of it.
            alpha: contrast with the LM without memory; see `MemoryContrast`.
            num_beams: beams of a beam search.

        Raises:
            InvalidInputError: a setting is out of range, or the question is longer than the LM's context.
        """
        settings = _settings(max_new_tokens, temperature, top_p, seed, stop, alpha, num_beams)
        row = self._row(question_prompt(self.lm, prompt, settings.stop, template=template), memories, texts)
        return self._run([row], settings)[0]

    def batch(
        self,
        prompts: Sequence[str],
        memories: Sequence[Sequence[MemoryLike]] | None = None,
        *,
        texts: Sequence[Sequence[str]] | None = None,
        template: bool = True,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> list[Completion]:
        """Answer several questions in one batch, each with memories (or texts) of its own, of any length.

        Each answer is what `generate` gives for it alone, with the same seed. Arguments as there.
        """
        settings = _settings(max_new_tokens, temperature, top_p, seed, stop, alpha, 1)
        for name, given in (("memories", memories), ("texts", texts)):
            if given is not None and len(given) != len(prompts):
                raise InvalidInputError(f"{len(prompts)} prompts but {name} for {len(given)}; give one list a prompt.")
        rows = [
            self._row(
                question_prompt(self.lm, prompt, settings.stop, template=template),
                () if memories is None else memories[i],
                None if texts is None else texts[i],
            )
            for i, prompt in enumerate(prompts)
        ]
        return self._run_grouped(rows, settings)

    def chat(
        self,
        messages: Sequence[dict[str, Any]] | str,
        memories: Sequence[MemoryLike] = (),
        *,
        texts: Sequence[str] | None = None,
        tools: list[Any] | None = None,
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
            texts: see `generate`, as for all other arguments.
            max_new_tokens: see `generate`.
            temperature: see `generate`.
            top_p: see `generate`.
            seed: see `generate`.
            stop: see `generate`.
            alpha: see `generate`.
        """
        settings = _settings(max_new_tokens, temperature, top_p, seed, stop, alpha, 1)
        row = self._row(self._chat_prompt(messages, settings.stop, tools), memories, texts)
        return self._run([row], settings)[0]

    def stream(
        self,
        prompt: str | Sequence[dict[str, Any]],
        memories: Sequence[MemoryLike] = (),
        *,
        texts: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
    ) -> Generator[str, None, Completion]:
        """Yield an answer piece by piece; the pieces joined are `generate(...).text` (or `chat`'s, for messages).

        Bad input raises here, at once. An error during generation is raised to whoever iterates. Closing the
        iterator stops the LM after the token it is at. The generator's return value is the `Completion`.
        """
        settings = _settings(max_new_tokens, temperature, top_p, seed, stop, alpha, 1)
        if isinstance(prompt, str):
            asked = question_prompt(self.lm, prompt, settings.stop)
        else:
            asked = self._chat_prompt(prompt, settings.stop, None)
        return self._stream(self._row(asked, memories, texts), settings)

    # -- requests ----------------------------------------------------------------------------------------------

    def _chat_prompt(
        self, messages: Sequence[dict[str, Any]] | str, stop: Sequence[str] | str | None, tools: list[Any] | None
    ) -> Prompt:
        if isinstance(messages, str):
            messages = [{"role": "user", "content": messages}]
        return chat_prompt(self.lm, messages, stop, self.model.config.chat_template_kwargs, tools)

    def _row(self, prompt: Prompt, memories: Sequence[MemoryLike], texts: Sequence[str] | None) -> _Row:
        if texts is not None:
            if len(memories):
                raise InvalidInputError("Pass memories or texts, not both.")
            return _Row(prompt, texts=tuple(texts))
        if all(isinstance(memory, Memory) for memory in memories):
            given = [memory for memory in memories if isinstance(memory, Memory)]
            return _Row(prompt, tuple(memory.key for memory in given), lambda: given)
        passages = [memory.passage if isinstance(memory, MemoryHit) else memory for memory in memories]
        if not all(isinstance(passage, str) for passage in passages):
            raise InvalidInputError("memories are Memory objects, or all of them hits or passage ids of a store.")
        source, names = self.source, [str(passage) for passage in passages]
        if source is None:
            raise InvalidInputError(
                "Hits and ids are loaded from a store: use CMTGenerator(model, source=store), or store.ask."
            )
        return _Row(prompt, tuple(source.memory_keys(names)), lambda: source.load_memories(names))

    def _prefix(self, row: _Row, reserve: int) -> tuple[KVPrefix, int]:
        """The row's prefix and how many of its memories are in it."""
        key = (row.keys, row.prompt.head_ids)
        cached = self.prefixes.get(key) if row.keys else None
        if cached is not None and self._has_room(cached, reserve):
            return cached, len(row.keys)
        memories = row.load() if row.keys else []
        for used in range(len(memories), -1, -1):
            try:
                prefix = self.model.prefix([memories[:used]], head_ids=row.prompt.head_ids, reserve=reserve)
            except PrefixTooLongError:
                if not used:
                    raise
                continue
            break
        if memories and used == len(memories) and not prefix.packed:
            self.prefixes.put(key, prefix)
        return prefix, used

    def _has_room(self, prefix: KVPrefix, reserve: int) -> bool:
        limit = self.lm.max_positions
        return limit is None or int(prefix.starts.max()) + reserve <= limit

    def _fitting_texts(self, row: _Row, reserve: int) -> tuple[str, ...]:
        """As many of the row's texts as fit into the LM's positions, from the most relevant on."""
        texts = row.texts or ()
        limit = self.lm.max_positions
        while texts and limit is not None:
            ids = row.prompt.with_documents(self.lm, texts)
            if len(ids) - len(row.prompt.question_ids) + reserve <= limit:
                break
            texts = texts[:-1]
        return texts

    # -- the LM ------------------------------------------------------------------------------------------------

    def _run_grouped(self, rows: Sequence[_Row], settings: Settings) -> list[Completion]:
        """One batch, or one for each question length where a sliding window would see padding."""
        if self.lm.sliding_window is None:
            return self._run(rows, settings) if rows else []
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            groups.setdefault(len(row.prompt.question_ids), []).append(i)
        completions: dict[int, Completion] = {}
        for members in groups.values():
            completions.update(zip(members, self._run([rows[i] for i in members], settings), strict=True))
        return [completions[i] for i in range(len(rows))]

    def _run(self, rows: Sequence[_Row], settings: Settings) -> list[Completion]:
        """Generate for a batch of rows and collect what each one wrote."""
        started = time.perf_counter()
        job = self._prepare(rows, settings)
        prepared = time.perf_counter() - started
        streams = [self._text_stream(row) for row in rows]
        watch = Watch(streams, job.input_ids.shape[1], started)
        output = self._generate(job, settings, watch)
        if settings.num_beams > 1:
            for stream, ids in zip(streams, output[:, job.input_ids.shape[1] :].tolist(), strict=True):
                stream.push(ids)
        for stream in streams:
            stream.finish()
        return self._completions(rows, job, streams, watch, started, prepared)

    def _stream(self, row: _Row, settings: Settings) -> Generator[str, None, Completion]:
        """Generate in a worker thread and hand its pieces, or its error, to the iterating thread."""
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        started = time.perf_counter()
        job = self._prepare([row], settings)
        prepared = time.perf_counter() - started
        stream = self._text_stream(row)
        watch = Watch([stream], job.input_ids.shape[1], started, lambda _, piece: pieces.put(piece))

        def work() -> None:
            try:
                self._generate(job, settings, watch)
                pieces.put(None)
            except BaseException as error:
                pieces.put(error)

        worker = threading.Thread(target=work, name="cmt-memory-stream", daemon=True)
        worker.start()
        try:
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece
            rest = stream.finish()
            if rest:
                yield rest
        finally:
            watch.cancelled = True
            worker.join()
        return self._completions([row], job, [stream], watch, started, prepared)[0]

    def _text_stream(self, row: _Row) -> TextStream:
        return TextStream(self.lm.tokenizer, row.prompt.stop, self._eos_ids())

    def _eos_ids(self) -> list[int]:
        eos = self.lm.model.generation_config.eos_token_id
        if eos is None:
            eos = self.lm.tokenizer.eos_token_id
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def _prepare(self, rows: Sequence[_Row], settings: Settings) -> _Job:
        """Everything the LM's `generate` is given: ids, masks, positions, and the memories as a cache."""
        if any(row.texts is not None for row in rows):
            return self._prepare_text(rows, settings)
        reserve = max(len(row.prompt.question_ids) for row in rows) + settings.max_new_tokens
        self.lm.check_fits(len(rows[0].prompt.head_ids) + reserve, "Question and answer")
        found = [self._prefix(row, len(row.prompt.question_ids) + settings.max_new_tokens) for row in rows]
        prefix = KVPrefix.stack([prefix for prefix, _ in found])
        ids, question_mask = self._left_pad([list(row.prompt.question_ids) for row in rows])
        positions = prefix.starts[:, None] + (question_mask.cumsum(1) - 1).clamp(min=0)
        job = _Job(
            input_ids=ids,
            mask=torch.cat([prefix.mask, question_mask], dim=1),
            positions=positions if self.lm.takes_positions else None,
            prefix=prefix,
            used=[used for _, used in found],
        )
        if settings.alpha:
            head = KVPrefix.stack([self.model.prefix([[]], head_ids=row.prompt.head_ids) for row in rows])
            job.contrast = MemoryContrast(
                self.lm,
                settings.alpha,
                head.to_cache(self.lm),
                torch.cat([head.mask, question_mask], dim=1),
                head.starts[:, None] + (question_mask.cumsum(1) - 1).clamp(min=0),
            )
        return job

    def _prepare_text(self, rows: Sequence[_Row], settings: Settings) -> _Job:
        if settings.alpha:
            raise InvalidInputError("alpha contrasts an injected memory with none; it does not go with texts.")
        fitting = []
        for row in rows:
            reserve = len(row.prompt.question_ids) + settings.max_new_tokens
            self.lm.check_fits(len(row.prompt.head_ids) + reserve, "Question and answer")
            fitting.append(self._fitting_texts(row, reserve))
        prompts = [row.prompt.with_documents(self.lm, texts) for row, texts in zip(rows, fitting, strict=True)]
        ids, mask = self._left_pad(prompts)
        return _Job(input_ids=ids, mask=mask, used=[len(texts) for texts in fitting])

    def _left_pad(self, sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), sequences[0][-1], device=self.lm.device)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, longest - len(sequence) :] = torch.tensor(sequence, device=self.lm.device)
            mask[row, longest - len(sequence) :] = 1
        return ids, mask

    def _generate(self, job: _Job, settings: Settings, watch: Watch) -> Tensor:
        """`transformers`' own generate, greedy or beam over processed logits; defaults of the LM's authors that
        look at the prompt's text (repetition penalties) are off, because the documents are not in it."""
        tokenizer = self.lm.tokenizer
        eos = self._eos_ids()
        pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else (eos[0] if eos else 0)
        config = GenerationConfig(
            max_new_tokens=settings.max_new_tokens,
            do_sample=False,
            temperature=1.0,
            top_p=1.0,
            top_k=50,
            num_beams=settings.num_beams,
            repetition_penalty=1.0,
            no_repeat_ngram_size=0,
            eos_token_id=eos or None,
            pad_token_id=pad,
        )
        inputs: dict[str, Any] = {"input_ids": job.input_ids, "attention_mask": job.mask}
        if job.positions is not None:
            inputs["position_ids"] = job.positions
        if job.prefix is not None:
            inputs["past_key_values"] = job.prefix.to_cache(self.lm, settings.num_beams)
        rows = job.input_ids.shape[0]
        with torch.no_grad():
            output: Tensor = self.lm.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=processors(
                    settings.temperature, settings.top_p, [settings.seed] * rows, self.lm.device, job.contrast
                ),
                stopping_criteria=StoppingCriteriaList([watch] if settings.num_beams == 1 else []),
            )
        return output

    def _completions(
        self,
        rows: Sequence[_Row],
        job: _Job,
        streams: Sequence[TextStream],
        watch: Watch,
        started: float,
        prepared: float,
    ) -> list[Completion]:
        timings = {"prefix": prepared, "total": time.perf_counter() - started}
        if watch.first_token is not None:
            timings["first_token"] = watch.first_token
        completions = []
        for i, (row, stream) in enumerate(zip(rows, streams, strict=True)):
            given = len(row.keys) if row.texts is None else len(row.texts)
            usage = Usage(
                prompt_tokens=int(job.mask[i, -job.input_ids.shape[1] :].sum()),
                memory_slots=0 if job.prefix is None else job.prefix.n_slots[i],
                completion_tokens=stream.n_tokens,
                contrast_tokens=0 if job.contrast is None else job.contrast.tokens // len(rows),
                left_out=given - job.used[i],
                packed=job.prefix is not None and job.prefix.packed,
            )
            completions.append(
                Completion(
                    stream.text, usage, dict(timings), "stop" if stream.complete else "length", job.used[i]
                )
            )
        return completions


@dataclass(slots=True)
class _Job:
    """What one call of `generate` is given."""

    input_ids: Tensor
    mask: Tensor
    used: list[int]
    positions: Tensor | None = None
    prefix: KVPrefix | None = None
    contrast: MemoryContrast | None = None


def _settings(
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: Sequence[str] | str | None,
    alpha: float,
    num_beams: int,
) -> Settings:
    stops = stop if stop is None or isinstance(stop, str) else tuple(stop)
    return Settings(max_new_tokens, temperature, top_p, seed, stops, alpha, num_beams)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _check(fine: bool, name: str, value: object, expected: str) -> None:
    if not fine:
        raise InvalidInputError(f"{name} must be {expected}, not {value!r}.")
