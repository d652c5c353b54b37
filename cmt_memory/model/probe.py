"""What a short look at an LM shows: whether it keeps keys and values, what its layers see, and that a prefix works."""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from cmt_memory.errors import UnsupportedModelError
from cmt_memory.model.capture import Rotation, capture

if TYPE_CHECKING:
    from cmt_memory.model.lm import FrozenLM

Seen = dict[int, tuple[Tensor, Tensor, Rotation | None]]
"""By layer: keys as attended to, values, and the rotary embedding that made the keys."""

Span = Literal["full", "sliding", "other"]

_PROBE_TOKENS = 7
_ASKED_TOKENS = 3
_WINDOW_SETTINGS = (
    "sliding_window",
    "window_size",
    "attention_chunk_size",
    "attention_layers",
    "local_attn_window_size",
)
_ADVICE = "Use a decoder-only attention model such as Llama, Qwen, Mistral, Gemma or GPT-2."


def layer_kinds(config: Any) -> list[str]:
    """What a model's configuration calls each of its layers, or nothing where it does not say."""
    kinds = getattr(config, "layer_types", None) or getattr(config, "layers_block_type", None) or []
    return [str(kind) for kind in kinds]


def refuse_other_models(model: PreTrainedModel) -> None:
    """Refuse what its configuration already tells apart from a causal attention model."""
    name, config = type(model).__name__, model.config.get_text_config()
    if model.config.is_encoder_decoder:
        raise UnsupportedModelError(
            f"{name} is an encoder-decoder model; a memory is a key/value prefix of a decoder-only causal LM. {_ADVICE}"
        )
    others = sorted({kind for kind in layer_kinds(config) if "attention" not in kind or "linear" in kind})
    if others:
        raise UnsupportedModelError(
            f"{name} is a hybrid or linear-attention model: its layers of type {', '.join(others)} keep a recurrent "
            f"state instead of keys and values for each token, and a memory can only be injected as those. {_ADVICE}"
        )


def attention_span(config: Any) -> Span:
    """How far layers look back: `full`, `sliding` windows in some, or `other` (chunks, or what is not known)."""
    kinds = set(layer_kinds(config))
    if kinds:
        return "full" if kinds == {"full_attention"} else "sliding" if kinds <= _SLIDING else "other"
    limits = {name for name in _WINDOW_SETTINGS if getattr(config, name, None)}
    return "full" if not limits else "sliding" if limits == {"sliding_window"} else "other"


def position_limit(config: Any) -> int | None:
    """How many positions an LM knows, or None.

    Where a rotary table changes for long inputs (`longrope`), keys made with one table do not go with the other, so
    the limit is where it changes.
    """
    limit: int | None = getattr(config, "max_position_embeddings", None)
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type") == "longrope":
        original = rope.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        limit = min(limit or original, original) if original else limit
    return limit


_SLIDING = {"full_attention", "sliding_attention"}


@torch.no_grad()
def probe_pass(
    model: PreTrainedModel, decoder: nn.Module, modules: list[ModuleType], offset: int, positions: bool
) -> Seen:
    """Keys and values of a few tokens, placed `offset` positions on where the LM takes positions.

    Raises:
        UnsupportedModelError: some layer keeps none.
    """
    seen: Seen = {}

    def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
        seen[layer] = (keys, values, rotation)

    ids = probe_ids(model)[:, :_PROBE_TOKENS]
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if positions:
        inputs["position_ids"] = torch.arange(ids.shape[1], device=ids.device)[None] + offset
    try:
        capture(decoder, modules, on_layer, **inputs)
    except (AttributeError, TypeError, ValueError, NotImplementedError, KeyError, IndexError) as error:
        raise UnsupportedModelError(
            f"{type(model).__name__} does not keep its keys and values in a transformers cache "
            f"({type(error).__name__}: {error}), so a memory cannot be injected into it. {_ADVICE}"
        ) from error
    config = model.config.get_text_config()
    layers = int(config.num_hidden_layers)
    shared = int(getattr(config, "num_kv_shared_layers", 0) or 0)
    if len(seen) < max(1, layers - shared):
        missing = sorted(set(range(layers)) - set(seen))
        raise UnsupportedModelError(
            f"{type(model).__name__} keeps no keys and values in layers {missing[:8]} of {layers}, but a memory can "
            f"only be injected as keys and values of every layer. {_ADVICE}"
        )
    if any(keys.dim() != 4 or values.dim() != 4 for keys, values, _ in seen.values()):
        raise UnsupportedModelError(f"{type(model).__name__} keeps its keys and values in another shape. {_ADVICE}")
    return seen


def probe_ids(model: PreTrainedModel) -> Tensor:
    """Token ids `[1, 10]` that any vocabulary has."""
    embeddings: Tensor = model.get_input_embeddings().weight  # type: ignore[assignment]
    return torch.arange(_PROBE_TOKENS + _ASKED_TOKENS, device=embeddings.device)[None] % embeddings.shape[0]


def moves(first: Seen, shifted: Seen) -> bool:
    """Whether keys or values that no known rotation made change with the position they are computed at."""
    return any(
        rotation is None and not (close(keys, shifted[layer][0]) and close(values, shifted[layer][1]))
        for layer, (keys, values, rotation) in first.items()
    )


@torch.no_grad()
def check_prefix(lm: FrozenLM, seen: Seen) -> None:
    """Continue from a prefix as memories make it, and from the same tokens as a prompt: both must agree.

    Raises:
        UnsupportedModelError: they differ, or `generate` fails with a prefix.
    """
    from cmt_memory.model.prefix import KVPrefix

    ids = probe_ids(lm.model)
    keys_and_values = [
        (lm.unplaced_keys(keys, rotation), values) for _, (keys, values, rotation) in sorted(seen.items())
    ]
    places = torch.arange(_PROBE_TOKENS, device=lm.device, dtype=torch.float32)[None]
    prefix = KVPrefix(
        layers=tuple(lm.rotate(keys_and_values, places)),
        mask=torch.ones(1, _PROBE_TOKENS, dtype=torch.long, device=lm.device),
        starts=torch.tensor([_PROBE_TOKENS], device=lm.device),
        n_slots=(_PROBE_TOKENS,),
        packed=False,
        layer_indices=tuple(sorted(seen)),
    )
    asked = ids[:, _PROBE_TOKENS:]
    inputs: dict[str, Any] = {"attention_mask": torch.ones_like(ids)}
    if lm.takes_positions:
        inputs["position_ids"] = torch.arange(_PROBE_TOKENS, ids.shape[1], device=lm.device)[None]
    settings = GenerationConfig(max_new_tokens=2, do_sample=False, pad_token_id=0, eos_token_id=None)
    settings.repetition_penalty, settings.no_repeat_ngram_size = 1.0, 0
    try:
        whole = lm.model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits[0, -1].float()
        ours = lm.model(input_ids=asked, past_key_values=prefix.to_cache(lm), **inputs).logits[0, -1].float()
        cache = prefix.to_cache(lm)
        generated = lm.model.generate(input_ids=asked, past_key_values=cache, generation_config=settings, **inputs)
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError, KeyError) as error:
        raise UnsupportedModelError(
            f"{type(lm.model).__name__} cannot go on from a cache that it did not make itself "
            f"({type(error).__name__}: {error}). {_ADVICE}"
        ) from error
    exact = lm.dtype in (torch.float32, torch.float64)
    alike = close(ours, whole, 1e-3) if exact else float(torch.cosine_similarity(ours, whole, dim=0)) > _HALF_ALIKE
    first = int(generated[0, asked.shape[1]])
    # The most likely token, or one as likely as it up to rounding.
    follows = bool(whole[first] >= whole.max() - 1e-2 * whole.abs().max()) or not exact
    once = cache.get_seq_length() == _PROBE_TOKENS + generated.shape[1] - 1
    if not (alike and follows and once):
        raise UnsupportedModelError(
            f"{type(lm.model).__name__} answers differently from a key/value prefix than from the same tokens in its "
            f"prompt, so memories would give wrong answers. {_ADVICE}"
        )


_HALF_ALIKE = 0.9


def close(a: Tensor, b: Tensor, tolerance: float | None = None) -> bool:
    """Equal up to what a sum in another order gives in this dtype, relative to the largest value."""
    if a.shape != b.shape:
        return False
    if tolerance is None:
        tolerance = 1e-4 if a.dtype in (torch.float32, torch.float64) else 5e-2
    scale = float(b.float().abs().max()) + 1e-6
    return bool((a.float() - b.float()).abs().max() <= tolerance * scale)
