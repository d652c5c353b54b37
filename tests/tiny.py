"""Tiny real transformers models and tokenizers, made on the spot: nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from cmt_memory import CMTModel

CORPUS = [
    "Mara Velt keeps the blue locker. Its code is 4471.\n\nThe red locker belongs to Tom Okri; its code is 9032.",
    "The shop opens at 9:30 and closes at 18:00.\n\nOn Sundays it is closed.",
    "def area(width, height):\n    return width * height\n\nRaises ValueError if a side is negative.",
    "Who keeps the blue locker? What is the code of the red locker? When does the shop open?",
]
DOCUMENTS = [
    "Mara Velt keeps the blue locker. Its code is 4471, and she changes it on Mondays.",
    "The shop opens at 9:30. Tom Okri has the red locker.",
    "On Sundays it is closed.",
]
QUESTION = "What is the code of the blue locker?"

ROTARY = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 512,
    "pad_token_id": None,
}
GEMMA = {"sliding_window": 16, "query_pre_attn_scalar": 8}
FAMILIES: dict[str, dict] = {
    "gpt2": {"model_type": "gpt2", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512},
    "llama": {"model_type": "llama", **ROTARY},
    "llama-mqa": {"model_type": "llama", **ROTARY, "num_key_value_heads": 1},
    "llama-tied": {"model_type": "llama", **ROTARY, "tie_word_embeddings": True},
    "qwen2": {"model_type": "qwen2", **ROTARY},
    "qwen3": {"model_type": "qwen3", **ROTARY},
    "mistral": {"model_type": "mistral", **ROTARY, "sliding_window": 16},
    "gemma2": {"model_type": "gemma2", **ROTARY, **GEMMA},
    "gemma3": {"model_type": "gemma3_text", **ROTARY, **GEMMA, "sliding_window_pattern": 2},
    "phi3": {"model_type": "phi3", **ROTARY},
    "olmo2": {"model_type": "olmo2", **ROTARY},
    "opt": {
        "model_type": "opt",
        "hidden_size": 32,
        "word_embed_proj_dim": 32,
        "ffn_dim": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "gpt-neox": {
        "model_type": "gpt_neox",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    },
    "bloom": {"model_type": "bloom", "hidden_size": 32, "n_layer": 3, "n_head": 4},
    "smollm3": {"model_type": "smollm3", **ROTARY, "num_hidden_layers": 4, "no_rope_layer_interval": 2},
}
OTHERS: dict[str, dict] = {
    "stablelm": {"model_type": "stablelm", **ROTARY},
    "gptj": {"model_type": "gptj", "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 512, "rotary_dim": 4},
    "gpt-neo": {
        "model_type": "gpt_neo",
        "hidden_size": 32,
        "num_layers": 2,
        "num_heads": 4,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": 512,
    },
    "llama4": {
        "model_type": "llama4_text",
        **ROTARY,
        "attention_chunk_size": 16,
        "num_hidden_layers": 4,
        "intermediate_size_mlp": 48,
        "num_local_experts": 4,
    },
    "deepseek-v3": {
        "model_type": "deepseek_v3",
        **{k: v for k, v in ROTARY.items() if k != "head_dim"},
        "num_key_value_heads": 4,
        "kv_lora_rank": 16,
        "q_lora_rank": 16,
        "qk_nope_head_dim": 8,
        "qk_rope_head_dim": 4,
        "v_head_dim": 6,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "n_group": 1,
        "topk_group": 1,
        "moe_intermediate_size": 16,
    },
    "mpt": {"model_type": "mpt", "d_model": 32, "n_layers": 3, "n_heads": 4, "max_seq_len": 512},
}
"""Architectures that are not in the matrix, each with a trait of its own."""
HYBRIDS: dict[str, dict] = {
    "mamba": {"model_type": "mamba", "hidden_size": 32, "num_hidden_layers": 2, "state_size": 4},
    "qwen3-next": {
        "model_type": "qwen3_next",
        **ROTARY,
        "num_hidden_layers": 4,
        "num_experts": 2,
        "num_experts_per_tok": 1,
        "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 2,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,
    },
    "recurrent-gemma": {
        "model_type": "recurrent_gemma",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "lru_width": 32,
    },
    "lfm2": {
        "model_type": "lfm2",
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "layer_types": ["conv", "full_attention", "conv"],
    },
}


@lru_cache
def tokenizer(kind: str = "plain") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer.

    `plain`: nothing special. `merged`: has one token for ".\\n\\n", as some real tokenizers do. `spaced`: puts a
    space before every text it encodes. `chat`: `plain` with a chat template. `no-bos`: only an end-of-text token.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "spaced", use_regex=kind != "merged")
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(CORPUS, trainer)
    if kind == "merged":
        core.add_tokens([AddedToken(".\n\n", normalized=False)])
    special = {"eos_token": "</s>"} if kind == "no-bos" else {"bos_token": "<s>", "eos_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=core, **special)
    if kind == "chat":
        made.chat_template = (
            "{{ bos_token }}{% for m in messages %}"
            "{% if m.role == 'assistant' %}<|assistant|>{{ m.content }}</s>"
            "{% elif m.role == 'system' %}{{ m.content }}\n{% else %}<|user|>{{ m.content }}</s>{% endif %}"
            "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
        )
    return made


def redraw(model: PreTrainedModel, std: float = 0.15) -> PreTrainedModel:
    """Draw every weight anew, wide enough that the output depends on each position of the input."""
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if parameter.dim() > 1:
            parameter.data.normal_(0, std, generator=generator)
        elif "norm" not in name and "ln" not in name:
            parameter.data.normal_(0, 0.02, generator=generator)
    return model.eval()


def tiny_lm(family: str, vocabulary: int = 512, **overrides: object) -> PreTrainedModel:
    """A tiny model of one architecture, random but far from constant."""
    settings = {**FAMILIES, **OTHERS, **HYBRIDS}[family] | {
        "vocab_size": vocabulary,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    settings = settings | overrides
    config = AutoConfig.for_model(settings.pop("model_type"), **settings)
    torch.manual_seed(0)
    model = redraw(AutoModelForCausalLM.from_config(config))
    # An answer that ends at once would make every comparison trivially true.
    model.generation_config.eos_token_id = vocabulary - 1
    return model


def tiny_model(family: str = "llama", kind: str = "plain", **settings: object) -> CMTModel:
    """A CMT model around a tiny LM."""
    return CMTModel.from_llm(tiny_lm(family), tokenizer=tokenizer(kind), **settings)


def save_tiny(folder: Path, family: str = "llama", kind: str = "plain") -> Path:
    """A tiny LM with its tokenizer in a folder, as a hub id would load it."""
    tiny_lm(family).save_pretrained(folder)
    tokenizer(kind).save_pretrained(folder)
    return folder
