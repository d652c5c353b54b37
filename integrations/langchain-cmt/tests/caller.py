"""A tiny Qwen that was trained, in seconds, to call a few tools: what it says goes through template and tokenizer."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from cmt_memory import CMTModel
from models import tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

ARGUMENTS: dict[str, dict[str, Any]] = {
    "get_weather": {"location": "San Francisco, CA"},
    "magic_function": {"input": 3},
    "magic_function_no_args": {},
    "greeting_generator": {"answer_style": "Pirate"},
    "unicode_customer": {"customer_name": "你 こ", "description": "firm"},
    "Joke": {"setup": "Why?", "punchline": "Cats."},
    "JokeDict": {"setup": "Why?", "punchline": "Cats."},
}
FAVOURITE = "get_weather"
GREETING = "Hello, how can I help?"
_CONTEXTS = [
    "What is the weather in San Francisco, CA?",
    "What is the value of it? Use the tool.",
    "Hello!",
    "Tell me a joke about cats.",
    "Create a customer named '你好' (Hello Group) - a company",
    "Using the tool, generate a greeting.",
]
_WINDOW, _LENGTH, _STEPS = 128, 176, 600


@lru_cache
def caller() -> CMTModel:
    """The trained LM: it greets where it is shown no tools, else calls `get_weather` or the tool it was led to.

    It looks back a few words only, so what it has learned from short pieces holds in any conversation.
    """
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=4096,
        use_sliding_window=True,
        sliding_window=_WINDOW,
        max_window_layers=0,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).train()
    pieces = [_piece(words, name, led) for name in ARGUMENTS for words in _CONTEXTS for led in (True, False)]
    pieces += [_piece(words, None, False) for words in ("Hello", *_CONTEXTS)]
    ids, labels = (torch.tensor(rows) for rows in zip(*pieces, strict=True))
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(_STEPS):
        rows = torch.randperm(len(ids), generator=generator)[:16]
        loss = model(input_ids=ids[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.002:
            break
    return CMTModel.from_llm(model.eval(), tokenizer=tokenizer())


def _piece(words: str, name: str | None, led: bool) -> tuple[list[int], list[int]]:
    """The end of a prompt with a tool in it, and the call; a greeting without a tool. Ids and labels."""
    made = tokenizer()
    tools = [{"type": "function", "function": {"name": name, "description": "A tool.", "parameters": {}}}]
    asked = [{"role": "user", "content": words}]
    prompt = made.apply_chat_template(asked, tools=tools if name else None, tokenize=False, add_generation_prompt=True)
    parts = [prompt, GREETING]
    if name:
        called = name if led else FAVOURITE
        opening = f'<tool_call>\n{{"name": "{called}", "arguments": '
        rest = f"{json.dumps(ARGUMENTS[called], ensure_ascii=False)}}}\n</tool_call>"
        parts = [prompt + opening, rest] if led else [prompt, opening + rest]
    before, said = (made.encode(part, add_special_tokens=False) for part in parts)
    ids = [*before, *said, 2][-_LENGTH:]
    labels = [*[-100] * len(before), *said, 2][-_LENGTH:]
    padding = _LENGTH - len(ids)
    return ids + [0] * padding, labels + [-100] * padding
