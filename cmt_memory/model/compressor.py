"""Θ: documents to memories. A compressor reads token ids with the LM and leaves k slots of each document."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmt_memory.model.capture import Rotation
from cmt_memory.model.latent import Projection
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory


class Compressor(nn.Module, ABC):
    """Interface of every compressor; trained ones add parameters, nothing else changes.

    `trained` says whether it has to be trained before it is of use.
    """

    name: ClassVar[str]
    trained: ClassVar[bool] = False

    @property
    def identity(self) -> str:
        """What makes memories beside the compressor's tensors, for the fingerprint."""
        return self.name

    def learns(self, everything: bool) -> Iterator[nn.Parameter]:
        """The parameters that training changes.

        Args:
            everything: those of the reader too, not only of the maps from what it reads to slots.
        """
        return iter(())

    @property
    def precise(self) -> tuple[str, ...]:
        """Parameters by the first part of their name that are saved in float32, whatever the others are saved in."""
        return ()

    @contextmanager
    def at(self, ratio: int) -> Iterator[None]:
        """Compress at another ratio inside; without effect where every document gets the same number of slots."""
        yield

    @abstractmethod
    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """Compress one batch.

        Args:
            lm: the frozen LM.
            documents: token ids of each document, its trailing blank line included; at least one token each.

        Returns:
            One memory a document, in order, on the LM's device.
        """


class ReadingCompressor(Compressor):
    """What the compressors share that keep the frozen LM's own keys and values.

    Every document is read after the prompt's head, and the head's rows are dropped. Documents of a batch are
    padded on the right, where a causal LM cannot see the padding.

    Args:
        ratio: document tokens per slot, at least 1.
        projection: from full slots to latent ones; None keeps them whole.
    """

    def __init__(self, ratio: int, projection: Projection | None = None) -> None:
        super().__init__()
        self.ratio = ratio
        self.projection = projection

    @contextmanager
    def at(self, ratio: int) -> Iterator[None]:
        """See `Compressor.at`."""
        before, self.ratio = self.ratio, ratio
        try:
            yield
        finally:
            self.ratio = before

    def n_slots(self, n_tokens: int) -> int:
        """How many slots a document gets: ⌈n / ratio⌉."""
        return math.ceil(n_tokens / self.ratio)

    def _project(self, part: Tensor, offset: int, total: Tensor | None, width: int) -> Tensor:
        """Add one layer's `[B, k, w]` part to the batch's slots, which are built layer by layer."""
        if self.projection is not None:
            latent = self.projection.down_block(part, offset)
            return latent if total is None else total.add_(latent)
        if total is None:
            total = part.new_empty(*part.shape[:-1], width)
        total[..., offset : offset + part.shape[-1]] = part
        return total


class PooledCompressor(ReadingCompressor):
    """Mean of the keys, before rotary embedding, and values of `ratio` neighbouring positions, in all layers.

    At ratio 1 it keeps every position as it is. A slot stands in the middle of its span.
    """

    name = "pooled"

    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `Compressor.compress`; one pass of the LM, reduced layer by layer."""
        ids, lengths = pad_after_head(lm, documents)
        head = len(lm.prompt.head_ids)
        slots: Tensor | None = None

        def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
            nonlocal slots
            keys = lm.unplaced_keys(keys, rotation)[:, :, head:]
            rows = lm.layout.flatten(keys, values[:, :, head:]).to(lm.device)
            if self.ratio > 1:
                rows = pool(rows.float(), lengths, self.ratio)
            slots = self._project(rows, lm.layout.offsets[layer], slots, lm.layout.width)

        lm.read(ids, on_layer)
        assert slots is not None
        return [
            Memory(slots[row, : self.n_slots(n)].clone(), span_positions(n, self.ratio), n)
            for row, n in enumerate(lengths.tolist())
        ]


class KeptCompressor(ReadingCompressor):
    """The ⌈n / ratio⌉ positions that matter most, kept as they are, in all layers at once.

    A position matters as much as the positions after it look back at it on average, over all heads and layers
    (accumulated attention as in H2O, arXiv 2306.14048, divided by how many can look; one choice of positions for all
    layers because a slot spans them). Where queries cannot be read (no rotary embedding), positions with small keys
    are kept (Devoto et al., arXiv 2406.11430).
    """

    name = "kept"

    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `Compressor.compress`; one pass of the LM, whose attention is worked out once more beside it."""
        ids, lengths = pad_after_head(lm, documents)
        head = len(lm.prompt.head_ids)
        rows: Tensor | None = None
        scores = torch.zeros(len(documents), int(lengths.max()), device=lm.device)

        def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
            nonlocal rows
            kept = lm.unplaced_keys(keys, rotation)[:, :, head:]
            part = lm.layout.flatten(kept, values[:, :, head:]).to(lm.device)
            if rows is None:
                rows = part.new_empty(*part.shape[:2], lm.layout.width)
            offset = lm.layout.offsets[layer]
            rows[..., offset : offset + part.shape[-1]] = part
            for row, n in enumerate(lengths.tolist()):
                queries = None if rotation is None else rotation.rotated_queries[row, :, : head + n]
                scores[row, :n] += attention_received(keys[row, :, : head + n], queries)[head:].to(scores)

        lm.read(ids, on_layer)
        assert rows is not None
        memories = []
        for row, n in enumerate(lengths.tolist()):
            chosen = scores[row, :n].topk(self.n_slots(n)).indices.sort().values
            slots = rows[row, chosen]
            if self.projection is not None:
                slots = self.projection.down(slots)
            memories.append(Memory(slots, chosen.float(), n))
        return memories


def attention_received(keys: Tensor, queries: Tensor | None) -> Tensor:
    """How much `[n]` positions are looked at by themselves and those after them, or how small their keys are.

    Args:
        keys: `[H, n, D]`, as the LM attends to them.
        queries: `[Hq, n, D']` likewise, D' < D where a model rotates a part of each head on its own; None if unknown.
    """
    if queries is None:
        sizes: Tensor = keys.float().norm(dim=-1).mean(0)
        return -sizes
    seen = keys[..., : queries.shape[-1]].repeat_interleave(queries.shape[0] // keys.shape[0], dim=0).float()
    n = keys.shape[1]
    future = torch.ones(n, n, dtype=torch.bool, device=keys.device).triu(1)
    logits = queries.float() @ seen.transpose(1, 2) / math.sqrt(queries.shape[-1])
    received: Tensor = logits.masked_fill(future, -torch.inf).softmax(-1).sum((0, 1))
    return received / torch.arange(n, 0, -1, device=keys.device)


def pad_after_head(lm: FrozenLM, documents: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Head + document ids `[B, h + n]`, right-padded, and the documents' lengths `[B]`."""
    lengths = torch.tensor([len(document) for document in documents])
    head = list(lm.prompt.head_ids)
    ids = torch.full((len(documents), len(head) + int(lengths.max())), head[-1])
    for row, document in enumerate(documents):
        ids[row, : len(head) + len(document)] = torch.tensor(head + list(document))
    return ids, lengths


def pool(rows: Tensor, lengths: Tensor, ratio: int) -> Tensor:
    """Mean of `[B, n, w]` rows over spans of `ratio` positions, `[B, ⌈n/ratio⌉, w]`; padding does not count."""
    batch, n, width = rows.shape
    spans = math.ceil(n / ratio)
    inside = torch.arange(spans * ratio, device=rows.device)[None] < lengths.to(rows.device)[:, None]
    rows = nn.functional.pad(rows, (0, 0, 0, spans * ratio - n)) * inside[..., None]
    counts = inside.view(batch, spans, ratio).sum(-1).clamp(min=1)
    sums: Tensor = rows.view(batch, spans, ratio, width).sum(2)
    means: Tensor = sums / counts[..., None]
    return means


def span_positions(n_tokens: int, ratio: int) -> Tensor:
    """The middle `[k]` of each span of `ratio` tokens (arXiv 2409.14364); the last span may be shorter."""
    starts = torch.arange(0, n_tokens, ratio, dtype=torch.float32)
    return (starts + (starts + ratio).clamp(max=n_tokens) - 1) / 2
