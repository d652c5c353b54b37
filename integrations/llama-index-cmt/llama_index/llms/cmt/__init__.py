"""A LlamaIndex LLM that answers with memories in front of the question instead of text in the prompt."""

from llama_index.llms.cmt.base import CMTLLM

__all__ = ["CMTLLM"]
