"""The paper's compressor: k learned tokens look at a text encoder's last states and become the slots."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import nullcontext

import torch
from torch import nn

from cmt_memory.model.attention import CrossAttentionBlock, SlotMLP
from cmt_memory.model.compressor import Compressor
from cmt_memory.model.config import EncoderConfig
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.memory import Memory
from cmt_memory.model.text_encoder import TextEncoder


class EncoderCompressor(Compressor):
    """k slots of every document, whatever its length (CMT, arXiv 2412.07393; sizes as in MAC, arXiv 2403.04317).

    The frozen LM takes no part: its token ids are decoded to text, which the encoder's own tokenizer reads. Learned
    tokens look at the encoder's last states in a few blocks of cross-attention, and a feed-forward layer of each
    slot maps them to `size` numbers. MAC has the whole decoder of its T5 in place of the blocks.

    Args:
        encoder: the text encoder; a part of this module only where `trained`.
        settings: slots, blocks and heads.
        size: d, numbers per slot.
    """

    name = "encoder"
    trained = True

    def __init__(self, encoder: TextEncoder, settings: EncoderConfig, size: int) -> None:
        super().__init__()
        self.settings = settings
        self.encoder = encoder
        if settings.trained:
            self.text_model: nn.Module = encoder.model
        self.tokens = nn.Parameter(0.02 * torch.randn(settings.slots, encoder.size))
        self.blocks = nn.ModuleList(
            CrossAttentionBlock(encoder.size, encoder.size, settings.heads, settings.head_size)
            for _ in range(settings.blocks)
        )
        self.out = SlotMLP(settings.slots, encoder.size, size, size)

    @property
    def identity(self) -> str:
        """Name, and what the tensors do not show: how the encoder reads, and which one where it is not trained."""
        return f"{self.name}(heads={self.settings.heads},window={self.encoder.window},reads={self.encoder.digest})"

    def learns(self, everything: bool) -> Iterator[nn.Parameter]:
        """See `Compressor.learns`; what looks at the states, and of a trained encoder all that they depend on."""
        for name, parameter in self.named_parameters():
            inside = name.startswith("text_model.")
            if not inside or (everything and name.removeprefix("text_model.") in self.encoder.used):
                yield parameter

    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `Compressor.compress`; one pass of the text encoder."""
        texts = [str(lm.tokenizer.decode(list(ids), clean_up_tokenization_spaces=False)).strip() for ids in documents]
        with nullcontext() if self.settings.trained else torch.no_grad():
            states, mask = self.encoder.read(texts)
        slots = self.tokens[None].expand(len(texts), -1, -1)
        for block in self.blocks:
            slots = block(slots, states, mask)
        slots = self.out(slots).float()
        positions = torch.arange(self.settings.slots, dtype=torch.float32)
        return [Memory(slots[row], positions, len(ids)) for row, ids in enumerate(documents)]
