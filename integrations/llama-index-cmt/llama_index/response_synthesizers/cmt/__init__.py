"""A LlamaIndex response synthesizer that injects memories of the nodes instead of their text."""

from llama_index.response_synthesizers.cmt.base import CMTSynthesizer, as_query_engine

__all__ = ["CMTSynthesizer", "as_query_engine"]
