"""The trained compressor: the LM, with adapters of its own, reads a document in both directions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence

import torch
from torch import Tensor, nn

from cmt_memory.model.adapters import (
    adapted_reader,
    check_both_ways,
    chosen,
    name_of,
    read_whole,
    used_adapters,
)
from cmt_memory.model.aligner import LinearAligner
from cmt_memory.model.capture import Rotation
from cmt_memory.model.compressor import ReadingCompressor, pad_after_head, pool, span_positions, weighted_pool
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.latent import fit_pca, rows_that_fit, take_tokens
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.maps import LatentDown, LatentUp
from cmt_memory.model.memory import Memory

_GOLDEN = (5**0.5 - 1) / 2
_SHARPNESS = 2.0
_WEIGHING_RATE = 25
"""How much faster than adapters the weighing learns: Adam's steps are as long for both, and it has more to go."""
_MOST_READ = 4
"""How many times the tokens of an untrained fit are read, because pooling leaves fewer rows of them."""


class AdaptedCompressor(ReadingCompressor):
    """Mean of the keys, before rotary embedding, and values over `ratio` positions, as adapters taught the LM to read.

    The frozen LM reads head and document through LoRA adapters, without a causal mask unless told so; its keys and
    values of all layers are pooled and mapped to the latent. Gradients flow to adapters and map. Pooling over both
    directions and all layers is what keeps most at high ratios (arXiv 2510.20797, 2602.03784). The mean is
    weighted: each head of each layer has a place in the span that it prefers, so that the heads together keep most of
    its tokens apart, and learns to weigh positions by what it sees there.

    Args:
        lm: the frozen LM.
        config: `ratio`, `latent` and `adapter` are used.
        names: which adapters there are; found out unless given.

    Raises:
        UnsupportedModelError: the LM cannot read in both directions.
        InvalidInputError: the adapters do not fit the LM.
    """

    name = "adapted"
    trained = True

    def __init__(self, lm: FrozenLM, config: CMTConfig, names: Collection[str] | None = None) -> None:
        super().__init__(config.ratio)
        assert config.adapter is not None
        assert config.latent != "full"
        self.settings = config.adapter
        self._layers = lm.layout.layers
        reader, adapters = adapted_reader(lm, config.adapter)
        if not config.adapter.causal:
            check_both_ways(lm, reader)
        self._reader = [reader]  # in a list, so that the LM's own weights are no part of this module
        self.adapters = chosen(adapters, used_adapters(lm, reader, adapters) if names is None else names)
        for parameter in adapters.values():  # what is trained is chosen later, and the unused never is
            parameter.requires_grad_(False)
        self.down = LatentDown(int(config.latent), lm.layout.width)
        shapes = lm.layout.layers if config.adapter.weighted else ()
        self.weighing = nn.ParameterList(torch.zeros(s.kv_heads, s.key_dim + s.value_dim) for s in shapes)
        self.places = nn.ParameterList(
            (torch.arange(n * s.kv_heads, (n + 1) * s.kv_heads) + 0.5) * _GOLDEN % 1 for n, s in enumerate(shapes)
        )
        self.sharpness = nn.ParameterList(torch.full((s.kv_heads,), _SHARPNESS) for s in shapes)

    @property
    def identity(self) -> str:
        """Name, and the settings that the adapters' tensors do not show."""
        return f"{self.name}(alpha={self.settings.alpha:g},causal={self.settings.causal})"

    def learns(self, everything: bool) -> Iterator[nn.Parameter]:
        """See `Compressor.learns`; the adapters are the reader's."""
        yield from self.down.parameters()
        if everything:
            yield from self.adapters.parameters()
            for parameters in (self.weighing, self.places, self.sharpness):
                yield from parameters

    def train(self, mode: bool = True) -> AdaptedCompressor:
        """Switch the adapters' dropout; the LM's own stays off."""
        super().train(mode)
        for module in self._reader[0].modules():
            if type(module).__module__.startswith("peft."):
                for name, child in module.named_children():
                    if name == "lora_dropout":
                        child.train(mode)
        return self

    def compress(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> list[Memory]:
        """See `Compressor.compress`; one pass of the LM, reduced layer by layer."""
        slots: Tensor | None = None

        def on_pooled(part: Tensor, offset: int) -> None:
            nonlocal slots
            latent = self.down.down_block(part, offset)
            slots = latent if slots is None else slots + latent

        lengths = torch.tensor([len(document) for document in documents])
        self.read(lm, documents, on_pooled)
        assert slots is not None
        return [
            Memory(slots[row, : self.n_slots(n)].clone(), span_positions(n, self.ratio), n)
            for row, n in enumerate(lengths.tolist())
        ]

    def read(self, lm: FrozenLM, documents: Sequence[Sequence[int]], on_pooled: Callable[[Tensor, int], None]) -> None:
        """Read documents and report each layer's slots `[B, k, w]`, float32, and their offset in a full slot."""
        ids, lengths = pad_after_head(lm, documents)
        head = len(lm.prompt.head_ids)
        numbers = {layer.index: number for number, layer in enumerate(lm.layout.layers)}

        def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
            keys = lm.unplaced_keys(keys, rotation)[:, :, head:]
            keys, values = (part.transpose(1, 2).to(lm.device).float() for part in (keys, values[:, :, head:]))
            on_pooled(self._pooled(numbers[layer], keys, values, lengths), lm.layout.offsets[layer])

        read_whole(lm, self._reader[0], ids, lengths + head, on_layer, causal=self.settings.causal)

    def _pooled(self, number: int, keys: Tensor, values: Tensor, lengths: Tensor) -> Tensor:
        """A layer's keys `[B, n, H, Dk]` and values `[B, n, H, Dv]` as its part `[B, k, w]` of full slots."""
        if not len(self.weighing) or self.ratio == 1:
            return pool(torch.cat([keys.flatten(2), values.flatten(2)], dim=-1), lengths, self.ratio)
        seen = torch.cat([nn.functional.layer_norm(rows, rows.shape[-1:]) for rows in (keys, values)], dim=-1)
        place = torch.arange(keys.shape[1], device=keys.device)[:, None] % self.ratio + 0.5
        away = place - self.ratio * self.places[number]
        scores = _WEIGHING_RATE * (seen * self.weighing[number]).sum(-1) - self.sharpness[number] * away.square()
        return torch.cat([weighted_pool(rows, scores, lengths, self.ratio).flatten(2) for rows in (keys, values)], -1)


@torch.no_grad()
def start_adapted(
    lm: FrozenLM, config: CMTConfig, ratios: Sequence[int], texts: Sequence[str]
) -> tuple[AdaptedCompressor, LinearAligner]:
    """A compressor and an aligner that start from the PCA of what the untrained reader pools at these ratios.

    Args:
        lm: the frozen LM.
        config: `ratio`, `latent` and `adapter` are used.
        ratios: ratios to be trained; each gives the same share of the rows that the PCA is fitted on.
        texts: what to fit on; their first tokens count.
    """
    compressor = AdaptedCompressor(lm, config).to(lm.device)
    kept = sum(1 / ratio for ratio in ratios) / len(ratios)
    documents = take_tokens(lm, texts, int(rows_that_fit(lm.layout.width) * min(_MOST_READ, 1 / kept)))
    rows: list[Tensor] = []
    for number, document in enumerate(documents):
        with compressor.at(ratios[number % len(ratios)]):
            full = torch.empty(compressor.n_slots(len(document)), lm.layout.width)

            def on_pooled(part: Tensor, offset: int, full: Tensor = full) -> None:
                full[:, offset : offset + part.shape[-1]] = part[0].cpu()

            compressor.read(lm, [document], on_pooled)
        rows.append(full)
    pca = fit_pca(torch.cat(rows), int(config.latent), lm.layout.block_sizes())
    up = LatentUp(int(config.latent), lm.layout.width)
    compressor.down.start_from(pca)
    up.start_from(pca)
    return compressor, LinearAligner(up.to(lm.device))


def load_adapted(lm: FrozenLM, config: CMTConfig, names: Collection[str]) -> tuple[AdaptedCompressor, LinearAligner]:
    """Both parts as they were saved but for their tensors, whose names in the compressor say which adapters it has."""
    adapters = [name_of(name.removeprefix("adapters.")) for name in names if name.startswith("adapters.")]
    compressor = AdaptedCompressor(lm, config, adapters)
    return compressor, LinearAligner(LatentUp(int(config.latent), lm.layout.width))
