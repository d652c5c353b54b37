"""The model: a frozen LM, and compressor, aggregator, aligner and prefix around it."""

from cmt_memory.model.adapted import AdaptedCompressor
from cmt_memory.model.aggregator import Aggregator, ConcatAggregator, CrossAttentionAggregator
from cmt_memory.model.aligner import Aligner, FullAligner, LinearAligner, PrefixAligner
from cmt_memory.model.compressor import Compressor, KeptCompressor, PooledCompressor
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.encoder import EncoderCompressor
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory
from cmt_memory.model.modeling import CMTModel
from cmt_memory.model.prefix import KVPrefix

__all__ = [
    "AdaptedCompressor",
    "Aggregator",
    "Aligner",
    "CMTConfig",
    "CMTModel",
    "Compressor",
    "ConcatAggregator",
    "CrossAttentionAggregator",
    "EncoderCompressor",
    "FrozenLM",
    "FullAligner",
    "KVPrefix",
    "KeptCompressor",
    "LinearAligner",
    "Memory",
    "PooledCompressor",
    "PrefixAligner",
]
