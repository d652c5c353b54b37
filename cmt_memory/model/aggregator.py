"""ψ: the memories found for a question become one, M*."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.attention import CrossAttentionBlock, SlotMLP
from cmt_memory.model.config import CrossAttentionConfig
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory


class Aggregator(nn.Module, ABC):
    """Interface of every aggregator.

    `needs_question` says whether `aggregate` wants the compressed question, which costs a pass of the compressor.
    """

    name: ClassVar[str]
    needs_question: ClassVar[bool] = False

    @abstractmethod
    def aggregate(self, lm: FrozenLM, memories: Sequence[Memory], question: Memory | None = None) -> Memory:
        """Join memories, most relevant first, into one whose positions start after the prompt's head.

        Args:
            lm: the frozen LM, whose position scheme says how documents are placed.
            memories: at least one, in the order their texts would stand in a prompt.
            question: the compressed question, where `needs_question` is True.
        """

    @abstractmethod
    def extent(self, lm: FrozenLM, memories: Sequence[Memory]) -> int:
        """The fewest positions that the slots of M* span, moved together if need be."""

    @abstractmethod
    def n_slots(self, memories: Sequence[Memory]) -> int:
        """How many slots M* has."""

    @property
    def identity(self) -> str:
        """What the fingerprint says beside the aggregator's tensors, if anything."""
        return ""


class CrossAttentionAggregator(Aggregator):
    """The question's slots look at those of all memories and become M*, `[k, d]` however many memories there are.

    Learned positions tell the memories, in the order given, and the slots in each apart (CMT, arXiv 2412.07393;
    blocks as in MAC, arXiv 2403.04317, which has no positions and an encoder of its own for questions: here a
    feed-forward layer of each slot takes the question from the compressor's space to its own).

    Args:
        slots: k, slots of every memory.
        size: d, numbers per slot.
        settings: blocks, heads and positions.
    """

    name = "cross_attention"
    needs_question = True

    def __init__(self, slots: int, size: int, settings: CrossAttentionConfig) -> None:
        super().__init__()
        self.settings = settings
        self.question = SlotMLP(slots, size, size, size)
        self.documents = nn.Parameter(0.02 * torch.randn(settings.documents, size))
        self.places = nn.Parameter(0.02 * torch.randn(slots, size))
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(size, size, settings.heads, settings.head_size) for _ in range(settings.blocks)
        )

    @property
    def identity(self) -> str:
        """Name, and what the tensors do not show."""
        return f"{self.name}(heads={self.settings.heads})"

    def extent(self, lm: FrozenLM, memories: Sequence[Memory]) -> int:
        """See `Aggregator.extent`."""
        return self.n_slots(memories)

    def n_slots(self, memories: Sequence[Memory]) -> int:
        """See `Aggregator.n_slots`."""
        return len(self.places) if memories else 0

    def aggregate(self, lm: FrozenLM, memories: Sequence[Memory], question: Memory | None = None) -> Memory:
        """See `Aggregator.aggregate`.

        Raises:
            InvalidInputError: no question, or a memory with another number of slots.
        """
        if question is None:
            raise InvalidInputError("The aggregator cross_attention needs the question that memories are found for.")
        k = len(self.places)
        for memory in (*memories, question):
            if len(memory.slots) != k:
                raise InvalidInputError(f"A memory of {len(memory.slots)} slots was given, but this model makes {k}.")
        slots = torch.stack([memory.slots.to(self.places) for memory in memories])
        order = torch.arange(len(memories), device=slots.device).clamp(max=len(self.documents) - 1)
        context = (slots + self.documents[order][:, None] + self.places).flatten(0, 1)
        looking = self.question(question.slots.to(self.places)[None])
        for block in self.blocks:
            looking = block(looking, context[None])
        return Memory(looking[0].float(), torch.arange(k, dtype=torch.float32), k)


class ConcatAggregator(Aggregator):
    """Keeps all slots, `[ΣK k, d]`: document after document, as their texts would follow each other.

    With learned positions documents keep the positions they were encoded at, and the question starts after the
    longest of them.
    """

    name = "concat"

    def extent(self, lm: FrozenLM, memories: Sequence[Memory]) -> int:
        """See `Aggregator.extent`."""
        if lm.scheme == "learned":
            return max((memory.n_tokens for memory in memories), default=0)
        return self.n_slots(memories)

    def n_slots(self, memories: Sequence[Memory]) -> int:
        """See `Aggregator.n_slots`."""
        return sum(len(memory.slots) for memory in memories)

    def aggregate(self, lm: FrozenLM, memories: Sequence[Memory], question: Memory | None = None) -> Memory:
        """See `Aggregator.aggregate`."""
        if len(memories) == 1:
            return memories[0]
        positions, start = [], 0
        for memory in memories:
            positions.append(memory.positions + start)
            if lm.scheme != "learned":
                start += memory.n_tokens
        longest = max(memory.n_tokens for memory in memories)
        return Memory(
            torch.cat([memory.slots for memory in memories]),
            torch.cat(positions),
            start or longest,
        )
