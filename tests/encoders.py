"""Tiny real text encoders, saved in a folder, and CMT models with the paper's parts around a tiny LM."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast, T5Config, T5EncoderModel

from cmt_memory import CMTModel
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.parts import start_parts
from tests.tiny import DOCUMENTS, redraw, tokenizer

TEXTS = [" ".join(DOCUMENTS * 3), " ".join(reversed(DOCUMENTS * 3))]
SLOTS = 5


def save_encoder(folder: Path, kind: str = "t5") -> Path:
    """A tiny T5 encoder, or a tiny BERT, with a tokenizer."""
    torch.manual_seed(0)
    if kind == "t5":
        model = T5EncoderModel(
            T5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, pad_token_id=1)
        )
    else:
        model = BertModel(
            BertConfig(
                vocab_size=512,
                hidden_size=32,
                intermediate_size=48,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=40,
            )
        )
    redraw(model).save_pretrained(folder)
    made = PreTrainedTokenizerFast(tokenizer_object=tokenizer().backend_tokenizer, pad_token="</s>")
    made.save_pretrained(folder)
    return folder


def settings(encoder: Path | str, *, across: bool = True, **changes: object) -> dict:
    """Settings of the paper's parts, as YAML and `CMTConfig` take them."""
    reads = {"model": str(encoder), "slots": SLOTS, "blocks": 1, "heads": 2, "head_size": 8} | changes
    made = {"compressor": "encoder", "encoder": reads, "prefix": {"positions": 2, "hidden": 24}}
    if across:
        made |= {
            "aggregator": "cross_attention",
            "cross_attention": {"blocks": 2, "heads": 2, "head_size": 8, "documents": 3},
        }
    return made


def paper_model(base: CMTModel, encoder: Path | str, *, latent: int = 24, across: bool = True, **changes: object):
    """A model with the paper's parts around the LM of another."""
    values = base.config.model_dump() | {"latent": latent} | settings(encoder, across=across, **changes)
    config = CMTConfig.model_validate(values)
    parts = start_parts(base.lm, config, (1,), TEXTS)
    return CMTModel(base.lm, config, parts.compressor, parts.aggregator, parts.aligner)
