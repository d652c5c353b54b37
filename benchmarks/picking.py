"""What an LM still answers when each of its heads picks one token of a slot, before anything is trained.

``python -m benchmarks.picking --lm cmt-tiny`` asks questions of the training pools about documents of 8 facts and says
how many answers are right token by token. Slots are cut evenly, by the LM's surprise, or, as a bound, by where the
answers stand.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from cmt_memory import CMTModel
from cmt_memory.model.adapted import AdaptedCompressor, start_adapted
from cmt_memory.model.aggregator import ConcatAggregator
from cmt_memory.model.config import AdapterConfig, CMTConfig
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory
from cmt_memory.model.picking import stretched
from cmt_memory.training.config import Episodes, Objectives, Stage
from cmt_memory.training.data import FactsData
from cmt_memory.training.learner import Learner, told_tokens
from cmt_memory.training.sources import FactsSource, Mixture
from cmt_memory.training.units import AnswerUnit, Units

CUTS = ("even", "surprise", "answers")
_ANSWERS = 20.0
"""How much more a token of an answer counts than another, where slots are cut by answers."""


class Cutting(AdaptedCompressor):
    """The untrained compressor with slots cut as told."""

    def __init__(self, lm: FrozenLM, config: CMTConfig) -> None:
        super().__init__(lm, config)
        self.cut = "surprise"
        self.told: dict[tuple[int, ...], Tensor] = {}

    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `AdaptedCompressor.compress`."""
        self._now = documents
        return super().compress(lm, documents)

    def _share(self, last: tuple[Tensor, Tensor], lengths: Tensor, slots: Tensor) -> Tensor:
        if self.cut == "surprise":
            return super()._share(last, lengths, slots)
        importance = torch.ones(last[0].shape[:2])
        if self.cut == "answers":
            for row, ids in enumerate(self._now):
                importance[row, : len(ids)] += _ANSWERS * self.told[tuple(ids)]
        return stretched(importance, lengths, slots)


def units(lm: FrozenLM, ratio: int, count: int) -> list[AnswerUnit]:
    """Documents of 8 facts with a question about each, in batches of 4 documents."""
    mixture = Mixture([(FactsSource(FactsData(kind="facts", facts=(8, 8), unknown=0)), 1.0)], "picking")
    stage = Stage(task="answers", steps=1, batch=4)
    made = Units(lm, mixture, stage, Episodes(questions=8, document_tokens=448), [ratio], count, "picking")
    return [unit for unit in (made[number] for number in range(count)) if isinstance(unit, AnswerUnit)]


@torch.no_grad()
def measure(name: str, ratios: Sequence[int], count: int) -> dict[str, dict[str, float]]:
    """Share of answers that are right token by token, for each cut at each ratio."""
    base = CMTModel.from_llm(name)
    config = base.config.model_copy(
        update={
            "ratio": ratios[0],
            "latent": base.lm.layout.width,
            "compressor": "adapted",
            "adapter": AdapterConfig(rank=1, causal=True),
        }
    )
    facts = FactsSource(FactsData(kind="facts"))
    started, aligner = start_adapted(base.lm, config, ratios, [facts.passage(n, random.Random(n)) for n in range(60)])
    compressor = Cutting(base.lm, config)
    compressor.load_state_dict(started.state_dict())
    learner = Learner(CMTModel(base.lm, config, compressor, ConcatAggregator(), aligner), Objectives(), 4096).eval()
    found: dict[str, dict[str, float]] = {cut: {} for cut in CUTS}
    for ratio in ratios:
        batches = units(base.lm, ratio, count)
        for cut in CUTS:
            compressor.cut = cut
            shares = []
            for unit in batches:
                compressor.told = {ids: told_tokens(unit, i) for i, ids in enumerate(unit.documents)}
                shares.append(learner.known_by_heart(unit))
            found[cut][str(ratio)] = round(sum(shares) / len(shares), 4)
    return found


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--lm", default="cmt-tiny")
    parser.add_argument("--ratios", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--batches", type=int, default=8, help="of 4 documents with 8 questions each")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    found = measure(options.lm, options.ratios, options.batches)
    for cut, scores in found.items():
        print(f"{cut:10}", "  ".join(f"{ratio}x {100 * score:5.1f}" for ratio, score in scores.items()))
    if options.output:
        options.output.write_text(json.dumps({"lm": options.lm, "exact_match": found}, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()
