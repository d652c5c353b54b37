"""What a store is opened with: its model and its retrieval encoder, as its memories and vectors need them."""

from __future__ import annotations

import json
import logging
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as tensors_to_bytes

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError
from cmt_memory.model.config import CMTConfig
from cmt_memory.model.loading import bundled
from cmt_memory.model.modeling import CMTModel
from cmt_memory.retrieval.encoders import NO_ENCODER, Encoder, resolve_encoder

logger = logging.getLogger(__name__)


def load_model(name: str) -> CMTModel:
    """A model by name: bundled (`"cmt-tiny"`), a folder that `save_pretrained` wrote, or any LM's id or folder."""
    if not isinstance(name, str | os.PathLike):
        raise InvalidInputError(f"model must be a CMTModel, a name or a folder, not {type(name).__name__}.")
    if bundled(str(name)) or (Path(name) / "cmt.safetensors").exists():
        return CMTModel.from_pretrained(name)
    return CMTModel.from_llm(name)


def settle_model(bank: MemoryBank, model: CMTModel) -> CMTModel:
    """The model as this bank's memories need it; a new bank remembers the model's settings.

    Raises:
        FingerprintMismatchError: the memories were made by another LM, tokenizer or compressor, or with other
            settings than the caller gave.
    """
    stored = bank.meta("model")
    if not bank.read_only and (stored is None or not bank.shared) and not len(bank):
        mine = model.saved_config().model_dump()
        stored = bank.settle_maker("model", mine, tensors_to_bytes(model.state()), anew=not bank.shared)
        if stored == mine:
            return model
    if stored is None:
        return model
    config = CMTConfig.model_validate(stored)
    for setting in sorted(model.explicit - {"weights"}):
        if (value := getattr(model.config, setting)) != getattr(config, setting):
            raise FingerprintMismatchError(
                f"The store at {bank.path} keeps memories of {setting}={getattr(config, setting)}, and "
                f"{setting}={value} was given: leave it out, or {_anew(bank, setting, value)}."
            )
    if "weights" in model.explicit:
        _check_made_by(bank, config, model.fingerprint, ("lm", "tokenizer", "compressor"))
    settled = model.with_state(config, tensors_from_bytes(bank.asset("model") or b""))
    _check_made_by(bank, config, settled.fingerprint, tuple(config.fingerprint))
    if len(bank):
        settled.hold()
    return settled


def _check_made_by(bank: MemoryBank, config: CMTConfig, given: dict[str, str], parts: tuple[str, ...]) -> None:
    """Refuse a model that differs in some parts from the one that made the memories."""
    differing = [part for part in parts if config.fingerprint[part] != given.get(part)]
    if differing:
        ours, theirs = (
            {part: value if len(value) < 40 else f"{value[:24]}…{value[-12:]}" for part, value in found.items()}
            for found in (config.fingerprint, given)
        )
        raise FingerprintMismatchError(
            f"The store at {bank.path} was made with another model ({config.lm or 'an LM without a name'}): "
            f"{', '.join(differing)} differ. Open it with that model, or {_anew(bank, 'model', 'NAME')}.\n"
            f"  store: {json.dumps(ours, ensure_ascii=False)}\n  given: {json.dumps(theirs, ensure_ascii=False)}"
        )


def _anew(bank: MemoryBank, setting: str, value: object) -> str:
    return f"make its memories anew with `cmt-memory store recompress --store {bank.path} --{setting} {value}`"


def settle_encoder(bank: MemoryBank, encoder: Any) -> Encoder | None:
    """The encoder to search with; another one than the bank's gives every passage a new vector.

    Raises:
        InvalidInputError: the bank is searched by an encoder and None was given, or it is read only and another
            encoder was given.
    """
    stored = bank.encoder
    resolved = resolve_encoder(encoder, stored_id=stored["id"] if stored else None)
    if resolved is None:
        if stored is None and not bank.read_only:
            bank.set_meta("encoder", {"id": NO_ENCODER, "dimension": 0})
        elif stored is not None and stored["id"] != NO_ENCODER and not bank.read_only:
            raise InvalidInputError(
                f"The store at {bank.path} is searched by {stored['id']}; with encoder=None new documents would "
                'have no vector. To search by words alone, pass channels=("bm25",).'
            )
        return None
    if not bank.read_only:
        if stored is not None and stored["id"] != resolved.id and len(bank):
            logger.warning("%s: encoding its passages anew by %s", bank.path, resolved.id)
        bank.replace_encoder(resolved.id, resolved.dimension, resolved.encode_documents)
    elif stored is not None and stored["id"] != resolved.id:
        raise InvalidInputError(
            f"The store at {bank.path} was made with the encoder {stored['id']}, and read_only cannot encode it "
            f"anew by {resolved.id}."
        )
    return resolved
