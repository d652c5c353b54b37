"""Blocks that the paper's parts are made of: cross-attention, and feed-forward layers that each slot has of its own."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class CrossAttentionBlock(nn.Module):
    """Pre-LN cross-attention and feed-forward layer, each added to its input (as MAC's, arXiv 2403.04317).

    Args:
        size: numbers per query.
        context_size: numbers per vector that is looked at.
        heads: attention heads.
        head_size: numbers per head.
    """

    def __init__(self, size: int, context_size: int, heads: int, head_size: int) -> None:
        super().__init__()
        inner = heads * head_size
        self.heads = heads
        self.norm_queries, self.norm_context = nn.LayerNorm(size), nn.LayerNorm(context_size)
        self.queries = nn.Linear(size, inner, bias=False)
        self.keys = nn.Linear(context_size, inner, bias=False)
        self.values = nn.Linear(context_size, inner, bias=False)
        self.out = nn.Linear(inner, size)
        hidden = min(size, inner)
        self.forwards = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, hidden), nn.GELU(), nn.Linear(hidden, size))

    def forward(self, queries: Tensor, context: Tensor, mask: Tensor | None = None) -> Tensor:
        """`[B, k, size]` queries that have looked at `[B, n, context_size]`, where the bool `[B, n]` mask is True."""
        seen = self.norm_context(context)
        looking, keys, values = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.queries(self.norm_queries(queries)), self.keys(seen), self.values(seen))
        )
        shown = None if mask is None else mask[:, None, None]
        looked = F.scaled_dot_product_attention(looking, keys, values, attn_mask=shown)
        queries = queries + self.out(looked.transpose(1, 2).flatten(2))
        done: Tensor = queries + self.forwards(queries)
        return done


class SlotMLP(nn.Module):
    """A residual feed-forward layer for each slot, with weights that no other slot shares.

    Where input and output differ in size, the residual is a linear map, of each slot too.

    Args:
        slots: how many.
        size: numbers per slot.
        hidden: numbers of the inner layer.
        out: numbers that come out of each.
    """

    def __init__(self, slots: int, size: int, hidden: int, out: int) -> None:
        super().__init__()
        self.norm = nn.Parameter(torch.ones(slots, size))
        self.norm_bias = nn.Parameter(torch.zeros(slots, size))
        self.inner = _weights(slots, size, hidden)
        self.inner_bias = nn.Parameter(torch.zeros(slots, hidden))
        self.outer = _weights(slots, hidden, out)
        self.outer_bias = nn.Parameter(torch.zeros(slots, out))
        self.skip = None if size == out else _weights(slots, size, out)

    def forward(self, slots: Tensor) -> Tensor:
        """`[B, k, size]` to `[B, k, out]`."""
        normed = F.layer_norm(slots, slots.shape[-1:]) * self.norm + self.norm_bias
        hidden = F.gelu(_each(normed, self.inner) + self.inner_bias)
        kept = slots if self.skip is None else _each(slots, self.skip)
        return kept + _each(hidden, self.outer) + self.outer_bias


def _weights(slots: int, size: int, out: int) -> nn.Parameter:
    """`[slots, size, out]`, drawn as those of `nn.Linear`."""
    bound = size**-0.5
    return nn.Parameter(torch.empty(slots, size, out).uniform_(-bound, bound))


def _each(slots: Tensor, weights: Tensor) -> Tensor:
    """Every slot times the matrix of its own."""
    return torch.einsum("bki,kio->bko", slots, weights)
