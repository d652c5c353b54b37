"""A LlamaIndex memory block over a store of compressed memories."""

from llama_index.memory.cmt.base import CMTMemoryBlock

__all__ = ["CMTMemoryBlock"]
