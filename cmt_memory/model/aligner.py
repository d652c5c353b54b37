"""π: slots of the aggregated memory to per-layer keys and values of the LM."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor, nn

from cmt_memory.model.latent import Projection
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.maps import LatentUp


class Aligner(nn.Module, ABC):
    """Interface of every aligner."""

    name: ClassVar[str]

    @abstractmethod
    def align(self, lm: FrozenLM, slots: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Per-layer keys, before rotary embedding, and values for `[B, k, d]` slots.

        Returns:
            One `([B, H, k, Dk], [B, H, k, Dv])` pair a layer of `lm.layout`, in the LM's dtype.
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
