"""What is measured on held-out questions while training, and which measurement ends a hopeless run."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.squad import exact_match
from cmt_memory.training.config import Gates
from cmt_memory.training.facts import pools
from cmt_memory.training.sources import Mixture

_PROBES = 24
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """A held-out question with its documents."""

    documents: tuple[str, ...]
    question: str
    answer: str


class GateKeeper:
    """Asks held-out questions of the model as it is, with right, wrong and no memories, in the LM's own writing.

    Args:
        model: whose parts are being trained.
        gates: what to measure, and thresholds.
        held_out: where questions come from.
        documents: how many documents a question is asked before, by weight.
        ratio: document tokens per slot.
    """

    def __init__(
        self, model: CMTModel, gates: Gates, held_out: Mixture, documents: dict[int, float], ratio: int
    ) -> None:
        self._model, self._gates, self._ratio = model, gates, ratio
        self._asked = _questions(held_out, {k: weight for k, weight in documents.items() if k}, gates.questions)
        self._probes = copy_probes(_PROBES)
        self._fixed: dict[str, float] | None = None

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """All gates by name; what does not depend on the memories is measured once."""
        compressor = self._model.compressor
        training = compressor.training
        compressor.eval()
        try:
            with compressor.at(self._ratio):
                return self._measure()
        finally:
            compressor.train(training)

    def _measure(self) -> dict[str, float]:
        texts = list(dict.fromkeys(text for asked in self._asked for text in asked.documents))
        memories = dict(zip(texts, self._model.compress(texts), strict=True))
        right = [[memories[text] for text in asked.documents] for asked in self._asked]
        found = {
            "exact_match": self._score(right),
            "exact_match_shuffled": self._score(_others(right, [asked.documents for asked in self._asked])),
            **self._without_memories(),
            **slot_statistics(list(memories.values())),
            "copy_probe": self._copied(),
        }
        found["memory_over_shuffled"] = found["exact_match"] - found["exact_match_shuffled"]
        found["shuffled_over_none"] = found["exact_match_shuffled"] - found["exact_match_none"]
        return found

    def _without_memories(self) -> dict[str, float]:
        if self._fixed is None:
            self._fixed = {
                "exact_match_none": self._score([[] for _ in self._asked]),
                "exact_match_text": self._score(None, [asked.documents for asked in self._asked]),
            }
        return self._fixed

    def _score(
        self, memories: Sequence[Sequence[Memory]] | None, texts: Sequence[Sequence[str]] | None = None
    ) -> float:
        answers = self._answers([asked.question for asked in self._asked], memories, texts)
        return _mean(exact_match(answer, [asked.answer]) for answer, asked in zip(answers, self._asked, strict=True))

    def _copied(self) -> float:
        memories = [[memory] for memory in self._model.compress([probe.documents[0] for probe in self._probes])]
        answers = self._answers([probe.question for probe in self._probes], memories, None)
        return _mean(probe.answer in answer for answer, probe in zip(answers, self._probes, strict=True))

    def _answers(
        self,
        questions: Sequence[str],
        memories: Sequence[Sequence[Memory]] | None,
        texts: Sequence[Sequence[str]] | None,
    ) -> list[str]:
        generator = CMTGenerator(self._model, prefix_cache_bytes=0)
        answers = []
        for start in range(0, len(questions), _BATCH):
            rows = slice(start, start + _BATCH)
            done = generator.batch(
                questions[rows],
                None if memories is None else memories[rows],
                texts=None if texts is None else texts[rows],
                max_new_tokens=self._gates.max_new_tokens,
            )
            answers += [completion.text for completion in done]
        return answers

    def failure(self, found: dict[str, float]) -> str | None:
        """The first threshold that is not met, as a sentence that says what it means; None where all are."""
        gates = self._gates
        for name, least, meaning in (
            ("memory_over_shuffled", gates.memory_over_shuffled, "the answers do not depend on which memory is given"),
            ("exact_match", gates.exact_match, "the LM does not answer from the memories"),
            ("copy_probe", gates.copy_probe, "codes, numbers and names are lost in the memories"),
            ("effective_rank", gates.effective_rank, "the slots have collapsed onto a few directions"),
        ):
            if least is not None and found[name] < least:
                return f"{meaning}: {name} is {found[name]:.3f}, and at least {least:g} is needed"
        for name, most, meaning in (
            (
                "shuffled_over_none",
                gates.shuffled_over_none,
                "wrong memories help too, so it is not facts they tell",
            ),
            ("mean_cosine", gates.mean_cosine, "the slots of a document are all alike"),
        ):
            if most is not None and found[name] > most:
                return f"{meaning}: {name} is {found[name]:.3f}, and at most {most:g} is allowed"
        return None


def _questions(held_out: Mixture, documents: dict[int, float], count: int) -> list[Asked]:
    """Answerable questions of the first episodes."""
    found: list[Asked] = []
    number, barren = 0, 0
    while len(found) < count and barren < 100:
        episode = held_out.episode(number, documents, 4)
        mine = [Asked(episode.documents, asked.question, asked.answer) for asked in episode.asked if asked.gold]
        found += mine
        barren = 0 if mine else barren + 1
        number += 1
        if len(held_out) and number >= len(held_out):
            break
    return found[:count]


def _others(right: Sequence[Sequence[Memory]], documents: Sequence[tuple[str, ...]]) -> list[Sequence[Memory]]:
    """For each question the memories of the nearest following question that has no document in common with it."""
    shuffled = []
    for i, mine in enumerate(documents):
        places = [(i + step) % len(right) for step in range(1, len(right))]
        other = next((place for place in places if not set(documents[place]) & set(mine)), None)
        shuffled.append(right[other] if other is not None else [])
    return shuffled


def slot_statistics(memories: Sequence[Memory]) -> dict[str, float]:
    """`effective_rank` of all slots together, and `mean_cosine` between two slots of a document.

    The effective rank is the exponential of the entropy of the centred slots' normalised singular values (Roy and
    Vetterli, 2007): d where all directions are used alike, 1 where only one is.
    """
    slots = torch.cat([memory.slots for memory in memories]).float().cpu()
    values = torch.linalg.svdvals(slots - slots.mean(0))
    shares = values / values.sum().clamp(min=1e-12)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum()
    cosines = [_mean_cosine(memory.slots.float().cpu()) for memory in memories if len(memory.slots) > 1]
    return {"effective_rank": float(entropy.exp()), "mean_cosine": _mean(cosines)}


def _mean_cosine(slots: Tensor) -> float:
    unit = torch.nn.functional.normalize(slots, dim=-1)
    n = len(unit)
    return float(((unit @ unit.T).sum() - n) / (n * (n - 1)))


def copy_probes(count: int, seed: int = 0) -> list[Asked]:
    """Documents of one sentence about a code, a number or a name, and the question for it."""
    rng = random.Random(f"copy/{seed}")
    probes = []
    for number in range(count):
        owner = pools.draw(rng, "eval", pools.surname)
        what, value = (
            ("code", pools.draw(rng, "eval", pools.code)),
            ("number", str(rng.randint(1000, 99999))),
            ("contact", f"{pools.draw(rng, 'eval', pools.made_name)} {pools.draw(rng, 'eval', pools.surname)}"),
        )[number % 3]
        probes.append(Asked((f"The {what} of {owner} is {value}.",), f"What is the {what} of {owner}?", value))
    return probes


def _mean(values: object) -> float:
    numbers = [float(value) for value in values]  # type: ignore[attr-defined]
    return sum(numbers) / len(numbers) if numbers else 0.0
