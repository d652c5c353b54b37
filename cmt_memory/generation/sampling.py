"""Choosing the next token: seeded sampling and contrast with the memory-free LM, as logits processors."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import (
    DynamicCache,
    LogitsProcessor,
    LogitsProcessorList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from cmt_memory.model.lm import FrozenLM


class GumbelSampling(LogitsProcessor):
    """Turns the arg-max that follows into a draw from the softmax, with a random stream for each row.

    Adding Gumbel noise to logits and taking the largest is a draw from their softmax (Gumbel, 1954). Each row has a
    generator of its own, so a seeded answer does not depend on what else is in the batch or in the process, and the
    global random state is left alone.

    Args:
        seeds: one seed a row; None draws one.
        device: where the logits are.
    """

    def __init__(self, seeds: Sequence[int | None], device: torch.device) -> None:
        self._generators = []
        for seed in seeds:
            generator = torch.Generator(device)
            if seed is None:
                generator.seed()
            else:
                generator.manual_seed(seed)
            self._generators.append(generator)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Add noise to `[B, vocabulary]` logits."""
        noise = torch.stack(
            [
                torch.empty(scores.shape[1], device=scores.device).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        return scores.float() - noise.log()


class MemoryContrast(LogitsProcessor):
    """(1+α)·l(y|M*,q) − α·l(y|q), the memory-aware combination (arXiv 2412.07393) at decoding.

    Holds a second cache that has never seen a memory and reads every token once. With α > 0 it amplifies what the
    memory changes, with α < 0 it dampens it.

    Args:
        lm: the frozen LM.
        alpha: α.
        cache: a cache that holds the head alone, for as many rows as will be generated.
        mask: `[B, head + Q]` of head and question.
        positions: `[B, Q]` positions of the question after the head alone.
    """

    def __init__(self, lm: FrozenLM, alpha: float, cache: DynamicCache, mask: Tensor, positions: Tensor) -> None:
        self._lm = lm
        self._alpha = alpha
        self._cache = cache
        self._mask = mask
        self._positions = positions
        self._read = 0

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Combine `[B, vocabulary]` logits with those of the memory-free pass."""
        new = input_ids[:, self._read :]
        if self._read:
            self._mask = torch.cat([self._mask, torch.ones_like(new)], dim=1)
            self._positions = self._positions[:, -1:] + 1
        inputs = {"position_ids": self._positions} if self._lm.takes_positions else {}
        with torch.no_grad():
            logits: Tensor = self._lm.model(
                input_ids=new, attention_mask=self._mask, past_key_values=self._cache, use_cache=True,
                logits_to_keep=1, **inputs,
            ).logits[:, -1]  # fmt: skip
        self._read = input_ids.shape[1]
        return (1 + self._alpha) * scores - self._alpha * logits.to(scores)


def processors(
    temperature: float,
    top_p: float,
    seeds: Sequence[int | None],
    device: torch.device,
    first: Sequence[LogitsProcessor],
) -> LogitsProcessorList:
    """What stands between the LM's logits and the choice of the largest, `first` in front of the rest."""
    chosen = LogitsProcessorList(first)
    if temperature > 0:
        if temperature != 1:
            chosen.append(TemperatureLogitsWarper(temperature))
        if top_p < 1:
            chosen.append(TopPLogitsWarper(top_p))
        chosen.append(GumbelSampling(seeds, device))
    return chosen
