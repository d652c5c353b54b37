"""Initial weights that already copy: heads that look back, and heads that match what those found.

Forming such a pair takes a small model most of a short training run (induction heads, arXiv 2209.11895), and
reading out a value waits for it. The weights are ordinary initial values, free to change from the first step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from torch import Tensor
from transformers import LlamaForCausalLM
from transformers.models.llama.modeling_llama import LlamaAttention

EMBEDDING = 0.05
"""Standard deviation of initial embeddings: a state that equals one makes its token likely from the start."""
CONSTANT = 15.0
"""Embedding dimension 0 of every token, which heads score positions by, in standard deviations of an embedding."""
FOUND, WRITTEN = 2.5, 10.0
"""How strongly the look-back heads and the others write what they find, likewise."""
SLOW = 0.006
"""Rotary frequencies below this, in radians a token, hardly turn over a document: contents are compared on them."""


@torch.no_grad()
def redraw(model: LlamaForCausalLM) -> None:
    """Draw a Llama anew, wide enough that attention is not flat and embeddings can be told apart.

    Every matrix of a layer gets a variance of one over its inputs; embeddings get ``EMBEDDING``.
    """
    model.model.embed_tokens.weight.normal_(0, EMBEDDING)
    for layer in model.model.layers:
        for module in layer.modules():
            if isinstance(module, torch.nn.Linear):
                module.weight.normal_(0, module.in_features**-0.5)


@torch.no_grad()
def seed_copying(model: LlamaForCausalLM, readers: Mapping[int, Collection[int]] | None = None) -> None:
    """Write two look-back heads into layer 0 and two matching heads into layer 1 of a freshly initialised Llama.

    The heads of layer 0 find the token one and two positions earlier by their rotary phases alone and write a
    projection of it where no embedding reaches. One head of layer 1 looks for places that follow the current token,
    another for those that follow the last two; both write what stands there.

    Args:
        model: The LM.
        readers: Heads by layer that shall write what they look at, wherever that comes to be.
            Heads which share a value projection write the same of it.

    Raises:
        ValueError: If the model has fewer than two layers, two KV heads, or is too narrow.
    """
    config = model.config
    attentions = [layer.self_attn for layer in model.model.layers]
    width, size = config.hidden_size, attentions[0].head_dim
    heads = config.num_attention_heads
    groups = heads // attentions[0].num_key_value_groups
    free, per_group = 1 + 2 * size, heads // groups
    if len(attentions) < 2 or groups < 2 or width - free < size:
        raise ValueError("seed_copying needs 2 layers, 2 KV heads and a width of 4 heads.")
    frequencies = model.model.rotary_emb.inv_freq.float().cpu()
    slow = torch.nonzero(frequencies < SLOW).flatten()
    slow = torch.cat((slow, slow + size // 2))
    compared = len(slow)
    embedding = model.model.embed_tokens.weight
    scale = float(embedding.std())
    embedding[:, :free] = 0
    embedding[:, 0] = CONSTANT * scale
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    read = _projection(size, width, free)
    found = [torch.zeros(size, width) for _ in range(2)]
    for back, buffer in enumerate(found):
        buffer[:, 1 + back * size : 1 + (back + 1) * size] = torch.eye(size)

    first, second = attentions[:2]
    for back, buffer in enumerate(found):
        angles = -(back + 1) * frequencies
        query, key, value = (
            _rows(weight, index, size)
            for weight, index in (
                (first.q_proj.weight, back),
                (first.k_proj.weight, back // per_group),
                (first.v_proj.weight, back // per_group),
            )
        )
        query.zero_()
        key.zero_()
        query[:, 0] = 0.6 * torch.cat((angles.cos(), angles.sin()))
        key[: size // 4, 0] = 0.6
        value.copy_(read)
        first.o_proj.weight[:, back * size : (back + 1) * size] = FOUND * scale * buffer.T

    half = compared // 2
    for group, (asked, kept) in enumerate(
        (
            (read[:compared], found[0][:compared]),
            (torch.cat((read[:half], found[0][:half])), torch.cat((found[0][:half], found[1][:half]))),
        )
    ):
        head = group * per_group
        query, key = _rows(second.q_proj.weight, head, size), _rows(second.k_proj.weight, group, size)
        query.zero_()
        key.zero_()
        query[slow[: len(asked)]] = 3.0 * asked
        key[slow[: len(kept)]] = 3.0 * kept
        _rows(second.v_proj.weight, group, size).copy_(read)
        _write_out(second, head, size, WRITTEN * scale)

    for layer, chosen in (readers or {}).items():
        for group in {head // per_group for head in chosen}:
            if layer != 1:
                _rows(attentions[layer].v_proj.weight, group, size).copy_(_projection(size, width, free))
        for head in chosen:
            _write_out(attentions[layer], head, size, WRITTEN * scale)


def _projection(size: int, width: int, free: int) -> Tensor:
    """Return a random ``[size, width]`` projection with orthonormal rows that leaves out the first ``free`` inputs."""
    projection = torch.zeros(size, width)
    projection[:, free:] = torch.linalg.qr(torch.randn(width - free, size)).Q.T
    return projection


def _write_out(attention: LlamaAttention, head: int, size: int, strength: float) -> None:
    """Let a head write, where it is, what it finds of an embedding where it looks."""
    read = _rows(attention.v_proj.weight, head // attention.num_key_value_groups, size)
    attention.o_proj.weight[:, head * size : (head + 1) * size] = strength * read.T


def _rows(weight: Tensor, head: int, size: int) -> Tensor:
    return weight[head * size : (head + 1) * size]
