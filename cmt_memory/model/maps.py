"""The trained linear maps between full slots and latent ones, which start as a PCA's way down and up."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from cmt_memory.model.latent import PCA


class LatentMap(nn.Module):
    """What both ways share: fixed scales around a trained matrix whose rows start out orthonormal.

    Keys and values of different layers differ in size by orders of magnitude, and so do the PCA's directions. The
    scales take that out, so that one learning rate suits every entry of the matrix.

    Args:
        size: d, numbers per latent slot.
        width: numbers per full slot.
    """

    def __init__(self, size: int, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("weight", torch.ones(width))
        self.register_buffer("scale", torch.ones(size))
        self.components = nn.Parameter(torch.zeros(size, width))

    mean: Tensor
    weight: Tensor
    scale: Tensor

    @torch.no_grad()
    def start_from(self, pca: PCA) -> None:
        """Become the PCA's way down or up."""
        self.mean.copy_(pca.mean)
        self.weight.copy_(pca.weight)
        self.scale.copy_(pca.scale)
        self.components.copy_(pca.components)


class LatentDown(LatentMap):
    """Full slots to latent ones: `((x − mean) · weight) Vᵀ / scale + bias`."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(size, width)
        self.bias = nn.Parameter(torch.zeros(size))

    def down_block(self, part: Tensor, offset: int) -> Tensor:
        """One layer's contribution `[.., d]`, from its part `[.., w]` of the full slot at `offset`."""
        columns = slice(offset, offset + part.shape[-1])
        rows = (part.float() - self.mean[columns]) * self.weight[columns]
        latent = (rows @ self.components[:, columns].T).float() / self.scale
        return latent + self.bias if offset == 0 else latent


class LatentUp(LatentMap):
    """Latent slots to full ones: `((l · scale) V + bias) / weight + mean`."""

    def __init__(self, size: int, width: int) -> None:
        super().__init__(size, width)
        self.bias = nn.Parameter(torch.zeros(width))

    def up(self, latent: Tensor) -> Tensor:
        """`[.., d]` to `[.., width]`, float32."""
        rows = ((latent.float() * self.scale) @ self.components).float()
        return (rows + self.bias) / self.weight + self.mean
