"""Which LM, tokenizer and compressor made a memory: digests that tell a store whether a model can read it."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

_SAMPLE_BYTES = 64
_PART = 1 << 24
_CHECKED_TENSORS = 8
_VOLATILE_CONFIG = {
    "_name_or_path",
    "_attn_implementation",
    "attn_implementation",
    "transformers_version",
    "dtype",
    "torch_dtype",
    "use_cache",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
}


def lm_digest(model: PreTrainedModel, revision: str | None = None) -> str:
    """Digest of an LM's configuration and of its tensors' names, shapes and sampled weights.

    The weights are sampled as they are on disk, so that a model loaded in another dtype is the same model; where
    there is no file, or the loaded weights are no longer those of the file, the loaded tensors are sampled.
    """
    config = json.dumps(_stable(model.config.to_dict()), sort_keys=True, default=str)
    files = weight_files(str(model.config._name_or_path or ""), revision)
    on_disk = bool(files) and matches_files(model, files)
    weights = _digest_files(files) if on_disk else _digest_tensors(model.state_dict())
    return _sha(config, weights)


def encoder_digest(model: PreTrainedModel, *, weights: bool) -> str:
    """Digest of a text encoder's configuration, and with `weights` of its tensors as they are loaded."""
    settings = {key: value for key, value in _stable(model.config.to_dict()).items() if key != "architectures"}
    text = json.dumps(settings, sort_keys=True, default=str)
    return _sha(text, _digest_tensors(model.state_dict()) if weights else "")


def tokenizer_digest(tokenizer: PreTrainedTokenizerBase) -> str:
    """Digest of a tokenizer's vocabulary, rules and chat template; padding and truncation state do not count."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        rules = json.loads(backend.to_str())
        rules.pop("padding", None)
        rules.pop("truncation", None)
        text = json.dumps(rules, sort_keys=True)
    else:
        text = json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return _sha(text, json.dumps(tokenizer.chat_template, sort_keys=True))


def module_digest(modules: Iterable[nn.Module]) -> str:
    """Digest of every parameter and buffer, all of their bytes."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in sorted(module.state_dict().items()):
            digest.update(f"{type(module).__name__}.{name}{tuple(tensor.shape)}".encode())
            for part in tensor.detach().contiguous().view(-1).split(_PART):
                digest.update(part.cpu().view(torch.uint8).numpy())
    return digest.hexdigest()


def _stable(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _stable(v) for k, v in value.items() if k not in _VOLATILE_CONFIG}
    if isinstance(value, list | tuple):
        return [_stable(v) for v in value]
    return value


def _sha(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def weight_files(name_or_path: str, revision: str | None) -> list[Path]:
    """The LM's safetensors files, in its folder or in the hub's local cache; never downloads."""
    if not name_or_path:
        return []
    folder = Path(name_or_path)
    if not folder.is_dir():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            config = try_to_load_from_cache(name_or_path, "config.json", revision=revision)
        except HFValidationError:
            return []
        if not isinstance(config, str):
            return []
        folder = Path(config).parent
    return sorted(folder.glob("*.safetensors"))


def _headers(files: list[Path]) -> dict[str, tuple[Path, int, dict[str, Any]]]:
    """For each tensor its file, where the file's data begins, and its entry in the safetensors header."""
    entries = {}
    for path in files:
        with path.open("rb") as file:
            size = struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(size))
        header.pop("__metadata__", None)
        for name, entry in header.items():
            entries[name] = (path, 8 + size, entry)
    return entries


def _digest_files(files: list[Path]) -> str:
    digest = hashlib.sha256()
    for name, (path, base, entry) in sorted(_headers(files).items()):
        start, stop = entry["data_offsets"]
        digest.update(json.dumps([name, entry["dtype"], entry["shape"]]).encode())
        with path.open("rb") as file:
            for offset in (start, (start + stop) // 2):
                file.seek(base + offset)
                digest.update(file.read(min(_SAMPLE_BYTES, stop - offset)))
    return digest.hexdigest()


def matches_files(model: PreTrainedModel, files: list[Path]) -> bool:
    """Whether a few loaded tensors still hold the values of the file (they may have been trained since)."""
    from safetensors import safe_open

    entries = _headers(files)
    loaded = {n: p for n, p in model.state_dict().items() if n in entries and p.is_floating_point()}
    names = sorted(loaded)
    for name in names[:: max(1, len(names) // _CHECKED_TENSORS)]:
        tensor = loaded[name]
        if list(tensor.shape) != entries[name][2]["shape"]:
            return False
        with safe_open(entries[name][0], "pt") as file:
            row = file.get_slice(name)[:1] if tensor.dim() else file.get_tensor(name)
        ours = tensor[:1] if tensor.dim() else tensor
        if not torch.equal(row.to(tensor.dtype), ours.detach().cpu()):
            return False
    return True


def _digest_tensors(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(json.dumps([name, list(tensor.shape)]).encode())
        flat = tensor.detach().reshape(-1)
        middle = len(flat) // 2
        for part in (flat[:16], flat[middle : middle + 16]):
            digest.update(part.float().cpu().numpy().tobytes())
    return digest.hexdigest()
