"""Read every layer's keys, before rotary embedding, and values out of one forward pass of a Hugging Face LM."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

ROTARY_FUNCTION = "apply_rotary_pos_emb"


@dataclass(frozen=True, slots=True)
class Rotation:
    """What a layer's rotary embedding was given and gave: `[B, H, n, D]` each, queries with all their heads."""

    keys: Tensor
    rotated_queries: Tensor
    rotated_keys: Tensor


OnLayer = Callable[[int, Tensor, Tensor, "Rotation | None"], None]

_lock = threading.Lock()
_installed: dict[ModuleType, tuple[int, Any]] = {}
_active = threading.local()


class KVTap(DynamicCache):
    """A cache that stores nothing and hands each layer's keys and values to a callback.

    The callback gets `(layer, keys, values, rotation)`: keys `[B, H, n, Dk]` as the model attends to them,
    values `[B, H, n, Dv]`, and the rotary embedding that made those keys, or None in a layer without one.
    Because nothing is kept, a caller that reduces each layer at once needs the memory of one layer only.
    """

    def __init__(self, on_layer: OnLayer) -> None:
        super().__init__()
        self._on_layer = on_layer

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Report one layer; the model attends to just what it computed."""
        rotation: Rotation | None = getattr(_active, "rotation", None)
        _active.rotation = None
        self._on_layer(layer_idx, key_states, value_states, rotation and _completed(rotation, key_states))
        return key_states, value_states


def _completed(rotation: Rotation, cached: Tensor) -> Rotation | None:
    """The rotation that made the cached keys, with the part of each head that a model leaves unrotated outside it."""
    width = rotation.rotated_keys.shape[-1]
    if rotation.rotated_keys is cached:
        return rotation
    if cached.shape[:-1] != rotation.rotated_keys.shape[:-1] or cached.shape[-1] <= width:
        return None
    if not torch.equal(cached[..., :width], rotation.rotated_keys):
        return None
    return Rotation(torch.cat([rotation.keys, cached[..., width:]], dim=-1), rotation.rotated_queries, cached)


def rotary_modules(decoder: nn.Module) -> list[ModuleType]:
    """The Python modules whose attention classes rotate keys by a function of the standard name."""
    modules = {sys.modules[type(part).__module__] for part in decoder.modules()}
    return sorted((m for m in modules if hasattr(m, ROTARY_FUNCTION)), key=lambda m: m.__name__)


@contextmanager
def _tapped_rotation(modules: list[ModuleType]) -> Iterator[None]:
    """Let this thread see each rotation's input while the block runs; other threads see no difference.

    The function is the same in every architecture and its input is not reachable by module hooks where the
    projection is fused, so it is wrapped in the modelling module for as long as somebody captures.
    """
    with _lock:
        for module in modules:
            count, original = _installed.get(module, (0, None))
            if count == 0:
                original = getattr(module, ROTARY_FUNCTION)
                setattr(module, ROTARY_FUNCTION, _recording(original))
            _installed[module] = (count + 1, original)
    try:
        yield
    finally:
        with _lock:
            for module in modules:
                count, original = _installed.pop(module)
                if count == 1:
                    setattr(module, ROTARY_FUNCTION, original)
                else:
                    _installed[module] = (count - 1, original)


def _recording(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def rotate(q: Tensor, k: Tensor, *args: Any, **kwargs: Any) -> Any:
        rotated = function(q, k, *args, **kwargs)
        # Some architectures rotate queries and keys in two calls of one tensor; they are read as they are cached.
        if getattr(_active, "capturing", False) and isinstance(rotated, tuple) and len(rotated) == 2:
            _active.rotation = Rotation(k, *rotated)
        return rotated

    return rotate


def capture(decoder: nn.Module, modules: list[ModuleType], on_layer: OnLayer, **inputs: Any) -> None:
    """Run `decoder(**inputs)` once and report every layer's keys and values as they are computed.

    Args:
        decoder: the LM without its output head.
        modules: what `rotary_modules(decoder)` returned.
        on_layer: see `KVTap`.
        inputs: `input_ids` `[B, n]` and whatever else the decoder takes.
    """
    with _tapped_rotation(modules):
        _active.capturing = True
        _active.rotation = None
        try:
            decoder(**inputs, past_key_values=KVTap(on_layer), use_cache=True)
        finally:
            _active.capturing = False
            _active.rotation = None


def rotate_keys(module: ModuleType, keys: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate the first D' numbers of each head of `[B, H, n, D]` keys by the model's own function.

    cos and sin are `[B, n, D']`; D' < D where only a part of each head is rotated.
    """
    turned, still = keys[..., : cos.shape[-1]], keys[..., cos.shape[-1] :]
    rotated: Tensor = getattr(module, ROTARY_FUNCTION)(turned[:, :0], turned, cos, sin)[1]
    return torch.cat([rotated, still], dim=-1) if still.shape[-1] else rotated
