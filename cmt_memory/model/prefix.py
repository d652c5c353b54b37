"""KV*: the head and the memories as the keys and values that stand before a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn.functional import pad
from transformers import DynamicCache

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.aligner import Aligner
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory


@dataclass(frozen=True, slots=True)
class KVPrefix:
    """Keys and values in front of a question, for a batch of questions.

    Attributes:
        layers: one `([B, H, M, Dk], [B, H, M, Dv])` pair for each layer that caches, keys as the LM attends to them.
        mask: `[B, M]` int64, 0 where a shorter row is padded on the left.
        starts: `[B]` int64, the position of each question's first token.
        n_slots: cache positions of each row's memories, the head not counted.
        packed: whether slots were moved together because their spread positions exceed the LM's.
        layer_indices: which layers of the LM `layers` belong to.
    """

    layers: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor
    starts: Tensor
    n_slots: tuple[int, ...]
    packed: bool
    layer_indices: tuple[int, ...]

    def __len__(self) -> int:
        """M, cache positions taken by head and memories."""
        return self.mask.shape[1]

    @property
    def nbytes(self) -> int:
        """Bytes of all keys and values."""
        return sum(t.numel() * t.element_size() for pair in self.layers for t in pair)

    @classmethod
    def stack(cls, prefixes: Sequence[KVPrefix]) -> KVPrefix:
        """Prefixes of one batch as one, shorter rows padded on the left with masked positions."""
        if len(prefixes) == 1:
            return prefixes[0]
        longest = max(map(len, prefixes))
        layers = []
        for pairs in zip(*(prefix.layers for prefix in prefixes), strict=True):
            keys, values = zip(*pairs, strict=True)
            layers.append((_left_padded(keys, longest), _left_padded(values, longest)))
        return cls(
            layers=tuple(layers),
            mask=torch.cat([pad(prefix.mask, (longest - len(prefix), 0)) for prefix in prefixes]),
            starts=torch.cat([prefix.starts for prefix in prefixes]),
            n_slots=tuple(n for prefix in prefixes for n in prefix.n_slots),
            packed=any(prefix.packed for prefix in prefixes),
            layer_indices=prefixes[0].layer_indices,
        )

    def rows(self, chosen: Sequence[int]) -> KVPrefix:
        """Some of the rows in any order, each as often as it is named."""
        if list(chosen) == list(range(len(self.n_slots))):
            return self
        index = torch.tensor(chosen, device=self.mask.device)
        return replace(
            self,
            layers=tuple((k[index.to(k.device)], v[index.to(v.device)]) for k, v in self.layers),
            mask=self.mask[index],
            starts=self.starts[index],
            n_slots=tuple(self.n_slots[row] for row in chosen),
        )

    def to_cache(self, lm: FrozenLM, repeats: int = 1) -> DynamicCache:
        """A new `transformers` cache; the prefix itself is never changed by generation.

        Args:
            lm: the LM that the prefix was made for.
            repeats: copies of every row, for beams or several samples.
        """
        cache = DynamicCache(config=lm.config)
        for index, (keys, values) in zip(self.layer_indices, self.layers, strict=True):
            cache.update(keys, values, index)
        if repeats > 1:
            cache.batch_repeat_interleave(repeats)
        return cache


def assemble(
    lm: FrozenLM,
    aligner: Aligner,
    memories: Sequence[Memory | None],
    *,
    head_ids: tuple[int, ...] | None = None,
    reserve: int = 0,
) -> KVPrefix:
    """Place aggregated memories after the head: one row each, None for a question without memory.

    Args:
        lm: the frozen LM.
        aligner: π.
        memories: `B` aggregated memories or None.
        head_ids: the head, where it is not the one documents were encoded after (a conversation of its own).
        reserve: positions that question and answer will need after the prefix.

    Raises:
        InvalidInputError: head, slots and reserve do not fit into the LM's positions even when packed.
    """
    head = lm.head(head_ids)
    n_head = head[0][0].shape[2]
    placed = [(torch.zeros(0), 0) if memory is None else aligner.places(memory) for memory in memories]
    counts = [len(positions) for positions, _ in placed]
    lengths = [length for _, length in placed]
    packed = lm.scheme == "alibi" or (lm.scheme == "rotary" and _exceeds(lm, n_head + max(lengths) + reserve))
    if packed:
        lengths = counts
    if _exceeds(lm, n_head + max(lengths) + reserve):
        raise InvalidInputError(
            f"{max(lengths)} positions of memory, {n_head} of the prompt's head and {reserve} for question and answer "
            f"exceed the LM's {lm.max_positions}; use fewer memories or a higher ratio."
        )
    mask = torch.zeros(len(memories), n_head + max(counts), dtype=torch.long, device=lm.device)
    for row, count in enumerate(counts):
        mask[row, max(counts) - count :] = 1
    layers = [(k.expand(len(memories), -1, -1, -1), v.expand(len(memories), -1, -1, -1)) for k, v in head]
    if max(counts):
        places = [torch.arange(count) if packed else where for (where, _), count in zip(placed, counts, strict=True)]
        documents = _documents(lm, aligner, memories, places, n_head)
        gaps = torch.tensor([max(counts) - count for count in counts])
        layers = [_join(h, d, gaps) for h, d in zip(layers, documents, strict=True)]
    return KVPrefix(
        layers=tuple(layers),
        mask=mask,
        starts=torch.tensor([n_head + length for length in lengths], device=lm.device),
        n_slots=tuple(counts),
        packed=packed and lm.scheme != "alibi",
        layer_indices=tuple(layer.index for layer in lm.layout.layers),
    )


def _left_padded(parts: Sequence[Tensor], longest: int) -> Tensor:
    return torch.cat([pad(part, (0, 0, longest - part.shape[2], 0)) for part in parts])


def _exceeds(lm: FrozenLM, positions: int) -> bool:
    return lm.max_positions is not None and positions > lm.max_positions


def _documents(
    lm: FrozenLM, aligner: Aligner, memories: Sequence[Memory | None], places: Sequence[Tensor], n_head: int
) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of the memories alone, padded on the left, keys in their places."""
    first = next(memory.slots for memory in memories if memory is not None)
    parts = [first[:0] if memory is None else memory.slots.to(first) for memory in memories]
    most, longest = max(map(len, parts)), max(map(len, places))
    rows = [pad(part, (0, 0, most - len(part), 0)) for part in parts]
    moved = [pad(n_head + place.to(lm.device, torch.float32), (longest - len(place), 0)) for place in places]
    slots, positions = torch.stack(rows).to(lm.device), torch.stack(moved)
    pairs = [
        (keys.to(layer.device), values.to(layer.device))
        for layer, (keys, values) in zip(lm.layout.layers, aligner.align(lm, slots), strict=True)
    ]
    return lm.rotate(pairs, positions)


def _join(head: tuple[Tensor, Tensor], documents: tuple[Tensor, Tensor], gaps: Tensor) -> tuple[Tensor, Tensor]:
    """Head and documents of one layer; in a row that is `gaps` shorter the padding moves in front of the head.

    Windows of sliding-attention layers are counted in cache positions, so nothing may stand between a row's head,
    documents and question.
    """
    joined = [torch.cat([sink, rows], dim=2) for sink, rows in zip(head, documents, strict=True)]
    if not gaps.any():
        return joined[0], joined[1]
    size = head[0].shape[2]
    at = (torch.arange(joined[0].shape[2]) - gaps[:, None]).to(joined[0].device)
    mine = ((at >= 0) & (at < size))[:, None, :, None]
    at = at.clamp(0, size - 1)[:, None, :, None]
    # In one piece, because every assignment to a slice would copy the whole once more on the way back.
    moved = [sink.gather(2, at.expand(-1, sink.shape[1], -1, sink.shape[3])) for sink in head]
    keys, values = (torch.where(mine, sink, whole) for sink, whole in zip(moved, joined, strict=True))
    return keys, values
