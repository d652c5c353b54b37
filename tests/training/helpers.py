"""A tiny model to train, and units of a few episodes."""

from __future__ import annotations

import torch

from cmt_memory import CMTModel
from cmt_memory.model.adapted import start_adapted
from cmt_memory.model.aggregator import ConcatAggregator
from cmt_memory.model.config import AdapterConfig
from cmt_memory.training.config import Episodes, Objectives, Stage, checked
from cmt_memory.training.learner import Learner
from cmt_memory.training.sources import Mixture, open_source
from cmt_memory.training.units import Unit, Units
from tests.tiny import DOCUMENTS, tiny_model

TEXTS = [" ".join(DOCUMENTS * 3), " ".join(reversed(DOCUMENTS * 3))]
QUIET = {
    "memory_over_shuffled": None,
    "effective_rank": None,
    "mean_cosine": None,
    "shuffled_over_none": None,
    "zeroed_over_none": None,
    "first_token_gain": None,
    "swap_changed": None,
}
"""None of the gates that an untrained model does not pass."""


def trainable(family: str = "llama", kind: str = "plain", *, disturb: float = 0.1, **settings: object) -> CMTModel:
    """An adapted model whose adapters change something."""
    model = start(tiny_model(family, kind), TEXTS, latent=24, rank=2, **settings)
    compressor = model.compressor
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for key, parameter in compressor.adapters.items():
            if "lora_B" in key and disturb:
                parameter.normal_(0, disturb, generator=generator)
    return model


def start(base: CMTModel, texts: list[str], latent: int, **adapter: object) -> CMTModel:
    """A model around the same LM that is ready to be trained."""
    config = base.config.model_copy(
        update={"ratio": 4, "latent": latent, "compressor": "adapted", "adapter": AdapterConfig(**adapter)}
    )
    compressor, aligner = start_adapted(base.lm, config, [2, 4], texts)
    return CMTModel(base.lm, config, compressor, ConcatAggregator(), aligner)


def learner(model: CMTModel, task: str = "answers", trains: str = "all", **objectives: object) -> Learner:
    made = Learner(model, Objectives(**objectives), 4096)
    made.choose(Stage(task=task, trains=trains, steps=1))
    return made


def descend(made: Learner, unit: Unit, steps: int, rate: float) -> list[float]:
    """Train on one unit; returns its answer loss before each step."""
    optimizer = torch.optim.AdamW(made.chosen(), lr=rate)
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        out = made(unit)
        losses.append(out["answer"].item())
        out["loss"].backward()
        optimizer.step()
    return losses


def facts(weight: float = 1.0, **settings: object):
    """A source of facts, as the configuration opens it."""
    values = {"output": "x", "train": [{"kind": "facts", "facts": [1, 2], **settings}]}
    config = checked(values | {"stages": [{"task": "answers", "steps": 1}]}, "test")
    return open_source(config.train[0], 4), weight


def units(model: CMTModel, task: str = "answers", batch: int = 3, steps: int = 40, seed: str = "0", **episodes: object):
    stage = Stage(task=task, steps=steps, batch=batch)
    settings = Episodes(**{"continuation_tokens": 8, "document_tokens": 96} | episodes)
    return Units(model.lm, Mixture([facts()], seed), stage, settings, [2, 4], steps, seed)


def fact_units(**stage: object) -> Units:
    """Units of documents with one to nine facts, at ratios 2, 4 and 8, for one stage."""
    made = Stage(task="answers", **stage)
    return Units(trainable().lm, Mixture([facts(facts=[1, 9])], "0"), made, Episodes(), [2, 4, 8], made.steps, "0")
