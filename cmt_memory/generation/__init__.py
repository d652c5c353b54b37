"""Generation: the LM wrapper that completes, streams, batches and chats with memories as prefix."""

from cmt_memory.generation.generator import CMTGenerator, MemorySource
from cmt_memory.generation.request import Completion

__all__ = ["CMTGenerator", "Completion", "MemorySource"]
