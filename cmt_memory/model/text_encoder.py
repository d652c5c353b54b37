"""A Hugging Face text encoder (T5's encoder, BERT and its kin) that reads documents for the compressor `encoder`."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from functools import cached_property

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding, AutoTokenizer, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_TEXT_ENCODING_MAPPING

from cmt_memory.errors import InvalidInputError, UnsupportedModelError
from cmt_memory.model.config import EncoderConfig
from cmt_memory.model.fingerprint import encoder_digest, tokenizer_digest
from cmt_memory.model.probe import position_limit

_PROBE = 6


class TextEncoder:
    """A text encoder with its tokenizer.

    A text longer than the encoder's positions is read in parts of that length, whose states follow each other.

    Args:
        settings: `model`, `revision`, `window` and `trained` are used.
        device: where it computes.

    Raises:
        InvalidInputError: there is no such encoder, or it has no fast tokenizer.
        UnsupportedModelError: the model does not read in both directions, so it is no encoder.
    """

    def __init__(self, settings: EncoderConfig, device: torch.device) -> None:
        self.settings = settings
        self.model = _load(settings).to(device).eval()  # type: ignore[arg-type]
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(settings.model, revision=settings.revision)
        except (OSError, ValueError, ImportError, KeyError) as error:
            raise InvalidInputError(f"The tokenizer of {settings.model!r} cannot be loaded: {error}") from error
        if not self.tokenizer.is_fast:
            raise InvalidInputError(f"{settings.model!r} has no fast tokenizer, which reading in parts needs.")
        limit = position_limit(self.model.config) or settings.window
        self.window = min(settings.window, limit, self.tokenizer.model_max_length)
        self.used = self._check()

    @property
    def size(self) -> int:
        """Numbers per state."""
        return int(self.model.config.hidden_size)

    @cached_property
    def digest(self) -> str:
        """Digest of tokenizer, configuration, and the weights where those are not trained."""
        weights = encoder_digest(self.model, weights=not self.settings.trained)
        return f"{weights[:32]}-{tokenizer_digest(self.tokenizer)[:32]}"

    def twin(self) -> TextEncoder:
        """The same encoder with weights of its own."""
        other = copy.copy(self)
        other.model = copy.deepcopy(self.model)
        return other

    def read(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Last states `[B, n, size]` of texts, and the bool mask `[B, n]` of those that are no padding."""
        found = self.tokenizer(
            list(texts), truncation=True, max_length=self.window, return_overflowing_tokens=True, verbose=False
        )
        rows = [torch.tensor(row or [0]) for row in found["input_ids"]]
        padding = self.tokenizer.pad_token_id or 0
        ids = pad_sequence(rows, batch_first=True, padding_value=padding).to(self.model.device)
        mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True).to(self.model.device)
        states = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
        parts: list[list[Tensor]] = [[] for _ in texts]
        for number, (text, row) in enumerate(zip(found["overflow_to_sample_mapping"], rows, strict=True)):
            parts[text].append(states[number, : len(row)])
        whole = [torch.cat(part) for part in parts]
        lengths = torch.tensor([len(part) for part in whole], device=states.device)
        padded = pad_sequence(whole, batch_first=True)
        return padded, torch.arange(padded.shape[1], device=states.device)[None] < lengths[:, None]

    def _check(self) -> frozenset[str]:
        """See that every state depends on the whole text; returns the parameters that the states depend on."""
        name, config = self.settings.model, self.model.config
        first = [i for i in range(_PROBE + 2) if i != config.pad_token_id]
        ids = torch.tensor([first[:_PROBE], [*first[: _PROBE - 1], first[_PROBE]]], device=self.model.device)
        parameters = dict(self.model.named_parameters())
        flags = {key: parameter.requires_grad for key, parameter in parameters.items()}
        try:
            with torch.enable_grad():
                self.model.requires_grad_(True)
                states = self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
                total = states.float().square().sum()
                gradients = torch.autograd.grad(total, list(parameters.values()), allow_unused=True)
        except (TypeError, ValueError, RuntimeError, IndexError, AttributeError, NotImplementedError) as error:
            raise UnsupportedModelError(
                f"{name!r} cannot be used as a text encoder ({type(error).__name__}: {error})."
            ) from error
        finally:
            for key, parameter in parameters.items():
                parameter.requires_grad_(flags[key])
        if torch.equal(states[0, 0], states[1, 0]):
            raise UnsupportedModelError(
                f"{name!r} reads from left to right only, so it is no text encoder; name one such as "
                f"{EncoderConfig().model!r} or a BERT in encoder.model."
            )
        return frozenset(key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None)


def _load(settings: EncoderConfig) -> PreTrainedModel:
    """The encoder alone, in float32."""
    try:
        config = AutoConfig.from_pretrained(settings.model, revision=settings.revision)
        alone = type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING
        if config.is_encoder_decoder and not alone:
            raise UnsupportedModelError(
                f"{settings.model!r} is an encoder-decoder ({config.model_type}) whose encoder is not offered alone; "
                "name a T5 or a BERT in encoder.model."
            )
        kind = AutoModelForTextEncoding if alone else AutoModel
        model: PreTrainedModel = kind.from_pretrained(settings.model, revision=settings.revision, dtype=torch.float32)
    except (OSError, ValueError, ImportError, KeyError, SafetensorError) as error:
        if isinstance(error, UnsupportedModelError):
            raise
        raise InvalidInputError(
            f"The text encoder {settings.model!r} cannot be loaded: {error} Name another in encoder.model."
        ) from error
    return model
