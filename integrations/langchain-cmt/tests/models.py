"""Tiny real models and tokenizers, made on the spot: nothing is downloaded."""

from __future__ import annotations

from functools import lru_cache

import torch
from cmt_memory import CMTModel
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

DOCUMENTS = [
    "Mara Velt keeps the blue locker. Its code is 4471, and she changes it on Mondays.",
    "The shop opens at 9:30. Tom Okri has the red locker.",
    "On Sundays it is closed.",
]
QUESTION = "What is the code of the blue locker?"
LONG = "\n\n".join(f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}." for i in range(120))

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
WITH_TOOLS = (
    "{% if tools %}<|im_start|>system\n<tools>{% for t in tools %}\n{{ t | tojson }}{% endfor %}\n</tools><|im_end|>\n"
    "{% endif %}{% for m in messages %}{% if m.role == 'tool' %}<|im_start|>user\n<tool_response>\n{{ m.content }}\n"
    "</tool_response><|im_end|>\n{% else %}<|im_start|>{{ m.role }}\n{{ m.content or '' }}"
    '{% for c in m.tool_calls or [] %}<tool_call>\n{"name": "{{ c.function.name }}", "arguments": '
    "{{ c.function.arguments | tojson }}}\n</tool_call>{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEMPLATES = {"tools": WITH_TOOLS, "plain": PLAIN, "none": None}


def tokenizer(template: str = "tools") -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the special tokens and the shape of Qwen's, and one of the chat templates."""
    made = PreTrainedTokenizerFast(tokenizer_object=_core(), eos_token="<|im_end|>", pad_token="<|endoftext|>")
    made.chat_template = TEMPLATES[template]
    return made


@lru_cache
def _core() -> Tokenizer:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=508,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*DOCUMENTS, LONG, WITH_TOOLS], trainer)
    return core


@lru_cache
def lm() -> Qwen3ForCausalLM:
    """A tiny Qwen3 with weights drawn wide, so that its output depends on each position of the input."""
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).eval()
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(model.named_parameters()):
        if "norm" not in name:
            parameter.data.normal_(0, 0.15, generator=generator)
    model.generation_config.eos_token_id = 511  # an answer that ends at once would make comparisons trivially true
    return model


@lru_cache
def model(template: str = "tools", **settings: object) -> CMTModel:
    """A CMT model around the tiny LM."""
    return CMTModel.from_llm(lm(), tokenizer=tokenizer(template), **settings)
