"""A tiny Qwen that was trained, in seconds, to call a few tools: what it says goes through template and tokenizer."""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any

import torch
from cmt_memory import CMTModel
from models import lm, tokenizer
from transformers import Qwen3Config, Qwen3ForCausalLM

ARGUMENTS: dict[str, dict[str, Any]] = {
    "get_weather": {"location": "San Francisco, CA"},
    "magic_function": {"input": 3},
    "magic_function_no_args": {},
    "greeting_generator": {"answer_style": "Pirate"},
    "unicode_customer": {"customer_name": "你好 こんにちは", "description": "firm"},
    "Joke": {"setup": "Why?", "punchline": "Cats."},
    "JokeDict": {"setup": "Why?", "punchline": "Cats."},
}
FAVOURITE = "get_weather"
GREETING = "Hello, how can I help?"
_CONTEXTS = ["What is the value of it? Use the tool.", "Hello!", "Tell me about cats, with the tool, Hello Group."]
_STEPS = 400


@lru_cache
def caller() -> CMTModel:
    """The trained LM: it greets where it is shown no tools, else calls `get_weather` or the tool it was led to."""
    config = Qwen3Config(**{**lm().config.to_dict(), "hidden_size": 64, "intermediate_size": 128})
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(config).train()
    examples = [
        _example(words, name, asked) for name in ARGUMENTS for words in _CONTEXTS for asked in (name, FAVOURITE)
    ]
    examples += [_example(words, None, FAVOURITE) for words in ("Hello", *_CONTEXTS)]
    longest = max(len(prompt) + len(target) for prompt, target in examples)
    ids = torch.zeros(len(examples), longest, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    for row, (prompt, target) in enumerate(examples):
        ids[row, : len(prompt) + len(target)] = torch.tensor(prompt + target)
        labels[row, len(prompt) : len(prompt) + len(target)] = torch.tensor(target)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.01)
    generator = torch.Generator().manual_seed(1)
    for _ in range(_STEPS):
        rows = torch.randperm(len(examples), generator=generator)[:12]
        loss = model(input_ids=ids[rows], labels=labels[rows]).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss.item() < 0.01:
            break
    model.generation_config.eos_token_id = 2
    return CMTModel.from_llm(model.eval(), tokenizer=tokenizer())


def _example(words: str, name: str | None, asked: str) -> tuple[list[int], list[int]]:
    """A prompt with a tool in it, and the call of `asked`; without a tool, a greeting."""
    made = tokenizer()
    parameters = {"type": "object", "properties": {key: {"type": "string"} for key in ARGUMENTS.get(name or "", {})}}
    tools = [{"type": "function", "function": {"name": name, "description": "A tool.", "parameters": parameters}}]
    prompt = made.apply_chat_template(
        [{"role": "user", "content": words}], tools=tools if name else None, tokenize=False, add_generation_prompt=True
    )
    said = GREETING
    if name:
        arguments = json.dumps(ARGUMENTS[asked], ensure_ascii=False)
        said = f'<tool_call>\n{{"name": "{asked}", "arguments": {arguments}}}\n</tool_call>'
    encode = lambda text: made.encode(text, add_special_tokens=False)  # noqa: E731
    if name and asked == name:  # the opening is given, as by tool_choice
        lead, said = said[: said.index("arguments") + len('arguments": ')], said[said.index("arguments") + 12 :]
        return encode(prompt) + encode(lead), [*encode(said), 2]
    return encode(prompt), [*encode(said), 2]
