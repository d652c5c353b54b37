"""What a saved CMT model says about itself: `config.json`, validated on reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from cmt_memory.errors import InvalidInputError

MAX_RATIO = 256


class CMTConfig(BaseModel):
    """Settings of a CMT model.

    Attributes:
        lm: hub id or path of the frozen LM; `"./lm"` where the checkpoint brings a copy.
        lm_revision: hub revision of the LM, if one was asked for.
        ratio: document tokens per slot.
        latent: numbers per slot, or `"full"`.
        compressor: `pooled` or `kept`.
        aggregator: `concat`.
        prompt: the prompt format (head ids, question, tail), as it was when memories were made.
        chat_template_kwargs: extra variables for the tokenizer's chat template.
        fingerprint: what memories of this model carry; see `cmt_memory.model.fingerprint`.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    lm: str
    lm_revision: str | None = None
    ratio: int = Field(1, ge=1, le=MAX_RATIO)
    latent: int | Literal["full"] = "full"
    compressor: Literal["pooled", "kept"] = "pooled"
    aggregator: Literal["concat"] = "concat"
    prompt: dict[str, Any] = Field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)

    @classmethod
    def load(cls, directory: Path) -> CMTConfig:
        """Read and check `directory/config.json`."""
        path = directory / "config.json"
        try:
            values = json.loads(path.read_text("utf-8"))
        except FileNotFoundError:
            raise InvalidInputError(
                f"{directory} holds no config.json, so it is not a saved CMT model; "
                "use CMTModel.from_llm for a plain language model."
            ) from None
        except json.JSONDecodeError as error:
            raise InvalidInputError(f"{path} is not valid JSON: {error}.") from error
        if "model_type" in values:
            raise InvalidInputError(
                f"{directory} is a language model of type {values['model_type']!r}, not a saved CMT model; "
                "use CMTModel.from_llm."
            )
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise InvalidInputError(f"{path} is not a valid CMT model configuration: {error}") from error
