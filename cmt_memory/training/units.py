"""Batches ready for the LM, any of them by number: token ids of documents, questions and answers, and a ratio."""

from __future__ import annotations

import math
import random
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch.utils.data import Dataset

from cmt_memory.errors import InvalidInputError
from cmt_memory.generation.prompts import answer_format, question_prompt
from cmt_memory.model.lm import FrozenLM
from cmt_memory.training.config import Episodes, Stage
from cmt_memory.training.sources import Episode, Mixture

_POOL = 8
"""Units whose episodes are drawn together and sorted by length, so that little of a batch is padding."""


@dataclass(frozen=True, slots=True)
class Row:
    """A question of a unit.

    Attributes:
        documents: numbers of the unit's documents, in the order they are given to the LM.
        gold: those that hold the answer.
        question: its words alone, for a search by memories.
        prompt: question and tail.
        answer: with its end.
        told: where documents say the answer: number of the document, first token and the one after the last.
    """

    documents: tuple[int, ...]
    gold: tuple[int, ...]
    question: tuple[int, ...]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    told: tuple[tuple[int, int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class AnswerUnit:
    """Questions to be answered from memories: one batch."""

    ratio: int
    documents: tuple[tuple[int, ...], ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class TextUnit:
    """Texts to be repeated or continued from memories: one batch.

    Attributes:
        ratio: document tokens per slot.
        documents: what is compressed.
        targets: what is predicted, one for each document.
        repeats: whether the target is the document itself.
    """

    ratio: int
    documents: tuple[tuple[int, ...], ...]
    targets: tuple[tuple[int, ...], ...]
    repeats: tuple[bool, ...]


Unit = AnswerUnit | TextUnit


class Units(Dataset[Unit]):
    """The units of a stage.

    A step takes `gradient_accumulation` units that follow each other, whatever the number of processes that share
    them, so that one process and several see the same data in the same step.

    Args:
        lm: whose tokens.
        mixture: where episodes come from.
        stage: what the stage trains on.
        episodes: how they are put together.
        ratios: one is drawn for each unit, where the stage has none of its own.
        steps: how many steps.
        seed: of the order and the ratios.
        chat_template_kwargs: see `CMTModel.from_llm`.
    """

    def __init__(
        self,
        lm: FrozenLM,
        mixture: Mixture,
        stage: Stage,
        episodes: Episodes,
        ratios: Sequence[int],
        steps: int,
        seed: str,
        chat_template_kwargs: dict[str, object] | None = None,
    ) -> None:
        self._lm, self._mixture, self._stage, self._episodes = lm, mixture, stage, episodes
        self._ratios, self._seed = stage.ratios or tuple(ratios), seed
        self._answers = answer_format(lm, chat_template_kwargs)
        self._count = steps * stage.gradient_accumulation
        self._longest_text = min(episodes.document_tokens, _longest_text(lm, episodes.continuation_tokens, min(ratios)))
        self._pool: tuple[int, list[Unit]] = (-1, [])

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> Unit:
        pool, at = divmod(number, _POOL)
        if self._pool[0] != pool:
            self._pool = (pool, self._draw(pool))
        return self._pool[1][at]

    def _draw(self, pool: int) -> list[Unit]:
        """Units of one pool: episodes sorted by length and cut into batches, and steps of these in random order."""
        size = self._stage.batch
        numbers = range(pool * _POOL * size, (pool + 1) * _POOL * size)
        rng = random.Random(f"{self._seed}/pool/{pool}")
        units: list[Unit] = []
        ratios = [rng.choice(self._ratios) for _ in range(_POOL)]
        if self._stage.task == "pretrain":
            texts = [self._text(number, rng) for number in numbers]
            texts.sort(key=lambda text: len(text[0]))
            for i, ratio in enumerate(ratios):
                units.append(TextUnit(ratio, *zip(*texts[i * size : (i + 1) * size], strict=True)))
        else:
            documents = self._stage.documents or self._episodes.documents
            drawn = [self._answered(number, documents) for number in numbers]
            drawn.sort(key=lambda episode: max(map(len, episode[0]), default=0))
            for i, ratio in enumerate(ratios):
                units.append(_joined(ratio, drawn[i * size : (i + 1) * size]))
        together = math.gcd(
            _POOL, self._stage.gradient_accumulation
        )  # a step's are alike: processes wait for the longest
        steps = [units[i : i + together] for i in range(0, _POOL, together)]
        rng.shuffle(steps)
        return [unit for step in steps for unit in step]

    def _text(self, number: int, rng: random.Random) -> tuple[tuple[int, ...], tuple[int, ...], bool]:
        settings = self._episodes
        ids = self._lm.encode_document(self._mixture.passage(number))
        most = self._longest_text
        if rng.random() < settings.reconstruction or len(ids) < 2 * settings.continuation_tokens:
            document = tuple(ids[:most])
            return document, document, True
        after = settings.continuation_tokens
        cut = min(most, rng.randint(min(after, len(ids) - after), len(ids) - after))
        return tuple(ids[:cut]), tuple(ids[cut : cut + after]), False

    def _answered(self, number: int, documents: dict[int, float]) -> tuple[list[tuple[int, ...]], list[Row]]:
        episode = self._mixture.episode(number, documents, self._episodes.questions)
        episode = shortened(self._lm, episode, self._episodes.document_tokens)
        texts = [tuple(self._lm.encode_document(text)) for text in episode.documents]
        offsets = [_offsets(self._lm, *pair) for pair in zip(episode.documents, texts, strict=True)]
        rows: list[Row] = []
        for asked in episode.asked:
            prompt = question_prompt(self._lm, asked.question, None)
            words = tuple(self._lm.encode_document(asked.question.strip()))
            answer = tuple(self._answers.encode(self._lm, asked.answer))
            told = [(i, *_told(episode.documents[i], offsets[i], asked.answer)) for i in asked.gold]
            said = tuple((i, start, end) for i, start, end in told if end)
            rows.append(Row(tuple(range(len(texts))), asked.gold, words, prompt.question_ids, answer, said))
        return texts, rows


def shortened(lm: FrozenLM, episode: Episode, most: int) -> Episode:
    """An episode without document of more than `most` tokens: of a long one the part around the first answer it holds.

    Questions that such a part no longer answers are left out, but for the first.
    """
    kept = tuple(
        _part(lm, text, next((asked.answer for asked in episode.asked if place in asked.gold), ""), most)
        for place, text in enumerate(episode.documents)
    )
    first, others = episode.asked[:1], episode.asked[1:]
    lost = [any(one.answer in episode.documents[i] and one.answer not in kept[i] for i in one.gold) for one in others]
    return Episode(kept, (*first, *(one for one, gone in zip(others, lost, strict=True) if not gone)))


def _part(lm: FrozenLM, text: str, answer: str, most: int) -> str:
    """A text that is short enough; of a long one the part around an answer."""
    middle, size, part = max(0, text.find(answer)) + len(answer) // 2, len(text), text
    while (count := len(lm.encode_document(part))) > most:
        size = int(0.9 * most * size / count)
        start = max(0, min(middle - size // 2, len(text) - size))
        part = text[start : start + size]
    return part


def _offsets(lm: FrozenLM, text: str, ids: Sequence[int]) -> list[tuple[int, int]]:
    """First and last character of each of a text's tokens; nothing where the tokenizer cannot tell."""
    if not lm.tokenizer.is_fast:
        return []
    found = lm.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    same = [int(i) for i in found["input_ids"]]
    return list(found["offset_mapping"]) if same[:-1] == list(ids[: len(same) - 1]) else []


def _told(text: str, offsets: Sequence[tuple[int, int]], answer: str) -> tuple[int, int]:
    """First token of an answer in a text and the one after its last; two zeros where it is not found."""
    at = text.lower().find(answer.strip().lower()) if answer.strip() else -1
    if at < 0:
        return 0, 0
    end = at + len(answer.strip())
    tokens = [number for number, (first, last) in enumerate(offsets) if last > at and first < end]
    return (tokens[0], tokens[-1] + 1) if tokens else (0, 0)


def _longest_text(lm: FrozenLM, continuation: int, ratio: int) -> int:
    """Most tokens of a text that the LM has positions for, once as a memory and once more to repeat it."""
    if lm.max_positions is None:
        return sys.maxsize
    if lm.scheme == "learned":
        ratio = 1  # a memory spans as many positions as its text
    room = lm.max_positions - len(lm.prompt.head_ids) - 2
    return min(room * ratio // (ratio + 1), (room - continuation) * ratio)


def _joined(ratio: int, episodes: Sequence[tuple[list[tuple[int, ...]], list[Row]]]) -> AnswerUnit:
    """Episodes as one unit, in which a document that several have stands once."""
    known: dict[tuple[int, ...], int] = {}
    rows = []
    for texts, asked in episodes:
        places = [known.setdefault(ids, len(known)) for ids in texts]
        for row in asked:
            documents, gold = (tuple(places[i] for i in numbers) for numbers in (row.documents, row.gold))
            told = tuple((places[i], start, end) for i, start, end in row.told)
            rows.append(replace(row, documents=documents, gold=gold, told=told))
    if not rows:
        raise InvalidInputError("A batch has no question.")
    return AnswerUnit(ratio, tuple(known), tuple(rows))
