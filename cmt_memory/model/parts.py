"""Compressor, aggregator and aligner of a model: which go together, how they are saved and made again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.adapted import AdaptedCompressor, load_adapted, start_adapted
from cmt_memory.model.aggregator import Aggregator, ConcatAggregator, CrossAttentionAggregator
from cmt_memory.model.aligner import Aligner, FullAligner, LinearAligner, PrefixAligner
from cmt_memory.model.compressor import Compressor, KeptCompressor, PooledCompressor, ReadingCompressor
from cmt_memory.model.config import MAX_RATIO, TRAINED, CMTConfig, Untrained
from cmt_memory.model.encoder import EncoderCompressor
from cmt_memory.model.latent import Projection, collect_rows, rows_that_fit, take_tokens
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.text_encoder import TextEncoder

COMPRESSORS: dict[str, type[ReadingCompressor]] = {c.name: c for c in (PooledCompressor, KeptCompressor)}


@dataclass(frozen=True, slots=True)
class Parts:
    """Θ, ψ and π."""

    compressor: Compressor
    aggregator: Aggregator
    aligner: Aligner

    def named(self) -> dict[str, nn.Module]:
        """The parts by the names that their tensors are saved under."""
        return {"compressor": self.compressor, "aggregator": self.aggregator, "aligner": self.aligner}

    def state(self) -> dict[str, Tensor]:
        """What to save of them, by name; copies on the CPU."""
        if not self.compressor.trained:
            projection = getattr(self.compressor, "projection", None)
            return {} if projection is None else projection.tensors()
        return {
            f"{name}.{key}": tensor.detach().cpu().clone().contiguous()
            for name, part in self.named().items()
            for key, tensor in own_tensors(part).items()
        }


def own_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors to save; of those that are tied only the first."""
    found: dict[str, Tensor] = {}
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in module.state_dict().items():
        if (tensor.data_ptr(), tensor.shape) not in seen or not tensor.numel():
            seen.add((tensor.data_ptr(), tensor.shape))
            found[name] = tensor
    return found


def load_parts(
    lm: FrozenLM, config: CMTConfig, tensors: dict[str, Tensor], encoder: TextEncoder | None = None
) -> Parts:
    """Parts as they were saved; without tensors those of a latent that is fitted later.

    Args:
        lm: the frozen LM.
        config: which parts, and their settings.
        tensors: what `Parts.state` gave.
        encoder: the text encoder, where it is loaded already.

    Raises:
        InvalidInputError: the tensors are not those of such parts, or the text encoder cannot be loaded.
    """
    if config.compressor not in TRAINED:
        projection = Projection.from_tensors(tensors) if tensors and config.latent != "full" else None
        compressor = COMPRESSORS[config.compressor](config.ratio, projection)
        return Parts(compressor, ConcatAggregator(), FullAligner() if projection is None else LinearAligner(projection))
    if config.compressor == AdaptedCompressor.name:
        names = [name.removeprefix("compressor.") for name in tensors if name.startswith("compressor.")]
        adapted, linear = load_adapted(lm, config, names)
        parts = Parts(adapted, ConcatAggregator(), linear)
    else:
        parts = _encoding_parts(lm, config, encoder)
    for name, part in parts.named().items():
        mine = {key.removeprefix(f"{name}."): t for key, t in tensors.items() if key.startswith(f"{name}.")}
        expected = own_tensors(part)
        wrong = sorted(key for key in mine.keys() | expected.keys() if _shape(mine, key) != _shape(expected, key))
        if wrong:
            raise InvalidInputError(
                f"The checkpoint's {name} does not fit its settings or this LM: {wrong[0]} is "
                f"{_shape(mine, wrong[0])}, and {_shape(expected, wrong[0])} is needed."
            )
        part.load_state_dict(mine, strict=False)  # the second name of a tied tensor is not saved
    return parts


def start_parts(lm: FrozenLM, config: CMTConfig, ratios: Sequence[int], texts: Sequence[str], seed: int = 0) -> Parts:
    """Parts to be trained, fitted on texts: a PCA's maps, or the paper's parts in the LM's own scale.

    Args:
        lm: the frozen LM.
        config: which parts, and their settings.
        ratios: ratios to be trained, for `adapted`.
        texts: what to fit on; their first tokens count.
        seed: of what is drawn.
    """
    if config.compressor == AdaptedCompressor.name:
        adapted, linear = start_adapted(lm, config, ratios, texts)
        return Parts(adapted, ConcatAggregator(), linear)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = _encoding_parts(lm, config, None)
    assert isinstance(parts.aligner, PrefixAligner)
    parts.aligner.start_from(collect_rows(lm, take_tokens(lm, texts, rows_that_fit(lm.layout.width))))
    return parts


def _encoding_parts(lm: FrozenLM, config: CMTConfig, encoder: TextEncoder | None) -> Parts:
    """The paper's parts, drawn at random."""
    settings, size = config.encoder, int(config.latent)
    assert settings is not None
    assert config.prefix is not None
    if encoder is None:
        encoder = TextEncoder(settings, lm.device)
    elif settings.trained:
        encoder = encoder.twin()
    aggregator: Aggregator = ConcatAggregator()
    if config.cross_attention is not None:
        aggregator = CrossAttentionAggregator(settings.slots, size, config.cross_attention)
    return Parts(
        EncoderCompressor(encoder, settings, size),
        aggregator,
        PrefixAligner(lm.layout, settings.slots, size, config.prefix),
    )


def _shape(tensors: dict[str, Tensor], name: str) -> list[int] | None:
    return list(tensors[name].shape) if name in tensors else None


def default_compressor(ratio: int) -> Untrained:
    """What keeps more without training at this ratio; measured by `benchmarks/untrained.py`."""
    return "pooled" if ratio == 1 else "kept"


def check_settings(ratio: int, latent: int | str | None, compressor: str | None) -> None:
    """Refuse a ratio, latent or compressor that no model without training can have."""
    if isinstance(ratio, bool) or not isinstance(ratio, int) or not 1 <= ratio <= MAX_RATIO:
        raise InvalidInputError(f"ratio must be a whole number from 1 to {MAX_RATIO}, not {ratio!r}.")
    whole = isinstance(latent, int) and not isinstance(latent, bool) and latent >= 1
    if latent is not None and latent != "full" and not whole:
        raise InvalidInputError(f'latent must be a whole number of at least 1, or "full", not {latent!r}.')
    if compressor in TRAINED:
        raise InvalidInputError(
            f"compressor={compressor!r} has to be trained: `cmt-memory train`, then CMTModel.from_pretrained(folder)."
        )
    if compressor is not None and compressor not in COMPRESSORS:
        raise InvalidInputError(f"compressor must be one of {sorted(COMPRESSORS)}, not {compressor!r}.")
