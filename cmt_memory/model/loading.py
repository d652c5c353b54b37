"""Finding and loading an LM: bundled, local, or from the hub."""

from __future__ import annotations

import os
import shutil
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from cmt_memory.errors import InvalidInputError
from cmt_memory.model.fingerprint import matches_files, weight_files

BUNDLED = ("cmt-tiny",)


def bundled(name: str) -> Path | None:
    """The folder of a model that comes with the package, or None."""
    if name not in BUNDLED or Path(name).exists():
        return None
    return Path(str(resources.files("cmt_memory"))) / "assets" / name


def lm_name(llm: str | os.PathLike[str]) -> str:
    """What to call an LM from any working directory: a bundled name, an absolute folder, a hub id, or nothing."""
    name = str(llm)
    return name if not name or bundled(name) or not Path(name).is_dir() else os.path.abspath(name)


def load_lm(
    name: str,
    device: str | torch.device | None,
    dtype: str | torch.dtype | None,
    revision: str | None,
    trust_remote_code: bool,
    model_kwargs: dict[str, Any],
) -> tuple[PreTrainedModel, str]:
    """Load a causal LM; see `CMTModel.from_llm` for the arguments.

    Returns:
        The LM, and where its tokenizer is.
    """
    folder = bundled(name)
    source = str(folder / "lm") if folder else name
    if "device_map" not in model_kwargs:
        device = torch.device(device or _best_device())
    elif device is not None:
        raise InvalidInputError("Pass device or device_map, not both.")
    on_cpu = device is not None and torch.device(device).type == "cpu"
    try:
        model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
            source,
            dtype=dtype or (torch.float32 if on_cpu else "auto"),
            revision=revision,
            trust_remote_code=trust_remote_code,
            **model_kwargs,
        )
    except (OSError, ValueError, ImportError, SafetensorError, UnpicklingError) as error:
        raise InvalidInputError(f"The language model {name!r} cannot be loaded: {error}") from error
    if device is not None:
        model.to(device)  # type: ignore[arg-type]
    return model, source


def load_tensors(file: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file."""
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise InvalidInputError(f"{file} cannot be read: {error}") from error


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def save_lm(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Write an LM and its tokenizer, its weights as they are on disk where they are still those of a local folder."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    source = Path(str(model.config._name_or_path or ""))
    files = weight_files(str(source), None) if source.is_dir() else []
    if files and matches_files(model, files):
        for written in folder.glob("model*.safetensors*"):
            written.unlink()
        for file in [*files, *source.glob("*.safetensors.index.json")]:
            shutil.copyfile(file, folder / file.name)
