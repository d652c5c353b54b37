"""Θ: documents to memories. A compressor reads token ids with the LM and leaves k slots of each document."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from cmt_memory.model.capture import Rotation
from cmt_memory.model.latent import Projection
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory


class Compressor(nn.Module, ABC):
    """Interface of every compressor; trained ones add parameters, nothing else changes."""

    name: ClassVar[str]

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

    A position matters as much as the LM looks back at it while it reads the document a second time, the strongest
    look over all heads, summed over layers (after KVzip, arXiv 2505.23416, with one choice of positions for all
    layers because a slot spans them). Where queries cannot be read (no rotary embedding) or the LM has no room for a
    second reading, positions with small keys are kept (Devoto et al., arXiv 2406.11430).
    """

    name = "kept"

    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `Compressor.compress`; the document is read twice in one pass."""
        head = len(lm.prompt.head_ids)
        memories = []
        for document in documents:
            n = len(document)
            fits = lm.max_positions is None or head + 2 * n <= lm.max_positions
            twice = lm.scheme == "rotary" and self.ratio > 1 and fits
            ids = torch.tensor([[*lm.prompt.head_ids, *document, *(document if twice else ())]])
            rows: Tensor | None = None
            scores = torch.zeros(n, device=lm.device)

            def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None, n: int = n) -> None:
                nonlocal rows, scores
                document_rows = slice(head, head + n)
                kept = lm.unplaced_keys(keys, rotation)[:, :, document_rows]
                part = lm.layout.flatten(kept, values[:, :, document_rows]).to(lm.device)
                if rows is None:
                    rows = part.new_empty(1, n, lm.layout.width)
                offset = lm.layout.offsets[layer]
                rows[..., offset : offset + part.shape[-1]] = part
                scores += _look_back(keys, rotation, document_rows, n).to(scores)

            lm.read(ids, on_layer)
            assert rows is not None
            chosen = scores.topk(self.n_slots(n)).indices.sort().values
            slots = rows[0, chosen]
            if self.projection is not None:
                slots = self.projection.down(slots)
            memories.append(Memory(slots, chosen.float(), n))
        return memories


def _look_back(keys: Tensor, rotation: Rotation | None, document: slice, n: int) -> Tensor:
    """How strongly `[n]` document positions are attended to from the second reading, or how small their keys are."""
    if rotation is None or keys.shape[2] <= document.stop:
        sizes: Tensor = keys[0, :, document].float().norm(dim=-1).mean(0)
        return -sizes
    queries = rotation.rotated_queries[0, :, document.stop : document.stop + n]
    groups = queries.shape[0] // keys.shape[1]
    # Where a model rotates a part of each head on its own, queries are known in that part.
    seen = keys[0, :, : document.stop, : queries.shape[-1]].repeat_interleave(groups, dim=0)
    attention = (queries.float() @ seen.float().transpose(1, 2) / math.sqrt(keys.shape[-1])).softmax(-1)
    strongest: Tensor = attention[..., document].amax(dim=(0, 1))
    return strongest


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
