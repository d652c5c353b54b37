"""The latent's maps start from what answers depend on: a PCA in which gradients of the answers' loss count."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cmt_memory.model.adapted import AdaptedCompressor
from cmt_memory.model.aligner import FullAligner, LinearAligner
from cmt_memory.model.latent import fit_pca, rows_that_fit
from cmt_memory.model.maps import LatentUp
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.training.config import Objectives
from cmt_memory.training.learner import Learner
from cmt_memory.training.units import AnswerUnit

_FLOOR = 1e-3
"""What a direction without any gradient counts, beside the mean of all."""


class _Whole(nn.Module):
    """Leaves slots as they are, in place of the map to the latent."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def down_block(self, part: Tensor, offset: int) -> Tensor:
        """One layer's part `[.., w]` at its place in the full slot `[.., width]`."""
        return nn.functional.pad(part, (offset, self.width - offset - part.shape[-1]))


class _Watched(Learner):
    """Keeps the memories it makes, so that the loss leaves its gradient at them."""

    def __init__(self, model: CMTModel, batch_tokens: int) -> None:
        super().__init__(model, Objectives(), batch_tokens)
        self.made: list[Memory] = []

    def compress(self, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `Learner.compress`."""
        with torch.no_grad():
            found = super().compress(documents)
        self.made = [Memory(m.slots.detach().requires_grad_(), m.positions, m.n_tokens) for m in found]
        return self.made


def weigh_maps(model: CMTModel, units: Sequence[AnswerUnit], batch_tokens: int) -> None:
    """Let the maps to the latent and back keep the directions of a slot in which the answers' loss is steep.

    Variance misleads: what a slot varies in most need not be what the LM reads. With g the gradients of the loss at
    full slots x, the maps minimise `E |A (x − x̂)|²` for `A² = E[g gᵀ]` and a floor, which is the loss to second order
    with the empirical Fisher matrix for the Hessian (as for weights in arXiv 2207.00112). In closed form: a PCA of
    `A x`, and its way back by the inverse of A.

    Args:
        model: an `adapted` compressor that has not been trained, and its aligner; both get other maps.
        units: questions with their documents.
        batch_tokens: most document tokens that the compressor reads in one pass.
    """
    compressor, aligner = model.compressor, model.aligner
    assert isinstance(compressor, AdaptedCompressor)
    assert isinstance(aligner, LinearAligner)
    assert isinstance(aligner.projection, LatentUp)
    down, up = compressor.down, aligner.projection
    slots, gradients = _observed(model, units, batch_tokens)
    mean, weight = down.mean.cpu(), down.weight.cpu()
    metric = _Metric(gradients / weight)
    pca = fit_pca(metric.times((slots - mean) * weight), len(down.scale), [len(weight)], scaled=False)
    with torch.no_grad():
        for part, rows in ((down, metric.times(pca.components)), (up, metric.divided(pca.components))):
            length = rows.norm(dim=1).clamp(min=1e-12)
            part.components.copy_(rows / length[:, None])
            part.scale.copy_(pca.scale / length if part is down else pca.scale * length)
        down.bias.copy_(-pca.components @ pca.mean / pca.scale)
        up.bias.copy_(metric.divided(pca.mean[None])[0])


def _observed(model: CMTModel, units: Sequence[AnswerUnit], batch_tokens: int) -> tuple[Tensor, Tensor]:
    """Full slots and the loss's gradients at them, `[n, width]` each, on the CPU."""
    width = model.lm.layout.width
    compressor, down, aligner = model.compressor, model.compressor.down, model.aligner
    most = rows_that_fit(width)
    slots, gradients = [], []
    try:
        compressor.down, model.aligner = _Whole(width), FullAligner()
        watched = _Watched(model, batch_tokens).eval().requires_grad_(False)
        for unit in units:
            watched.answered(unit).backward()
            slots += [memory.slots.detach().cpu() for memory in watched.made]
            gradients += [memory.slots.grad.cpu() for memory in watched.made if memory.slots.grad is not None]
            if sum(map(len, slots)) >= most:
                break
    finally:
        compressor.down, model.aligner = down, aligner
    return torch.cat(slots)[:most], torch.cat(gradients)[:most]


class _Metric:
    """`A = √(floor·1 + G)`, with G the mean of `g gᵀ` over gradients `[n, width]`, scaled to a mean diagonal of 1.

    Only the directions that gradients have are kept, and A is never written out.
    """

    def __init__(self, gradients: Tensor) -> None:
        rows = gradients / gradients.square().mean().sqrt().clamp(min=1e-30) / len(gradients) ** 0.5
        _, values, self._directions = torch.linalg.svd(rows, full_matrices=False)
        self._stretch = (values.square() + _FLOOR).sqrt()

    def times(self, rows: Tensor) -> Tensor:
        """`[n, width]` rows times A."""
        return self._along(rows, _FLOOR**0.5, self._stretch)

    def divided(self, rows: Tensor) -> Tensor:
        """`[n, width]` rows times the inverse of A."""
        return self._along(rows, _FLOOR**-0.5, 1 / self._stretch)

    def _along(self, rows: Tensor, elsewhere: float, stretch: Tensor) -> Tensor:
        more: Tensor = ((rows @ self._directions.T) * (stretch - elsewhere)) @ self._directions
        return elsewhere * rows + more
