"""What is measured on held-out questions while training, and which measurement ends a hopeless run."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.squad import exact_match, normalise
from cmt_memory.training.config import Gates
from cmt_memory.training.facts import FactWorld, pools
from cmt_memory.training.sources import Mixture

_PROBES = 24
_PAIRS = 20
_BATCH = 32


@dataclass(frozen=True, slots=True)
class Asked:
    """A held-out question with its documents, and the kind of fact where it is known."""

    documents: tuple[str, ...]
    question: str
    answer: str
    kind: str = ""


class GateKeeper:
    """Asks held-out questions of the model as it is, with right, wrong and no memories, in the LM's own writing.

    Args:
        model: whose parts are being trained.
        gates: what to measure, and thresholds.
        held_out: where questions come from.
        documents: how many documents a question is asked before, by weight.
        ratio: document tokens per slot.
        first_token: gives held-out losses of the answers' first tokens by name, at the model's ratio.
    """

    def __init__(
        self,
        model: CMTModel,
        gates: Gates,
        held_out: Mixture,
        documents: dict[int, float],
        ratio: int,
        first_token: Callable[[], dict[str, float]] | None = None,
    ) -> None:
        self._model, self._gates, self._ratio, self._first_token = model, gates, ratio, first_token
        self._asked = _questions(held_out, {k: weight for k, weight in documents.items() if k}, gates.questions)
        self._probes = copy_probes(_PROBES)
        self._pairs = swapped_probes(_PAIRS)
        self._chance = chance([(asked.kind, asked.answer) for asked in self._asked])
        self._fixed: tuple[list[float], dict[str, float]] | None = None

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
        matches = self._scores(right)
        shuffled = self._scores(_others(right, [asked.documents for asked in self._asked]))
        zeroed = self._scores([[_zeroed(memory) for memory in mine] for mine in right])
        none, fixed = self._without_memories()
        return {
            "exact_match": _mean(matches),
            "exact_match_shuffled": _mean(shuffled),
            "exact_match_zeroed": _mean(zeroed),
            **fixed,
            "memory_over_shuffled": _mean(matches) - _mean(shuffled),
            "shuffled_over_none": surely_over(shuffled, none, self._chance),
            "zeroed_over_none": surely_over(zeroed, none, self._chance),
            **slot_statistics(list(memories.values())),
            "copy_probe": self._copied(),
            **self._swapped(),
            **(self._first_token() if self._first_token is not None else {}),
        }

    def _without_memories(self) -> tuple[list[float], dict[str, float]]:
        """Scores of closed book, and what does not depend on the memories."""
        if self._fixed is None:
            none = self._scores([[] for _ in self._asked])
            text = self._scores(None, [asked.documents for asked in self._asked])
            pairs = self._answers([p.question for p in self._pairs], None, [p.documents for p in self._pairs])
            self._fixed = (
                none,
                {
                    "exact_match_none": _mean(none),
                    "exact_match_text": _mean(text),
                    "exact_match_chance": self._chance,
                    "swap_right_text": _mean(_both_right(pairs, self._pairs)),
                },
            )
        return self._fixed

    def _scores(
        self, memories: Sequence[Sequence[Memory]] | None, texts: Sequence[Sequence[str]] | None = None
    ) -> list[float]:
        answers = self._answers([asked.question for asked in self._asked], memories, texts)
        return [exact_match(answer, [asked.answer]) for answer, asked in zip(answers, self._asked, strict=True)]

    def _swapped(self) -> dict[str, float]:
        """How often an answer changes when two dates of its document change places, and how often it is right twice."""
        memories = [[memory] for memory in self._model.compress([probe.documents[0] for probe in self._pairs])]
        answers = [normalise(text) for text in self._answers([p.question for p in self._pairs], memories, None)]
        changed = [one != other for one, other in zip(answers[::2], answers[1::2], strict=True)]
        return {"swap_changed": _mean(changed), "swap_right": _mean(_both_right(answers, self._pairs))}

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
            ("first_token_gain", gates.first_token_gain, "the memories do not tell the LM how an answer begins"),
            ("copy_probe", gates.copy_probe, "codes, numbers and names are lost in the memories"),
            (
                "swap_changed",
                gates.swap_changed,
                "the order in a document is lost, and an answer stays the same when two dates change places",
            ),
            (
                "swap_right",
                gates.swap_right,
                "the order in a document is lost, and which of two dates belongs to what is not known",
            ),
            ("effective_rank", gates.effective_rank, "the slots have collapsed onto a few directions"),
        ):
            if least is not None and found.get(name, least) < least:
                return f"{meaning}: {name} is {found[name]:.3f}, and at least {least:g} is needed"
        for name, most, meaning in (
            (
                "shuffled_over_none",
                gates.shuffled_over_none,
                "wrong memories help too, so it is not facts they tell",
            ),
            (
                "zeroed_over_none",
                gates.zeroed_over_none,
                "memories of zeros help too, so it is not facts they tell",
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
        mine = [
            Asked(episode.documents, asked.question, asked.answer, asked.kind) for asked in episode.asked if asked.gold
        ]
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


def _zeroed(memory: Memory) -> Memory:
    """As many slots in the same places, all of them zeros."""
    return replace(memory, slots=torch.zeros_like(memory.slots))


def surely_over(wrong: Sequence[float], none: Sequence[float], by_chance: float) -> float:
    """By how much wrong memories score more than closed book and than chance, at the lower end of the 95 % interval.

    A share that is not above them is given as it is, so that the figure is never the interval's width alone.

    Args:
        wrong: scores of the questions with wrong memories.
        none: of the same questions without any.
        by_chance: what an answer of the right type scores; see `chance`.
    """
    excess = _mean(wrong) - max(_mean(none), by_chance)
    differences = [a - b for a, b in zip(wrong, none, strict=True)]
    mean = _mean(differences)
    variance = sum((value - mean) ** 2 for value in differences) / max(1, len(differences) - 1)
    return excess - 1.96 * math.sqrt(variance / max(1, len(differences))) if excess > 0 else excess


def chance(asked: Sequence[tuple[str, str]]) -> float:
    """How often another question's answer of the same type is right: what knowing the type alone is worth.

    Args:
        asked: kind (`""` where it is not known) and answer of each question. Without a kind the type is the look of
            the answer: with digits, capitalised, or neither.
    """
    types = [(kind or _look(answer), normalise(answer)) for kind, answer in asked]
    answers, sizes = Counter(types), Counter(kind for kind, _ in types)
    return _mean((answers[of] - 1) / (sizes[of[0]] - 1) for of in types if sizes[of[0]] > 1)


def _look(answer: str) -> str:
    return "digits" if any(c.isdigit() for c in answer) else "name" if answer[:1].isupper() else "words"


def swapped_probes(count: int, seed: int = 0) -> list[Asked]:
    """`count` pairs one after the other: a question about two documents in which two dates have changed places."""
    world = FactWorld(random.Random(f"swapped/{seed}"), "eval")
    probes = []
    for number in range(count):
        for document in world.swapped_pair().documents:
            asked = document.questions[number % 2]
            probes.append(Asked((document.text,), asked.text, asked.answer))
    return probes


def _both_right(answers: Sequence[str], probes: Sequence[Asked]) -> list[float]:
    """For each pair 1 where both answers are right."""
    right = [exact_match(answer, [probe.answer]) for answer, probe in zip(answers, probes, strict=True)]
    return [min(pair) for pair in zip(right[::2], right[1::2], strict=True)]


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
    pool = pools.Pool("eval")
    probes = []
    for number in range(count):
        owner = pool.draw(rng, pools.surname)
        what, value = (
            ("code", pool.draw(rng, pools.code)),
            ("number", str(rng.randint(1000, 99999))),
            ("contact", f"{pool.draw(rng, pools.made_name)} {pool.draw(rng, pools.surname)}"),
        )[number % 3]
        probes.append(Asked((f"The {what} of {owner} is {value}.",), f"What is the {what} of {owner}?", value))
    return probes


def _mean(values: object) -> float:
    numbers = [float(value) for value in values]  # type: ignore[attr-defined]
    return sum(numbers) / len(numbers) if numbers else 0.0
