"""Processes that train one model on a CPU: each computes a batch's gradients and steps its share of the parameters.

Weights and gradients lie in shared memory, so that nothing is sent: a process reads the gradients of all for the
parameters it owns, steps them, and the others see the new weights. Threads would wait for one another's interpreter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class _Barrier(Protocol):
    def wait(self) -> int: ...

    def abort(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Shared:
    """Memory that all processes of a run see.

    Attributes:
        weights: ``[P]`` all parameters, one after the other.
        gradients: ``[W, P]`` those of each process.
        figures: ``[W, F]`` squared norm of the owned gradient, tokens and losses.
        barrier: Where they meet; ``None`` for a single process.
    """

    weights: Tensor
    gradients: Tensor
    figures: Tensor
    barrier: _Barrier | None

    @staticmethod
    def allocate(parameters: int, figures_each: int, workers: int, device: torch.device) -> Shared:
        """Allocate for ``workers`` processes; several need the CPU."""
        weights = torch.zeros(parameters, device=device)
        gradients = torch.zeros(workers, parameters, device=device)
        figures = torch.zeros(workers, figures_each, dtype=torch.float64)
        if workers == 1:
            return Shared(weights, gradients, figures, None)
        for tensor in (weights, gradients, figures):
            tensor.share_memory_()
        return Shared(weights, gradients, figures, torch.multiprocessing.get_context("spawn").Barrier(workers))

    def meet(self) -> None:
        """Wait for the other processes.

        Raises:
            threading.BrokenBarrierError: If one of them has stopped.
        """
        if self.barrier is not None:
            self.barrier.wait()


def views(flat: Tensor, parameters: Sequence[Tensor]) -> list[Tensor]:
    """Cut ``[P]`` into tensors of the parameters' shapes, without copying."""
    parts = flat.split([p.numel() for p in parameters])
    return [part.view(p.shape) for part, p in zip(parts, parameters, strict=True)]
