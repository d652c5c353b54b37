"""A tiny Qwen-shaped model with and without a chat template, and texts to remember."""

from __future__ import annotations

import torch
from cmt_memory import CMTModel
from llama_index.core.schema import NodeRelationship, ObjectType, RelatedNodeInfo, TextNode
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

TEXTS = [
    "Mara Velt keeps the blue locker. The code of the blue locker is 4471.",
    "The harbour of Port Alder was rebuilt in 1932 after the great storm.",
    "My favourite pizza is margherita with basil.",
    "Ada Lovelace was born in 1815 in London.",
    "The shop opens at 9:30 and closes at 18:00.",
    "Le café du coin ouvre à sept heures.",
]
QUESTION = "What is the code of the blue locker?"
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'assistant' %}<|assistant|>{{ m.content }}</s>"
    "{% elif m.role == 'user' %}<|user|>{{ m.content }}</s>{% else %}{{ m.content }}\n{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def nodes(**changes: object) -> list[TextNode]:
    """A node a text, two of them of each source document."""
    return [
        TextNode(
            id_=f"n{number}",
            text=text,
            metadata={"number": number, "even": number % 2 == 0, "tags": ["all", f"t{number % 3}"]},
            relationships={
                NodeRelationship.SOURCE: RelatedNodeInfo(
                    node_id=f"source{number // 2}", node_type=ObjectType.DOCUMENT, metadata={"pages": 3}
                )
            },
            **changes,
        )
        for number, text in enumerate(TEXTS)
    ]


def tiny_model(*, chat: bool, **settings: object) -> CMTModel:
    """A CMT model around a tiny random LM, whose answers depend on every position of its input."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<s>", "</s>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator([*TEXTS, QUESTION], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")
    if chat:
        tokenizer.chat_template = TEMPLATE
    config = Qwen3Config(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        max_position_embeddings=4096,
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    lm = Qwen3ForCausalLM(config)
    generator = torch.Generator().manual_seed(7)
    for name, parameter in sorted(lm.named_parameters()):
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.15, generator=generator)
        elif "norm" not in name:
            parameter.data.normal_(0, 0.02, generator=generator)
    lm.generation_config.eos_token_id = 511  # an answer that ends at once would make every comparison true
    return CMTModel.from_llm(lm.eval(), tokenizer=tokenizer, **settings)
