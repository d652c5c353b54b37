"""What a saved CMT model says about itself: `config.json`, validated on reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cmt_memory.errors import InvalidInputError

MAX_RATIO = 256


class AdapterConfig(BaseModel):
    """How the compressor `adapted` reads: LoRA adapters on the frozen LM, of its own.

    Attributes:
        rank: rank of each adapter.
        alpha: adapters are scaled by `alpha / rank`.
        dropout: on the adapters' input, while training.
        targets: names of the modules to adapt, or `all-linear`.
        causal: read only from left to right. Otherwise each token sees the whole document.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    causal: bool = False


class CMTConfig(BaseModel):
    """Settings of a CMT model.

    Attributes:
        lm: hub id or path of the frozen LM; `"./lm"` where the checkpoint brings a copy.
        lm_revision: hub revision of the LM, if one was asked for.
        ratio: document tokens per slot.
        latent: numbers per slot, or `"full"`.
        compressor: `pooled`, `kept`, or `adapted`, which is trained.
        adapter: settings of `adapted`.
        trained_ratios: the ratios that `adapted` was trained at.
        aggregator: `concat`.
        prompt: the prompt format (head ids, question, tail), as it was when memories were made.
        chat_template_kwargs: extra variables for the tokenizer's chat template.
        fingerprint: what memories of this model carry; see `cmt_memory.model.fingerprint`.
    """

    model_config = ConfigDict(extra="forbid")

    format_version: Literal[1] = 1
    lm: str
    lm_revision: str | None = None
    ratio: int = Field(default=1, ge=1, le=MAX_RATIO)
    latent: int | Literal["full"] = "full"
    compressor: Literal["pooled", "kept", "adapted"] = "pooled"
    adapter: AdapterConfig | None = None
    trained_ratios: tuple[int, ...] = ()
    aggregator: Literal["concat"] = "concat"
    prompt: dict[str, Any] = Field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _adapted_has_its_settings(self) -> CMTConfig:
        if (self.compressor == "adapted") != (self.adapter is not None):
            raise ValueError("`adapter` goes with compressor `adapted`, and only with it")
        if self.compressor == "adapted" and self.latent == "full":
            raise ValueError('compressor `adapted` makes latent slots; latent must be a number, not "full"')
        return self

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
