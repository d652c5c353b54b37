"""Which tokens of a document a slot holds: slots go where tokens matter, and each head picks one token of a slot's."""

from __future__ import annotations

import torch
from torch import Tensor

_FLOOR = 0.05
"""Least importance of a token beside the mean of its document, so that none is narrower than a head can hit."""


def stretched(importance: Tensor, lengths: Tensor, slots: Tensor) -> Tensor:
    """How much of a slot each token takes, `[B, n]`, which adds up to a document's number of slots.

    Slots are cut from the sum of these shares as continuous integrate-and-fire cuts speech (CIF, arXiv 1905.11235).

    Args:
        importance: `[B, n]`, above 0.
        lengths: `[B]`, tokens of each document; what is behind them takes nothing.
        slots: `[B]`, slots of each document.
    """
    inside = torch.arange(importance.shape[1], device=importance.device)[None] < lengths[:, None]
    importance = importance * inside
    importance = (importance + _FLOOR * importance.sum(1, keepdim=True) / lengths[:, None]) * inside
    return importance * (slots[:, None] / importance.sum(1, keepdim=True))


def pick(shares: Tensor, places: Tensor, sharpness: Tensor, scores: Tensor, slots: int) -> Tensor:
    """How much of each token a head takes into each slot: weights `[B, k, H, n]` that add up to 1 over the tokens.

    A token is as wide as its share. A head looks at one place of every slot and weighs tokens by their distance from
    there, counted in their own widths; so the token that lies there counts most, however narrow it is.

    Args:
        shares: `[B, n]` as `stretched` gives them.
        places: `[H]`, where in a slot each head looks, from 0 to 1.
        sharpness: `[H]`; 0 weighs all tokens alike.
        scores: `[B, n, H]`, added to the logarithm of the weights.
        slots: k, the most slots of a document; those that a document does not have are of no use.
    """
    wide = shares.clamp(min=torch.finfo(shares.dtype).tiny ** 0.25)
    middle = shares.cumsum(1) - shares / 2
    at = torch.arange(slots, device=shares.device)[:, None] + places
    away = (at[None, :, :, None] - middle[:, None, None]) / wide[:, None, None]
    logits = scores.transpose(1, 2)[:, None] - sharpness[:, None] * away.square()
    weights: Tensor = logits.masked_fill(shares[:, None, None] == 0, -torch.inf).softmax(-1)
    return weights


def slot_positions(shares: Tensor, slots: int) -> Tensor:
    """Where the middle of each slot lies, `[k]` in tokens from the first one, by a document's `[n]` shares."""
    ends = shares.double().cumsum(0)
    at = torch.arange(slots, device=shares.device) + 0.5
    token = torch.searchsorted(ends, at.double()).clamp(max=len(shares) - 1)
    inside = (at - ends[token]) / shares[token] + 1
    return (token + inside - 0.5).clamp(0, len(shares) - 1).float().cpu()
