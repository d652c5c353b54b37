"""π: slots of the aggregated memory to per-layer keys and values of the LM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.attention import SlotMLP
from cmt_memory.model.config import PrefixConfig
from cmt_memory.model.latent import Projection
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.maps import LatentUp
from cmt_memory.model.memory import KVLayout, Memory


class Aligner(nn.Module, ABC):
    """Interface of every aligner."""

    name: ClassVar[str]

    @property
    def identity(self) -> str:
        """What the fingerprint says beside the aligner's tensors, if anything."""
        return ""

    def places(self, memory: Memory) -> tuple[Tensor, int]:
        """Where the `[p]` positions stand that a memory becomes, and how many there are before the question."""
        return memory.positions, memory.n_tokens

    def extent(self, n_slots: int, spanned: int) -> int:
        """The fewest positions after the head for so many slots, which span so many positions."""
        return spanned

    @abstractmethod
    def align(self, lm: FrozenLM, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per-layer keys, before rotary embedding, and values for `[B, k, d]` slots.

        Returns:
            One `([B, H, p, Dk], [B, H, p, Dv])` pair a layer of `lm.layout`, in the LM's dtype; p is k unless
            `places` says otherwise.
        """


class FullAligner(Aligner):
    """For `latent="full"`: a slot already is the keys and values."""

    name = "full"

    def align(self, lm: FrozenLM, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `Aligner.align`."""
        return lm.layout.split(slots.to(lm.dtype))


class LinearAligner(Aligner):
    """For `latent=<d>`: one linear map, the PCA's way back or what training made of it."""

    name = "linear"

    def __init__(self, projection: Projection | LatentUp) -> None:
        super().__init__()
        self.projection = projection

    def align(self, lm: FrozenLM, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `Aligner.align`."""
        return lm.layout.split(self.projection.up(slots).to(lm.dtype))


class PrefixAligner(Aligner):
    """k slots to a few positions in all layers (as MAC's, arXiv 2403.04317, with two positions).

    Keys and values of each layer at each position come from one slot, by a residual feed-forward layer of their own;
    slots are taken in order, the first ones for the first position. What comes out is counted in standard deviations
    of the LM's own keys and values, measured once, so that it starts where the LM's attention has a meaning; MAC's
    starts anywhere. Positions follow the head without a gap, whatever the documents' lengths.

    Args:
        layout: the LM's keys and values.
        slots: k, slots that become one group of positions.
        size: d, numbers per slot.
        settings: positions and inner size.

    Raises:
        InvalidInputError: there are more slots than keys and values, so that some would not be read.
    """

    name = "prefix"

    def __init__(self, layout: KVLayout, slots: int, size: int, settings: PrefixConfig) -> None:
        super().__init__()
        widths = layout.block_sizes()
        count, positions = len(widths) * settings.positions, settings.positions
        if slots > count:
            raise InvalidInputError(
                f"{slots} slots cannot all be read: {positions} prefix positions in {len(widths) // 2} layers have "
                f"{count} keys and values, one slot each. Set encoder.slots to {count} at most, or raise "
                "prefix.positions."
            )
        self.group, self.settings = slots, settings
        self.maps = nn.ModuleList(SlotMLP(positions, size, settings.hidden, width) for width in widths)
        numbers = torch.arange(count).view(positions, len(widths)).T
        self.register_buffer("sources", numbers * slots // count, persistent=False)
        self.register_buffer("mean", torch.zeros(layout.width))
        self.register_buffer("scale", torch.ones(layout.width))

    sources: Tensor
    mean: Tensor
    scale: Tensor

    @torch.no_grad()
    def start_from(self, rows: Tensor) -> None:
        """Count in the mean and standard deviation of the LM's own `[n, width]` full slots."""
        self.mean.copy_(rows.mean(0))
        self.scale.copy_(rows.std(0))

    def places(self, memory: Memory) -> tuple[Tensor, int]:
        """See `Aligner.places`."""
        count = self.extent(len(memory.slots), 0)
        return torch.arange(count, dtype=torch.float32), count

    def extent(self, n_slots: int, spanned: int) -> int:
        """See `Aligner.extent`."""
        if n_slots % self.group:
            raise InvalidInputError(f"{n_slots} slots are no multiple of the {self.group} that this model makes.")
        return n_slots // self.group * self.settings.positions

    def align(self, lm: FrozenLM, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """See `Aligner.align`."""
        groups = slots.to(self.mean).view(-1, self.group, slots.shape[-1])
        parts = [part(groups[:, source]) for part, source in zip(self.maps, self.sources, strict=True)]
        full = torch.cat(parts, dim=-1).float() * self.scale + self.mean
        return lm.layout.split(full.view(len(slots), -1, lm.layout.width).to(lm.dtype))
