"""A second reader made of the same frozen LM: its weights are shared, its LoRA adapters are its own."""

from __future__ import annotations

import copy
from collections.abc import Collection
from itertools import chain

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from cmt_memory.errors import InvalidInputError, UnsupportedModelError
from cmt_memory.model.capture import Rotation
from cmt_memory.model.config import AdapterConfig
from cmt_memory.model.lm import FrozenLM
from cmt_memory.model.probe import probe_ids

_MARK = "lora_"


def adapted_reader(lm: FrozenLM, settings: AdapterConfig) -> tuple[nn.Module, dict[str, nn.Parameter]]:
    """The LM's decoder once more, with LoRA adapters (PEFT) that change nothing until they are trained.

    The modules are copied and the tensors in them are not, so that the LM itself never has an adapter: it can answer
    in one thread while its reader compresses in another, and is saved and hashed as it came.

    Args:
        lm: the frozen LM.
        settings: rank, scale and place of the adapters.

    Returns:
        The reader, and its adapters' float32 parameters by name.

    Raises:
        InvalidInputError: `targets` names no module of this LM.
    """
    from peft import LoraConfig, inject_adapter_in_model

    shared = list(chain(lm.decoder.parameters(), lm.decoder.buffers()))
    trained = [parameter.requires_grad for parameter in lm.decoder.parameters()]
    memo = {id(tensor): tensor for tensor in shared} | {id(lm.config): lm.config}
    reader = copy.deepcopy(lm.decoder, memo)
    targets = settings.targets if isinstance(settings.targets, str) else list(settings.targets)
    config = LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=targets,
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in reader.modules()),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        try:
            reader = inject_adapter_in_model(config, reader)
        except ValueError as error:
            raise InvalidInputError(
                f"The adapters' targets {targets!r} do not fit {type(lm.model).__name__}: {error}"
            ) from error
    for parameter, flag in zip(lm.decoder.parameters(), trained, strict=True):
        parameter.requires_grad_(flag)  # PEFT freezes what it adapts, which here is the caller's LM
    adapters = {name: parameter for name, parameter in reader.named_parameters() if _MARK in name}
    for parameter in adapters.values():
        parameter.data = parameter.data.float()
    return reader.eval(), adapters


def used_adapters(lm: FrozenLM, reader: nn.Module, adapters: dict[str, nn.Parameter]) -> list[str]:
    """Names of the adapters that keys and values depend on: not those behind the last layer's keys and values."""
    parts: list[Tensor] = []

    def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
        parts.append(keys.float().sum().cpu() + values.float().sum().cpu())

    with torch.enable_grad():
        for parameter in adapters.values():
            parameter.requires_grad_(True)
        lm.read(probe_ids(lm.model), on_layer, reader)
        gradients = torch.autograd.grad(torch.stack(parts).sum(), list(adapters.values()), allow_unused=True)
    return [name for name, gradient in zip(adapters, gradients, strict=True) if gradient is not None]


def whole_mask(lengths: Tensor, longest: int, dtype: torch.dtype) -> Tensor:
    """An attention mask `[B, 1, n, n]` in which every position sees the whole row but its padding."""
    padding = torch.arange(longest, device=lengths.device)[None] >= lengths[:, None]
    mask = torch.zeros(padding.shape, dtype=dtype, device=lengths.device).masked_fill(padding, torch.finfo(dtype).min)
    return mask[:, None, None].expand(-1, 1, longest, -1)


def read_whole(
    lm: FrozenLM, reader: nn.Module, ids: Tensor, lengths: Tensor, on_layer: object, *, causal: bool
) -> None:
    """One pass of a reader over right-padded `[B, n]` ids, in both directions unless `causal`."""
    inputs: dict[str, Tensor] = {}
    if not causal:
        inputs["attention_mask"] = whole_mask(lengths.to(lm.device), ids.shape[1], lm.dtype)
        if lm.takes_positions:
            inputs["position_ids"] = torch.arange(ids.shape[1], device=lm.device)[None].expand(len(ids), -1)
    lm.read(ids, on_layer, reader, **inputs)  # type: ignore[arg-type]


@torch.no_grad()
def check_both_ways(lm: FrozenLM, reader: nn.Module) -> None:
    """See that the reader looks ahead, and that padding is not looked at.

    Raises:
        UnsupportedModelError: it does not.
    """
    ids = probe_ids(lm.model)
    other = ids.clone()
    other[:, -1] = ids[:, 0]
    n = ids.shape[1]

    def first_token(tokens: Tensor, length: int) -> Tensor:
        parts: list[Tensor] = []

        def on_layer(layer: int, keys: Tensor, values: Tensor, rotation: Rotation | None) -> None:
            parts.append(values[0, :, 0].flatten().float().cpu())

        read_whole(lm, reader, tokens, torch.tensor([length]), on_layer, causal=False)
        return torch.cat(parts)

    name = type(lm.model).__name__
    advice = "Train with `causal: true` in the adapter's settings."
    try:
        ahead = not torch.equal(first_token(ids, n), first_token(other, n))
        padded = torch.equal(first_token(ids, n - 1), first_token(other, n - 1))
    except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError) as error:
        raise UnsupportedModelError(
            f"{name} cannot read a document in both directions ({type(error).__name__}: {error}). {advice}"
        ) from error
    if not (ahead and padded) and len(lm.layout.layers) > 1:
        what = "looks at padding" if ahead else "does not look ahead"
        raise UnsupportedModelError(f"{name} {what} when it is given a mask for both directions. {advice}")


def chosen(adapters: dict[str, nn.Parameter], names: Collection[str]) -> nn.ParameterDict:
    """Some of the adapters under names that a module can register."""
    unknown = sorted(set(names) - set(adapters))
    if unknown:
        raise InvalidInputError(f"The LM has no place for the adapters {unknown[:4]}: they belong to another LM.")
    return nn.ParameterDict({key_of(name): adapters[name] for name in sorted(names)})


def key_of(name: str) -> str:
    """A parameter's name without dots, which a `ParameterDict` does not allow."""
    return name.replace(".", "/")


def name_of(key: str) -> str:
    """The inverse of `key_of`."""
    return key.replace("/", ".")
