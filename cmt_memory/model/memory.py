"""A memory (k slots of one document) and the layout of keys and values inside a full slot."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Memory:
    """The compressed form of one document (or one passage of it).

    Attributes:
        slots: `[k, d]`, one row per slot; `d` is the latent size, or the full key/value width.
        positions: `[k]` float32, where each slot stands, in tokens from the document's first token.
        n_tokens: how many tokens the document had, its trailing blank line included.
    """

    slots: Tensor
    positions: Tensor
    n_tokens: int

    @property
    def pooled(self) -> Tensor:
        """`[d]` float32: the mean of the slots, of length 1, for searching by memories (CMT, AAAI 2025)."""
        return torch.nn.functional.normalize(self.slots.detach().float().cpu().mean(dim=0), dim=0)

    @property
    def key(self) -> str:
        """A digest of the content: two memories with the same key inject the same prefix."""
        digest = hashlib.sha256(str((tuple(self.slots.shape), self.slots.dtype, self.n_tokens)).encode())
        for tensor in (self.slots, self.positions):
            digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class LayerShape:
    """Key/value shape of one attention layer that has a cache entry of its own."""

    index: int
    kv_heads: int
    key_dim: int
    value_dim: int
    device: torch.device

    @classmethod
    def of(cls, index: int, keys: Tensor, values: Tensor) -> LayerShape:
        """The shape of a layer that computed `[B, H, n, Dk]` keys and `[B, H, n, Dv]` values."""
        return cls(index, keys.shape[1], keys.shape[3], values.shape[3], keys.device)

    @property
    def width(self) -> int:
        """Numbers per token in this layer: its keys and its values."""
        return self.kv_heads * (self.key_dim + self.value_dim)


class KVLayout:
    """How the keys and values of all layers lie side by side in one full slot.

    Layer after layer, in each the keys of all heads and then the values of all heads; per-layer shapes may
    differ, as they do in models that mix attention types.
    """

    def __init__(self, layers: Sequence[LayerShape]) -> None:
        self.layers = tuple(layers)
        self.width = sum(layer.width for layer in self.layers)
        self.offsets: dict[int, int] = {}
        offset = 0
        for layer in self.layers:
            self.offsets[layer.index] = offset
            offset += layer.width

    def flatten(self, keys: Tensor, values: Tensor) -> Tensor:
        """`[B, H, n, Dk]` keys and `[B, H, n, Dv]` values of one layer as `[B, n, H*(Dk+Dv)]`."""
        return torch.cat([keys.transpose(1, 2).flatten(2), values.transpose(1, 2).flatten(2)], dim=-1)

    def split(self, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """`[B, k, width]` full slots as one `([B, H, k, Dk], [B, H, k, Dv])` pair a layer (views)."""
        pairs = []
        for layer in self.layers:
            start = self.offsets[layer.index]
            middle = start + layer.kv_heads * layer.key_dim
            keys = slots[..., start:middle].unflatten(-1, (layer.kv_heads, layer.key_dim))
            values = slots[..., middle : start + layer.width].unflatten(-1, (layer.kv_heads, layer.value_dim))
            pairs.append((keys.transpose(1, 2), values.transpose(1, 2)))
        return pairs

    def block_sizes(self) -> list[int]:
        """Widths of the alternating key and value blocks, in slot order."""
        sizes = []
        for layer in self.layers:
            sizes += [layer.kv_heads * layer.key_dim, layer.kv_heads * layer.value_dim]
        return sizes
