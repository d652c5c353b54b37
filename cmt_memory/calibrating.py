"""A store's own confidence, learned from questions whose right answers are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from cmt_memory.confidence import FEWEST, LIKELY, SEARCH, Calibration, features, fitted, within_budget
from cmt_memory.documents import MemoryHit
from cmt_memory.errors import InvalidInputError
from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.generation.request import Completion
from cmt_memory.progress import Progress
from cmt_memory.squad import exact_match

LabelledQuestion = Mapping[str, Any]
"""``{"question": "…", "answers": ["…", …]}``; no answers where no document answers it."""
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Labelled:
    """A question and every wording that counts as right, none where no document answers it."""

    question: str
    answers: tuple[str, ...]

    def is_right(self, answer: str) -> bool:
        """Whether an answer is one of them, by SQuAD's rules."""
        return bool(self.answers) and exact_match(answer, self.answers) == 1


def checked_questions(questions: Sequence[LabelledQuestion]) -> list[Labelled]:
    """Labelled questions from what users pass in.

    Raises:
        InvalidInputError: one of them is not a question with a list of answers; the message says which.
    """
    if isinstance(questions, str | Mapping) or not isinstance(questions, Sequence) or not questions:
        raise InvalidInputError('questions must be a list of {"question": "…", "answers": ["…"]}, with one at least.')
    found = []
    for number, value in enumerate(questions):
        question, answers = (
            (value.get("question"), value.get("answers")) if isinstance(value, Mapping) else (None, None)
        )
        if not isinstance(question, str) or not question.strip():
            raise InvalidInputError(f"question {number}: 'question' must be a text, not {question!r:.60}.")
        if (
            isinstance(answers, str)
            or not isinstance(answers, Sequence)
            or not all(isinstance(answer, str) and answer.strip() for answer in answers)
        ):
            raise InvalidInputError(
                f"question {number}: 'answers' must be a list of texts, empty where no document answers it, not "
                f"{answers!r:.60}."
            )
        found.append(Labelled(question, tuple(answers)))
    return found


def calibrate(
    generator: CMTGenerator,
    search: Callable[[str], list[MemoryHit]],
    questions: Sequence[Labelled],
    *,
    encoder: str | None,
    keep_text: bool,
    settings: Mapping[str, Any],
    budget: float,
    show_progress: bool,
) -> Calibration:
    """Answer labelled questions from memories and from text, and fit a confidence for each.

    Args:
        generator: what answers.
        search: a question to its hits.
        questions: with their answers.
        encoder: id of the encoder that searches.
        keep_text: whether hits have a text to read.
        settings: of decoding.
        budget: share of the questions that may be read again as text.
        show_progress: draw a progress bar.

    Raises:
        InvalidInputError: too few answers are right, or wrong, to fit anything.
    """
    rows: dict[str, list[dict[str, float]]] = {"memory": [], "text": []}
    right: dict[str, list[bool]] = {"memory": [], "text": []}

    def note(mode: str, some: Sequence[Labelled], hits: Sequence[list[MemoryHit]], done: Sequence[Completion]) -> None:
        for labelled, own, completion in zip(some, hits, done, strict=True):
            rows[mode].append(features(completion.signals, completion.text, own[: completion.memories]))
            right[mode].append(labelled.is_right(completion.text))

    with Progress("Calibrating", len(questions), unit="questions", show=show_progress) as bar:
        for start in range(0, len(questions), _BATCH):
            some = questions[start : start + _BATCH]
            words = [labelled.question for labelled in some]
            hits = [search(question) for question in words]
            note("memory", some, hits, generator.batch(words, hits, **settings))
            if keep_text:
                texts = [[hit.text for hit in found] for found in hits]
                note("text", some, hits, generator.batch(words, texts=texts, **settings))
            bar.advance(len(some))
    made = fitted(rows["memory"], right["memory"])
    if made is None:
        raise InvalidInputError(
            f"{sum(right['memory'])} of {len(questions)} answers from memories were right; a confidence needs at least "
            f"{FEWEST} right and {FEWEST} wrong ones, and some hundreds to be of use."
        )
    memory, unseen = made
    text = fitted(rows["text"], right["text"])
    answerable = fitted(rows["memory"], [bool(labelled.answers) for labelled in questions], SEARCH)
    # What is not `doubted` at any confidence takes nothing of the budget.
    worth = np.where(answerable is None or answerable[1] >= LIKELY, unseen, 1.0)
    fallback = within_budget(worth, budget)
    return Calibration(
        fingerprint=generator.model.fingerprint,
        encoder=encoder,
        memory=memory,
        text=None if text is None else text[0],
        answerable=None if answerable is None else answerable[0],
        budget=budget,
        fallback=fallback,
        recovered=recovered(right["memory"], right["text"], (worth < fallback).tolist()) if keep_text else None,
    )


def recovered(memory: Sequence[bool], text: Sequence[bool], read: Sequence[bool]) -> float | None:
    """The share of what memories lose against text that comes back by reading some questions' text; None without loss.

    Args:
        memory: whether the answer from memories was right.
        text: whether the one from text was.
        read: whether the one from text was taken.
    """
    ours, theirs = np.asarray(memory, dtype=np.float64), np.asarray(text, dtype=np.float64)
    lost = float((theirs - ours).sum())
    return None if lost <= 0 else float(((theirs - ours) * np.asarray(read)).sum()) / lost
