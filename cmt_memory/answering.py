"""Questions to a store: what it finds for them, and what the LM answers from that."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, get_args

from cmt_memory.calibrating import LabelledQuestion, calibrate, checked_questions
from cmt_memory.confidence import Calibration, doubted, features, raw_confidence
from cmt_memory.contents import Contents
from cmt_memory.documents import Answer, MemoryHit, Mode, Question
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.generation.request import Completion, checked_settings
from cmt_memory.model.modeling import CMTModel
from cmt_memory.retrieval.selector import HybridSelector, check_k
from cmt_memory.upkeep import Upkeep

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

T = TypeVar("T")

MODES = get_args(Mode)
_CALIBRATION = "calibration"


class Answering(Upkeep, Contents):
    """The part of a `CMTMemoryStore` that searches and answers."""

    selector: HybridSelector

    def search(
        self,
        question: str | None,
        k: int = 4,
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        *,
        vector: ArrayLike | None = None,
        channels: Sequence[str] | Mapping[str, float] | None = None,
    ) -> list[MemoryHit]:
        """The passages most relevant to a question, best first.

        Args:
            question: any text; None where there is only a `vector`.
            k: how many at most.
            filter: a condition on metadata, such as `{"year": {"$gte": 2024}}`.
            min_score: leave out hits with a lower `score`.
            vector: the question's vector ``[d]`` in place of the one that the encoder makes of it.
            channels: how to search this time, by some of the store's channels; with a weight for each where one is
                to count for more than another.

        Raises:
            InvalidInputError: an empty question, `k` below 1, a filter that means nothing, a vector of another
                length than the store's, or a channel that the store does not have.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> ids = store.add_documents([{"text": "The shop opens at 9:30.", "metadata": {"year": 2024}}])
            >>> [hit] = store.search("When does the shop open?", filter={"year": {"$gte": 2024}})
            >>> hit.text, hit.span, hit.metadata
            ('The shop opens at 9:30.', (0, 23), {'year': 2024})
            >>> store.search("When does the shop open?", filter={"year": 2023})
            []
        """
        return self.selector.select(question, k, filter=filter, min_score=min_score, vector=vector, channels=channels)

    def ask(
        self,
        question: Question,
        *,
        k: int = 4,
        mode: Mode = "memory",
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        memory_ids: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
        tools: list[Any] | None = None,
        lead: str = "",
        fallback: float | None = None,
    ) -> Answer:
        """Answer a question from the store, or take the LM's next turn in a conversation.

        Args:
            question: the question, or messages; of these, the user's last words are searched for.
            k: passages to use at most.
            mode: `"memory"` injects memories, `"text"` puts the same passages into the prompt as text, `"none"` asks
                the LM alone.
            filter: see `search`.
            min_score: see `search`; with no hit left the LM answers alone and `grounded` is False.
            memory_ids: ids of documents or passages to use instead of searching.
            max_new_tokens: tokens to generate at most.
            temperature: 0 takes the most likely token.
            top_p: sample from the smallest set of tokens with this much probability.
            seed: makes sampling repeatable.
            stop: strings that end the answer.
            alpha: contrast with the LM without memory, in `mode="memory"`.
            tools: tool descriptions for the LM's chat template.
            lead: what the answer begins with, such as the opening of a tool call; not part of its text.
            fallback: with an answer from memories whose `confidence` is lower, read the same hits once as text and
                answer from that, unless the documents most likely hold no answer (`answerable` below 0.5); 0 to 1,
                and None never does.

        Raises:
            InvalidInputError: an argument is out of range, an id is unknown, the question is longer than the
                LM's context, or there is a `fallback` and no text to read.

        Returns:
            The answer with the hits it rests on, token and slot counts, and seconds by stage.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> ids = store.add_documents(["Mara's locker code is 4471."])
            >>> memory, text = (store.ask("What is Mara's locker code?", mode=mode) for mode in ("memory", "text"))
            >>> memory.usage.prompt_tokens < text.usage.prompt_tokens  # the document is not in the prompt
            True
            >>> store.ask("Who won in 1998?", min_score=0.9).grounded  # nothing found, the LM answers alone
            False
            >>> answer = store.ask("What is Mara's locker code?", fallback=1.0)  # no answer is as sure as that
            >>> answer.mode, answer.usage.passes
            ('text', 2)
        """
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "alpha": alpha,
        }
        started = time.perf_counter()
        hits = self._hits(question, k, mode, filter, min_score, memory_ids, fallback)
        searched = time.perf_counter() - started
        ask = partial(self._from_hits, _complete, question, settings, tools, lead)
        completion, hits = ask(mode, hits)
        answer = self._answer(completion, hits, mode, searched)
        if not doubted(answer.confidence, answer.answerable, fallback):
            return answer
        completion, hits = ask("text", hits)
        return _after(answer, self._answer(completion, hits, "text"))

    def stream(
        self,
        question: Question,
        *,
        k: int = 4,
        mode: Mode = "memory",
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
        memory_ids: Sequence[str] | None = None,
        max_new_tokens: int = 64,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        stop: Sequence[str] | str | None = None,
        alpha: float = 0.0,
        tools: list[Any] | None = None,
        lead: str = "",
        fallback: float | None = None,
    ) -> Generator[str, None, Answer]:
        """Yield the answer piece by piece; arguments as `ask`. The generator's return value is the `Answer`.

        With `fallback`, what is answered from memories is held back until its confidence is known; empty pieces come
        meanwhile, so that it can be stopped.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> ids = store.add_documents(["Mara's locker code is 4471."])
            >>> pieces = list(store.stream("What is Mara's locker code?"))
            >>> "".join(pieces) == store.ask("What is Mara's locker code?").text
            True
        """
        settings = {
            "max_new_tokens": max_new_tokens,
            "temperature": temperature,
            "top_p": top_p,
            "seed": seed,
            "stop": stop,
            "alpha": alpha,
        }
        started = time.perf_counter()
        hits = self._hits(question, k, mode, filter, min_score, memory_ids, fallback)
        searched = time.perf_counter() - started
        ask = partial(self._from_hits, _stream, question, settings, tools, lead)
        pieces, hits = ask(mode, hits)
        if fallback is None:
            return self._streamed(pieces, hits, mode, searched)
        return self._decided(pieces, hits, searched, fallback, ask)

    def calibrate(
        self,
        questions: Sequence[LabelledQuestion],
        *,
        k: int = 4,
        max_new_tokens: int = 64,
        budget: float = 0.2,
        show_progress: bool = False,
    ) -> Calibration:
        """Learn what `Answer.confidence` means here, from questions whose right answers are known; kept in the store.

        Each question is answered from memories and, where texts are kept, from text. Some hundreds are needed; with
        some that no document answers (`"answers": []`), `Answer.answerable` is learned too. Ask them as they will be
        asked: the same `k` and length. It holds for this model and encoder; `recompress` with another ends it.

        Args:
            questions: `{"question": "…", "answers": ["…", …]}`, every wording that counts as right; other keys, as
                in the files that `cmt-memory eval` reads, are passed over.
            k: see `ask`.
            max_new_tokens: see `ask`.
            budget: share of the questions that may be read again as text; `Calibration.fallback` keeps to it.
            show_progress: draw a progress bar.

        Returns:
            The calibration, with how good it is on questions that it was not fitted on.

        Raises:
            InvalidInputError: a question or argument cannot be used, the store is empty or read only, or too few
                answers are right or wrong to learn from; what was calibrated before stays.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> codes = {"Mara": "4471", "Tom": "9032", "Ada": "1815", "Nils": "2750", "Ines": "6318", "Olaf": "5024"}
            >>> ids = store.add_documents([f"{name}'s locker code is {code}." for name, code in codes.items()])
            >>> asked = [{"question": f"What is {name}'s locker code?", "answers": [codes[name]]} for name in codes]
            >>> nowhere = [{"question": f"When did {name} move to Lisbon?", "answers": []} for name in codes]
            >>> calibration = store.calibrate(asked + nowhere, k=1, budget=0.25)
            >>> calibration.memory.questions, 0 < calibration.fallback < 1
            (12, True)
        """
        checked = checked_questions(questions)
        check_k(k)
        if self.bank.read_only or not len(self):
            reason = "is open read_only, so it cannot keep" if self.bank.read_only else "has no documents for"
            raise InvalidInputError(f"The store at {self.bank.path} {reason} a calibration.")
        if isinstance(budget, bool) or not isinstance(budget, int | float) or not 0 <= budget <= 1:
            raise InvalidInputError(f"budget is {budget!r}; expected a share of the questions, from 0 to 1.")
        found = calibrate(
            self.generator,
            partial(self.search, k=k),
            checked,
            encoder=self._encoder_id,
            keep_text=self.bank.keep_text,
            settings={"max_new_tokens": max_new_tokens},
            budget=float(budget),
            show_progress=show_progress,
        )
        self.bank.set_meta(_CALIBRATION, found.model_dump())
        self._calibrated = (self.model, found)
        return found

    @property
    def calibration(self) -> Calibration | None:
        """What `Answer.confidence` rests on: the store's own, else one that came with the model, else None."""
        if self._calibrated is None or self._calibrated[0] is not self.model:
            model = self.model
            kept = self.bank.meta(_CALIBRATION)
            own = [] if kept is None else [Calibration.model_validate(kept)]
            fitting = (one for one in [*own, *model.calibrations] if one.fits(model.fingerprint, self._encoder_id))
            self._calibrated = (model, next(fitting, None))
        return self._calibrated[1]

    _calibrated: tuple[CMTModel, Calibration | None] | None = None

    @property
    def _encoder_id(self) -> str | None:
        return None if self.encoder is None else self.encoder.id

    # -- from hits to answers --------------------------------------------------------------------------------------

    def _from_hits(
        self,
        way: Callable[..., T],
        question: Question,
        settings: dict[str, Any],
        tools: list[Any] | None,
        lead: str,
        mode: str,
        hits: list[MemoryHit],
    ) -> tuple[T, list[MemoryHit]]:
        """Run the LM with hits; one that was deleted since it was found is dropped.

        Where `recompress` replaces the model in between, the new one answers.
        """
        checked_settings(**settings)
        if mode != "memory":
            settings = settings | {"alpha": 0.0}
        settings = settings | {"tools": tools, "lead": lead}
        generator = self.generator
        try:
            return way(generator, question, **_context(hits, mode), **settings), hits
        except FingerprintMismatchError:
            with self._add_lock:
                if self.generator is generator:
                    raise
            return way(self.generator, question, **_context(hits, mode), **settings), hits
        except InvalidInputError:
            known = self.bank.contains([hit.id for hit in hits])
            alive = [hit for hit in hits if hit.id in known]
            if len(alive) == len(hits):
                raise
            return way(generator, question, **_context(alive, mode), **settings), alive

    def _hits(
        self,
        question: Question,
        k: int,
        mode: str,
        filter: dict[str, Any] | None,
        min_score: float | None,
        memory_ids: Sequence[str] | None,
        fallback: float | None,
    ) -> list[MemoryHit]:
        if mode not in MODES:
            raise InvalidInputError(f"mode must be one of {', '.join(MODES)}, not {mode!r}.")
        _check_fallback(fallback, mode)
        if (mode == "text" or fallback is not None) and not self.bank.keep_text:
            what = 'mode="text"' if mode == "text" else "fallback"
            raise InvalidInputError(f"This store keeps no text (keep_text=False), so {what} has none to show.")
        check_k(k)
        named = None if memory_ids is None else self.passages(memory_ids)
        if mode == "none":
            return []
        return self.search(_words(question), k, filter=filter, min_score=min_score) if named is None else named

    def _answer(self, completion: Completion, hits: list[MemoryHit], mode: Mode, searched: float = 0.0) -> Answer:
        used = hits[: completion.memories]
        timings = {"search": searched, **{name: value for name, value in completion.timings.items()}}
        for name in ("first_token", "total"):
            if name in timings:
                timings[name] += searched
        answer = Answer(completion.text, used, bool(used), completion.usage, timings, completion.finish_reason, mode)
        if used:
            row = features(completion.signals, completion.text, used)
            calibration = self.calibration
            calibrated = None if calibration is None else calibration.confidence(mode, row)
            answer.confidence = raw_confidence(completion.signals) if calibrated is None else calibrated
            answer.answerable = None if calibration is None else calibration.has_answer(row)
        return answer

    def _streamed(
        self, pieces: Generator[str, None, Completion], hits: list[MemoryHit], mode: Mode, searched: float = 0.0
    ) -> Generator[str, None, Answer]:
        completion = yield from pieces
        return self._answer(completion, hits, mode, searched)

    def _decided(
        self,
        pieces: Generator[str, None, Completion],
        hits: list[MemoryHit],
        searched: float,
        fallback: float,
        ask: Callable[..., tuple[Generator[str, None, Completion], list[MemoryHit]]],
    ) -> Generator[str, None, Answer]:
        """Hold the answer from memories back until it is known whether it stands."""
        answers = self._streamed(pieces, hits, "memory", searched)
        with closing(answers):
            while True:
                try:
                    next(answers)
                except StopIteration as end:
                    answer: Answer = end.value
                    break
                yield ""
        if not doubted(answer.confidence, answer.answerable, fallback):
            yield answer.text
            return answer
        pieces, hits = ask("text", hits)
        return _after(answer, (yield from self._streamed(pieces, hits, "text")))


def _complete(
    generator: CMTGenerator, question: Question, *, tools: list[Any] | None, lead: str, **settings: Any
) -> Completion:
    if isinstance(question, str) and tools is None and not lead:
        return generator.generate(question, **settings)
    return generator.chat(question, tools=tools, lead=lead, **settings)


def _stream(generator: CMTGenerator, question: Question, **settings: Any) -> Generator[str, None, Completion]:
    return generator.stream(question, **settings)


def _words(question: Question) -> str:
    """What to search for: the question, or the last words of a conversation's user."""
    if isinstance(question, str) or not isinstance(question, Sequence):
        return question
    said = [turn.get("content") for turn in question if isinstance(turn, Mapping) and turn.get("role") == "user"]
    words = [text for text in said if isinstance(text, str) and text.strip()]
    if not words:
        raise InvalidInputError("A conversation needs a user message with text.")
    return words[-1]


def _context(hits: list[MemoryHit], mode: str) -> dict[str, Any]:
    return {"texts": [hit.text for hit in hits]} if mode == "text" else {"memories": hits}


def _check_fallback(fallback: float | None, mode: str) -> None:
    if fallback is None:
        return
    if isinstance(fallback, bool) or not isinstance(fallback, int | float) or not 0 <= fallback <= 1:
        raise InvalidInputError(f"fallback is {fallback!r}; expected a confidence from 0 to 1, or None.")
    if mode != "memory":
        raise InvalidInputError(f'fallback reads text after memories, so it goes with mode="memory", not {mode!r}.')


def _after(memory: Answer, text: Answer) -> Answer:
    """The answer from text, with what the one from memories has cost before it."""
    spent, usage = memory.usage, text.usage
    usage = replace(
        usage,
        prompt_tokens=spent.prompt_tokens + usage.prompt_tokens,
        memory_slots=spent.memory_slots,
        completion_tokens=spent.completion_tokens + usage.completion_tokens,
        contrast_tokens=spent.contrast_tokens,
        packed=spent.packed,
        passes=spent.passes + usage.passes,
    )
    before = memory.timings["total"]
    timings = {
        **text.timings,
        "search": memory.timings["search"],
        "memory": before - memory.timings["search"],
    }
    for name in ("first_token", "total"):
        if name in timings:
            timings[name] += before
    return replace(text, usage=usage, timings=timings)
