"""The trained compressor: the LM, with adapters of its own, reads a document in both directions."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

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
from cmt_memory.model.compressor import ReadingCompressor, pad_after_head, pool, span_positions
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.latent import fit_pca, rows_that_fit, take_tokens
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.maps import LatentDown, LatentUp
from cmt_memory.model.memory import Memory
from cmt_memory.model.picking import pick, slot_positions, stretched

_GOLDEN = (5**0.5 - 1) / 2
_SHARPNESS = 8.0
_CONTRAST = 4
"""How sharply the softplus of importance bends."""
_MOST_READ = 4
"""How many times the tokens of an untrained fit are read, because pooling leaves fewer rows of them."""
_RIDGE = 1e-2


class AdaptedCompressor(ReadingCompressor):
    """Keys, before rotary embedding, and values that heads pick where the document says most, read through adapters.

    The frozen LM reads head and document through LoRA adapters, in both directions unless told otherwise. What the
    last layer made of a token says how important it is, and slots are handed out by importance: many to a code, few
    to what goes without saying (`picking.stretched`; it starts as the LM's surprise). Each head of each layer looks
    at a place of its own in every slot and takes the token that lies there, so that the heads together keep most
    tokens of a slot apart instead of their blend, and learns to weigh tokens by what it sees there. Keys and values
    of all layers are then mapped to the latent. Gradients flow to all of it. Reading with adapters and all layers
    at once is what keeps most at high ratios (arXiv 2510.20797, 2602.03784).

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
        self.importance = nn.ParameterList([torch.zeros(shapes[-1].width), torch.ones(())] if shapes else [])
        self._shares: list[Tensor] | None = None

    @property
    def identity(self) -> str:
        """Name, and the settings that the adapters' tensors do not show."""
        return f"{self.name}(alpha={self.settings.alpha:g},causal={self.settings.causal})"

    def learns(self, everything: bool) -> Iterator[nn.Parameter]:
        """See `Compressor.learns`; the adapters are the reader's."""
        yield from self.down.parameters()
        if everything:
            yield from self.adapters.parameters()
            for parameters in (self.weighing, self.places, self.sharpness, self.importance):
                yield from parameters

    @property
    def precise(self) -> tuple[str, ...]:
        """See `Compressor.precise`: a little more here moves all slots that follow."""
        return ("weighing", "places", "sharpness", "importance")

    @contextmanager
    def recorded(self) -> Iterator[list[Tensor]]:
        """What share of a slot each token takes, `[n]` a document in the order they are read inside, with gradients."""
        before, self._shares = self._shares, []
        try:
            yield self._shares
        finally:
            self._shares = before

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
        """See `Compressor.compress`; one pass of the LM."""
        slots: Tensor | None = None

        def on_pooled(part: Tensor, offset: int) -> None:
            nonlocal slots
            latent = self.down.down_block(part, offset)
            slots = latent if slots is None else slots + latent

        positions = self.read(lm, documents, on_pooled)
        assert slots is not None
        return [
            Memory(slots[row, : len(places)].clone(), places, len(documents[row]))
            for row, places in enumerate(positions)
        ]

    def read(
        self, lm: FrozenLM, documents: Sequence[Sequence[int]], on_pooled: Callable[[Tensor, int], None]
    ) -> list[Tensor]:
        """Read documents and report each layer's slots `[B, k, w]`, float32, and their offset in a full slot.

        Returns:
            The `[k]` positions of each document's slots.
        """
        rows, lengths = self._rows(lm, documents)
        counts = [self.n_slots(n) for n in lengths.tolist()]
        if not len(self.importance) or self.ratio == 1:
            for layer, (keys, values) in zip(lm.layout.layers, rows, strict=True):
                whole = torch.cat([keys.flatten(2), values.flatten(2)], dim=-1).float()
                on_pooled(pool(whole, lengths, self.ratio), lm.layout.offsets[layer.index])
            return [span_positions(n, self.ratio) for n in lengths.tolist()]
        shares = self._share(rows[-1], lengths.to(lm.device), torch.tensor(counts, device=lm.device))
        if self._shares is not None:
            self._shares += [shares[row, :n] for row, n in enumerate(lengths.tolist())]
        for number, (layer, (keys, values)) in enumerate(zip(lm.layout.layers, rows, strict=True)):
            scores = (features(keys, values) * self.weighing[number]).sum(-1)
            weights = pick(shares, self.places[number], self.sharpness[number], scores, max(counts))
            picked = [torch.einsum("bkhn,bnhd->bkhd", weights, part.float()).flatten(2) for part in (keys, values)]
            on_pooled(torch.cat(picked, dim=-1), lm.layout.offsets[layer.index])
        with torch.no_grad():
            return [
                slot_positions(shares[i, :n], k) for i, (n, k) in enumerate(zip(lengths.tolist(), counts, strict=True))
            ]

    def _rows(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Keys `[B, n, H, Dk]` and values `[B, n, H, Dv]` of each layer, and the documents' lengths `[B]`."""
        ids, lengths = pad_after_head(lm, documents)
        head = len(lm.prompt.head_ids)
        seen: dict[int, tuple[Tensor, Tensor]] = {}

        def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
            keys = lm.unplaced_keys(keys, rotation)
            keys, values = (part[:, :, head:].transpose(1, 2).to(lm.device) for part in (keys, values))
            seen[layer] = (keys, values)

        read_whole(lm, self._reader[0], ids, lengths + head, on_layer, causal=self.settings.causal)
        return [seen[layer.index] for layer in lm.layout.layers], lengths

    def _share(self, last: tuple[Tensor, Tensor], lengths: Tensor, slots: Tensor) -> Tensor:
        """What share of a slot each token takes, `[B, n]`, by its keys and values of the last layer."""
        weight, bias = self.importance
        known = features(*last).flatten(2) @ weight + bias
        return stretched(nn.functional.softplus(known, beta=_CONTRAST), lengths, slots)

    @torch.no_grad()
    def start_importance(self, lm: FrozenLM, documents: Sequence[Sequence[int]]) -> None:
        """Let importance be what a ridge regression makes of the square root of the LM's surprise at each token."""
        if not len(self.importance):
            return
        known, wanted = [], []
        for document in documents:
            (*_, last), _ = self._rows(lm, [document])
            known.append(features(*last)[0].flatten(1))
            wanted.append(surprise(lm, document).sqrt())
        rows, targets = torch.cat(known).double(), torch.cat(wanted).double()
        mean, level = rows.mean(0), targets.mean()
        rows = rows - mean
        gram = rows.T @ rows
        gram += _RIDGE * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        solved = torch.linalg.solve(gram, rows.T @ (targets - level))
        weight, bias = self.importance
        weight.copy_(solved)
        bias.copy_(level - mean @ solved)


def features(keys: Tensor, values: Tensor) -> Tensor:
    """Keys `[B, n, H, Dk]` and values `[B, n, H, Dv]` in one size, side by side: `[B, n, H, Dk + Dv]`."""
    return torch.cat([nn.functional.layer_norm(part.float(), part.shape[-1:]) for part in (keys, values)], dim=-1)


def surprise(lm: FrozenLM, document: Sequence[int]) -> Tensor:
    """`−log p` of each of a document's `[n]` tokens after those before it, in nats."""
    head = list(lm.prompt.head_ids)
    ids = torch.tensor([head + list(document)], device=lm.device)
    logits = lm.model(ids, use_cache=False).logits[0, len(head) - 1 : -1].float()
    return nn.functional.cross_entropy(logits, ids[0, len(head) :], reduction="none")


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
    compressor.start_importance(lm, documents)
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
