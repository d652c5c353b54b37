"""Whether a few questions can be learned by heart: what cannot do that will not learn from many either."""

from __future__ import annotations

import torch

from cmt_memory.model.parts import own_tensors
from cmt_memory.training.config import Stage
from cmt_memory.training.learner import Learner
from cmt_memory.training.units import AnswerUnit

EXAMPLES = 32


def learns_by_heart(learner: Learner, unit: AnswerUnit, steps: int, rate: float) -> float:
    """Train on one unit alone and ask it; afterwards everything is as it was before, random numbers too.

    Args:
        learner: what is trained, all of it.
        unit: a few questions.
        steps: optimiser steps.
        rate: learning rate.

    Returns:
        The share of the unit's questions that are answered right; see `Learner.known_by_heart`.
    """
    devices = [learner.model.lm.device] if learner.model.lm.device.type == "cuda" else []
    before = {name: tensor.detach().clone() for name, tensor in own_tensors(learner).items()}
    training = learner.training
    with torch.random.fork_rng(devices):
        learner.choose(Stage(task="answers", steps=steps))
        learner.train()
        optimizer = torch.optim.AdamW(learner.chosen(), lr=rate, weight_decay=0.0)
        for _ in range(steps):
            optimizer.zero_grad()
            learner(unit)["loss"].backward()
            torch.nn.utils.clip_grad_norm_(learner.chosen(), 1.0)
            optimizer.step()
        learner.eval()
        known = learner.known_by_heart(unit)
    learner.zero_grad()
    learner.load_state_dict(before, strict=False)
    learner.train(training)
    return known
