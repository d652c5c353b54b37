"""`latent=<d>`: a PCA over all layers' keys and values at once, fitted in closed form."""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from cmt_memory.model.lm import FrozenLM

logger = logging.getLogger(__name__)

FIT_TOKENS = 8192
_FIT_SEQUENCE = 512
_FIT_BYTES = 1 << 30
_OVERSAMPLING = 16
_POWER_ITERATIONS = 2


@dataclass(frozen=True, slots=True)
class PCA:
    """Principal directions of full slots whose key and value blocks were given the same variance first.

    Attributes:
        mean: `[width]`.
        weight: `[width]`, what each block was multiplied by.
        components: `[d, width]`, orthonormal rows.
        scale: `[d]`, each direction's standard deviation.
    """

    mean: Tensor
    weight: Tensor
    components: Tensor
    scale: Tensor


class Projection(nn.Module):
    """Full slots `[.., width]` to latent ones `[.., d]` and back: `latent = (x − mean) Vᵀ / scale`.

    `scale` is each direction's standard deviation, so that latent numbers are of one size and survive int8.

    Args:
        mean: `[width]`.
        encoder: `[d, width]`, V with each row divided by its scale.
        decoder: `[d, width]`, V with each row multiplied by its scale.
    """

    def __init__(self, mean: Tensor, encoder: Tensor, decoder: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean.float())
        self.register_buffer("encoder", encoder.float())
        self.register_buffer("decoder", decoder.float())

    @classmethod
    def from_tensors(cls, tensors: dict[str, Tensor]) -> Projection:
        """The inverse of `tensors`."""
        return cls(*(tensors[f"projection.{name}"].float() for name in ("mean", "encoder", "decoder")))

    def tensors(self) -> dict[str, Tensor]:
        """What to save, by name."""
        return {f"projection.{name}": tensor.cpu().contiguous() for name, tensor in self.state_dict().items()}

    mean: Tensor
    encoder: Tensor
    decoder: Tensor

    @property
    def size(self) -> int:
        """d, numbers per latent slot."""
        return self.encoder.shape[0]

    def down(self, slots: Tensor) -> Tensor:
        """`[.., width]` to `[.., d]`, float32."""
        return self.down_block(slots, 0)

    def down_block(self, part: Tensor, offset: int) -> Tensor:
        """One layer's contribution `[.., d]`, from its part `[.., w]` of the full slot at `offset`."""
        columns = slice(offset, offset + part.shape[-1])
        latent: Tensor = (part.float() - self.mean[columns]) @ self.encoder[:, columns].T
        return latent

    def variance_kept(self, rows: Tensor) -> float:
        """Share of the variance of `[n, width]` full slots that survives the way down and up."""
        lost = (rows - self.up(self.down(rows))).square().sum()
        return float(1 - lost / (rows - rows.mean(0)).square().sum())

    def up(self, latent: Tensor) -> Tensor:
        """`[.., d]` back to `[.., width]`, float32."""
        rows = torch.addmm(self.mean, latent.flatten(0, -2).float(), self.decoder)
        return rows.view(*latent.shape[:-1], -1)


def fit_latent(lm: FrozenLM, size: int, texts: Sequence[str]) -> Projection:
    """The PCA of an LM's slots on given texts; fitted once, then read from the user's cache.

    The cache is the folder named by `CMT_CACHE`, else `~/.cache/cmt-memory`.

    Args:
        lm: the frozen LM.
        size: latent dimensions d.
        texts: what to fit on; their first 8,192 tokens count.
    """
    path = _cache_path(lm, size, texts)
    try:
        return Projection.from_tensors(load_file(path))
    except FileNotFoundError:
        pass
    except (SafetensorError, KeyError, OSError) as error:
        logger.warning("the cached latent %s cannot be read (%s); fitting it again", path, error)
    logger.info("fitting %d latent dimensions of %s", size, type(lm.model).__name__)
    rows = collect_rows(lm, take_tokens(lm, texts, rows_that_fit(lm.layout.width)))
    projection = fit_projection(rows, size, lm.layout.block_sizes())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            save_file(projection.tensors(), Path(folder) / path.name)
            (Path(folder) / path.name).replace(path)
    except OSError as error:
        logger.warning("the latent is fitted but not cached for the next time: %s", error)
    return projection


def rows_that_fit(width: int) -> int:
    """How many positions to fit on: at most 8,192, and at most 1 GiB of float32."""
    return max(256, min(FIT_TOKENS, _FIT_BYTES // (4 * width)))


@torch.no_grad()
def fit_pca(rows: Tensor, size: int, block_sizes: Iterable[int], *, scaled: bool = True) -> PCA:
    """PCA by a randomised range finder (Halko et al., arXiv 0909.4061), deterministic for given rows.

    Args:
        rows: `[n, width]` float32 full slots; overwritten.
        size: latent dimensions d; more than the rows can tell apart leaves the rest at zero.
        block_sizes: widths of the key and value blocks of each layer, in order.
        scaled: give every block the same variance first, so that layers with large values do not take every
            direction.
    """
    n, width = rows.shape
    mean = rows.mean(0)
    rows.sub_(mean)
    weight = torch.ones(width)
    if scaled:
        weight = torch.cat(
            [
                (1 / block.square().mean().sqrt().clamp(min=1e-6)).expand(block.shape[1])
                for block in rows.split(list(block_sizes), dim=1)
            ]
        )
        rows.mul_(weight)
    generator = torch.Generator().manual_seed(0)
    rank = min(size + _OVERSAMPLING, n, width)
    basis = torch.linalg.qr(rows @ torch.randn(width, rank, generator=generator)).Q
    for _ in range(_POWER_ITERATIONS):
        basis = torch.linalg.qr(rows @ torch.linalg.qr(rows.T @ basis).Q).Q
    _, values, components = torch.linalg.svd(basis.T @ rows, full_matrices=False)
    components, scale = components[:size], values[:size] / n**0.5
    missing = size - len(scale)
    if missing > 0:
        components = nn.functional.pad(components, (0, 0, 0, missing))
        scale = nn.functional.pad(scale, (0, missing))
    return PCA(mean, weight, components, scale.clamp(min=1e-3 * float(scale.max()) + 1e-12))


def fit_projection(rows: Tensor, size: int, block_sizes: Iterable[int], *, scaled: bool = True) -> Projection:
    """The way down and up of a PCA; arguments as for `fit_pca`."""
    pca = fit_pca(rows, size, block_sizes, scaled=scaled)
    scale = pca.scale[:, None]
    return Projection(pca.mean, pca.components * pca.weight / scale, pca.components * scale / pca.weight)


@torch.no_grad()
def collect_rows(lm: FrozenLM, documents: list[list[int]]) -> Tensor:
    """Full slots `[n, width]` float32, on the CPU, of documents read one by one after the head."""
    head = len(lm.prompt.head_ids)
    rows = torch.empty(sum(map(len, documents)), lm.layout.width)
    start = 0
    for document in documents:
        stop = start + len(document)

        def on_layer(layer, keys, values, rotation, start=start, stop=stop) -> None:  # type: ignore[no-untyped-def]
            offset = lm.layout.offsets[layer]
            part = lm.layout.flatten(lm.unplaced_keys(keys, rotation), values)[0, head:]
            rows[start:stop, offset : offset + part.shape[-1]] = part.float().cpu()

        lm.read(torch.tensor([[*lm.prompt.head_ids, *document]]), on_layer)
        start = stop
    return rows


def calibration_texts() -> list[str]:
    """The passages shipped with the package for fitting a latent."""
    text = resources.files("cmt_memory").joinpath("assets/calibration.txt").read_text("utf-8")
    return [passage for passage in text.split("\n\n") if passage.strip()]


def take_tokens(lm: FrozenLM, texts: Sequence[str], limit: int) -> list[list[int]]:
    """Token ids of the texts, joined and cut into sequences of at most 512, `limit` tokens in all."""
    longest = min(_FIT_SEQUENCE, (lm.max_positions or _FIT_SEQUENCE) - len(lm.prompt.head_ids))
    sequences: list[list[int]] = [[]]
    for text in texts:
        ids = lm.encode_document(text)
        while ids and limit:
            room = min(longest - len(sequences[-1]), limit)
            if room <= 0:
                sequences.append([])
                continue
            sequences[-1] += ids[:room]
            limit -= len(ids[:room])
            ids = ids[room:]
    return [sequence for sequence in sequences if sequence]


def _cache_path(lm: FrozenLM, size: int, texts: Sequence[str]) -> Path:
    named = "\0".join(["1", lm.digest, str(lm.prompt.head_ids), str(size), *texts])
    key = hashlib.sha256(named.encode("utf-8", "surrogatepass")).hexdigest()
    root = Path(os.environ.get("CMT_CACHE") or Path.home() / ".cache" / "cmt-memory")
    return root / "projections" / f"{key}.safetensors"
