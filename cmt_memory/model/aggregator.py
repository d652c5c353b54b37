"""ψ: the memories found for a question become one, M*."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import nn

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
        """The fewest positions that these memories take after the head, moved together if need be."""


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
