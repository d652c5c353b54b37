"""Running the LM: prompts and prefixes to what `generate` takes, for a batch or a stream."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, StoppingCriteriaList

from cmt_memory.documents import Usage
from cmt_memory.errors import InvalidInputError
from cmt_memory.generation.certainty import Certainty
from cmt_memory.generation.decoding import TextStream, Watch
from cmt_memory.generation.prefixes import PrefixCache
from cmt_memory.generation.request import Completion, Row, Settings
from cmt_memory.generation.sampling import MemoryContrast, processors
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.model.prefix import KVPrefix

_LOADED_AT_ONCE = 8


@dataclass(slots=True)
class Job:
    """What one call of `generate` is given."""

    input_ids: Tensor
    mask: Tensor
    used: list[int]
    positions: Tensor | None = None
    prefix: KVPrefix | None = None
    contrast: MemoryContrast | None = None


class Engine:
    """Answers rows with one LM.

    Args:
        model: LM, aggregator and aligner.
        prefixes: where assembled prefixes are kept.
    """

    def __init__(self, model: CMTModel, prefixes: PrefixCache) -> None:
        self.model = model
        self.lm = model.lm
        self.prefixes = prefixes

    def batch(self, rows: Sequence[Row], settings: Settings) -> list[Completion]:
        """As `run`, in several batches where padding would change what a layer sees.

        A sliding window counts positions of the cache, so nothing may stand between a prefix and its question; where
        a layer looks back in another way (chunks), nothing may stand in front of a row either.
        """
        if self.lm.attention_span == "full":
            return self.run(rows, settings) if rows else []
        groups: dict[int, list[int]] = {}
        for i, row in enumerate(rows):
            alike = len(row.prompt.question_ids) if self.lm.attention_span == "sliding" else i
            groups.setdefault(alike, []).append(i)
        completions: dict[int, Completion] = {}
        for members in groups.values():
            completions.update(zip(members, self.run([rows[i] for i in members], settings), strict=True))
        return [completions[i] for i in range(len(rows))]

    def run(self, rows: Sequence[Row], settings: Settings) -> list[Completion]:
        """Generate for a batch of rows and collect what each one wrote."""
        started = time.perf_counter()
        job = self._prepare(rows, settings)
        prepared = time.perf_counter() - started
        streams = [self._text_stream(row) for row in rows]
        watch = Watch(streams, job.input_ids.shape[1], started)
        certainty = Certainty(job.input_ids.shape[1]) if settings.num_beams == 1 else None
        output = self._generate(job, settings, watch, certainty)
        if certainty is None:
            for stream, ids in zip(streams, output[:, job.input_ids.shape[1] :].tolist(), strict=True):
                stream.push(ids)
        for stream in streams:
            stream.finish()
        completions = self._completions(rows, job, streams, watch, started, prepared)
        if certainty is not None:
            _tell(completions, certainty, output, streams)
        return completions

    def stream(self, row: Row, settings: Settings) -> Generator[str, None, Completion]:
        """Generate in a worker thread and hand its pieces, or its error, to the iterating thread.

        What can be wrong with the request raises here, not at the first piece.
        """
        started = time.perf_counter()
        job = self._prepare([row], settings)
        return self._pieces(row, settings, job, started, time.perf_counter() - started)

    def _pieces(
        self, row: Row, settings: Settings, job: Job, started: float, prepared: float
    ) -> Generator[str, None, Completion]:
        pieces: queue.SimpleQueue[str | BaseException | None] = queue.SimpleQueue()
        stream = self._text_stream(row)
        watch = Watch([stream], job.input_ids.shape[1], started, lambda _, piece: pieces.put(piece))
        certainty, outputs = Certainty(job.input_ids.shape[1]), list[Tensor]()

        def work() -> None:
            try:
                outputs.append(self._generate(job, settings, watch, certainty))
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
        completions = self._completions([row], job, [stream], watch, started, prepared)
        _tell(completions, certainty, outputs[0], [stream])
        return completions[0]

    def _text_stream(self, row: Row) -> TextStream:
        return TextStream(self.lm.tokenizer, row.prompt.stop, self._eos_ids())

    def _eos_ids(self) -> list[int]:
        eos = self.lm.model.generation_config.eos_token_id
        if eos is None:
            eos = self.lm.tokenizer.eos_token_id
        return [] if eos is None else [eos] if isinstance(eos, int) else list(eos)

    def _prepare(self, rows: Sequence[Row], settings: Settings) -> Job:
        """Everything the LM's `generate` is given: ids, masks, positions, and the memories as a cache."""
        if any(row.texts is not None for row in rows):
            return self._prepare_text(rows, settings)
        for row in rows:
            self._check_room(row, settings)
        found = [self._prefix(row, len(row.prompt.question_ids) + settings.max_new_tokens) for row in rows]
        prefix = KVPrefix.stack([prefix for prefix, _ in found])
        ids, question_mask = self._left_pad([list(row.prompt.question_ids) for row in rows])
        positions = prefix.starts[:, None] + (question_mask.cumsum(1) - 1).clamp(min=0)
        job = Job(
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

    def _prepare_text(self, rows: Sequence[Row], settings: Settings) -> Job:
        if settings.alpha:
            raise InvalidInputError("alpha contrasts an injected memory with none; it does not go with texts.")
        prompts = []
        for row in rows:
            self._check_room(row, settings)
            prompts.append(self._text_prompt(row, len(row.prompt.question_ids) + settings.max_new_tokens))
        ids, mask = self._left_pad([prompt for prompt, _ in prompts])
        return Job(input_ids=ids, mask=mask, used=[used for _, used in prompts])

    def _check_room(self, row: Row, settings: Settings) -> None:
        """Refuse a question that leaves no room for its answer, even without any document."""
        asked = len(row.prompt.head_ids) + len(row.prompt.question_ids)
        limit = self.lm.max_positions
        if limit is None or asked + settings.max_new_tokens <= limit:
            return
        if asked >= limit:
            raise InvalidInputError(f"The question has {asked} tokens, but the LM has {limit} positions; shorten it.")
        raise InvalidInputError(
            f"The question takes {asked} of the LM's {limit} positions, so max_new_tokens can be {limit - asked} at "
            f"most, not {settings.max_new_tokens}."
        )

    def _left_pad(self, sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        longest = max(map(len, sequences))
        ids = torch.full((len(sequences), longest), sequences[0][-1], device=self.lm.device)
        mask = torch.zeros_like(ids)
        for row, sequence in enumerate(sequences):
            ids[row, longest - len(sequence) :] = torch.tensor(sequence, device=self.lm.device)
            mask[row, longest - len(sequence) :] = 1
        return ids, mask

    def _generate(self, job: Job, settings: Settings, watch: Watch, certainty: Certainty | None) -> Tensor:
        """`transformers`' own generate, greedy or by beams, over processed logits.

        Defaults of the LM's authors that look at the prompt's text (repetition penalties) are off, because the
        documents are not in it.
        """
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
        chosen = processors(
            settings.temperature,
            settings.top_p,
            [settings.seed] * job.input_ids.shape[0],
            self.lm.device,
            [part for part in (certainty, job.contrast) if part is not None],
        )
        with torch.no_grad():
            output: Tensor = self.lm.model.generate(
                **inputs,
                generation_config=config,
                logits_processor=chosen,
                stopping_criteria=StoppingCriteriaList([watch] if settings.num_beams == 1 else []),
            )
        return output

    def _completions(
        self,
        rows: Sequence[Row],
        job: Job,
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
            prompt_tokens = int(job.mask[i, -job.input_ids.shape[1] :].sum())
            usage = Usage(
                prompt_tokens=prompt_tokens,
                memory_slots=0 if job.prefix is None else job.prefix.n_slots[i],
                completion_tokens=stream.n_tokens,
                contrast_tokens=0 if job.contrast is None else prompt_tokens + stream.n_steps - 1,
                left_out=given - job.used[i],
                packed=job.prefix is not None and job.prefix.packed,
            )
            completions.append(
                Completion(stream.text, usage, dict(timings), "stop" if stream.complete else "length", job.used[i])
            )
        return completions

    def _prefix(self, row: Row, reserve: int) -> tuple[KVPrefix, int]:
        """The row's prefix and how many of its memories are in it: as many as fit, from the most relevant on."""
        asked = row.prompt.question if self.model.aggregator.needs_question else ""
        key = (row.keys, row.prompt.head_ids, asked)
        cached = self.prefixes.get(key) if row.keys else None
        if cached is not None and self._has_room(cached, reserve):
            return cached, len(row.keys)
        memories = self._memories_that_fit(row, reserve)
        prefix = self.model.prefix(
            [memories],
            head_ids=row.prompt.head_ids,
            reserve=reserve,
            compress_question=lambda _: self.model.compress([asked])[0],
        )
        if memories and len(memories) == len(row.keys) and not prefix.packed:
            self.prefixes.put(key, prefix)
        return prefix, len(memories)

    def _memories_that_fit(self, row: Row, reserve: int) -> list[Memory]:
        """Load memories a few at a time, until one would not fit even when all are moved together."""
        limit, memories = self.lm.max_positions, list[Memory]()
        for start in range(0, len(row.keys), _LOADED_AT_ONCE):
            for memory in row.load(start, start + _LOADED_AT_ONCE):
                memories.append(memory)
                taken = len(row.prompt.head_ids) + self.model.extent(memories) + reserve
                if limit is not None and taken > limit:
                    return memories[:-1]
        return memories

    def _has_room(self, prefix: KVPrefix, reserve: int) -> bool:
        limit = self.lm.max_positions
        return limit is None or int(prefix.starts.max()) + reserve <= limit

    def _text_prompt(self, row: Row, reserve: int) -> tuple[list[int], int]:
        """The row's prompt with as many of its texts as fit, from the most relevant on, and how many those are."""
        room = (self.lm.max_positions or 0) - len(row.prompt.head_ids) - reserve
        ids: list[int] = []
        used = 0
        for text in row.texts or ():
            more = self.lm.encode_document(text)
            if self.lm.max_positions is not None and len(ids) + len(more) > room:
                break
            ids += more
            used += 1
        return [*row.prompt.head_ids, *ids, *row.prompt.question_ids], used


def _tell(
    completions: Sequence[Completion], certainty: Certainty, output: Tensor, streams: Sequence[TextStream]
) -> None:
    """Say in each completion how sure the LM was of it."""
    found = certainty.finish(output, [stream.n_steps for stream in streams])
    for completion, signals in zip(completions, found, strict=True):
        completion.signals = signals
