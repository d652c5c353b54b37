"""What a saved CMT model says about itself: `config.json`, validated on reading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from cmt_memory.errors import InvalidInputError

MAX_RATIO = 256
TRAINED = ("adapted", "encoder")
"""Compressors that have to be trained."""
Untrained = Literal["pooled", "kept"]
"""Compressors that need no training, which `cmt_memory.model.parts.COMPRESSORS` names too."""


class AdapterConfig(BaseModel):
    """How the compressor `adapted` reads: LoRA adapters on the frozen LM, of its own.

    Attributes:
        rank: rank of each adapter.
        alpha: adapters are scaled by `alpha / rank`.
        dropout: on the adapters' input, while training.
        targets: names of the modules to adapt, or `all-linear`.
        causal: read only from left to right. Otherwise each token sees the whole document.
        weighted: slots are handed out by learned importance, and each head picks tokens at a place of its own.
            Otherwise a slot is the mean of `ratio` tokens that follow each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    rank: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"
    causal: bool = False
    weighted: bool = True


class EncoderConfig(BaseModel):
    """How the compressor `encoder` reads: learned tokens look at the last states of a text encoder.

    Attributes:
        model: hub id or folder of the text encoder, T5's or one like BERT; `"./encoder"` where the checkpoint brings
            a copy.
        revision: hub revision of it, if one was asked for.
        trained: train it too. Otherwise it stays as it is, and checkpoints only name it.
        slots: k, slots of every document.
        blocks: blocks of cross-attention between the tokens and the states.
        heads: attention heads of a block.
        head_size: numbers per head.
        window: most tokens that the encoder reads at once; its own limit where that is lower.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = "google-t5/t5-base"
    revision: str | None = None
    trained: bool = True
    slots: int = Field(default=24, ge=1, le=1024)
    blocks: int = Field(default=4, ge=1)
    heads: int = Field(default=8, ge=1)
    head_size: int = Field(default=96, ge=1)
    window: int = Field(default=512, ge=16)


class CrossAttentionConfig(BaseModel):
    """The aggregator `cross_attention`.

    Attributes:
        blocks: blocks of cross-attention between the question's slots and those of the memories.
        heads: attention heads of a block.
        head_size: numbers per head.
        documents: learned positions of documents; those after the last one share its position.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    blocks: int = Field(default=4, ge=1)
    heads: int = Field(default=8, ge=1)
    head_size: int = Field(default=96, ge=1)
    documents: int = Field(default=64, ge=1)


class PrefixConfig(BaseModel):
    """The aligner `prefix`: a feed-forward layer for the keys and one for the values of each layer and position.

    Attributes:
        positions: positions in the LM that k slots become.
        hidden: numbers of the inner layer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    positions: int = Field(default=2, ge=1)
    hidden: int = Field(default=768, ge=1)


class CMTConfig(BaseModel):
    """Settings of a CMT model.

    Attributes:
        lm: hub id or path of the frozen LM; `"./lm"` where the checkpoint brings a copy.
        lm_revision: hub revision of the LM, if one was asked for.
        ratio: document tokens per slot.
        latent: numbers per slot, or `"full"`.
        compressor: `pooled`, `kept`, or one that is trained: `adapted`, `encoder`.
        adapter: settings of `adapted`.
        encoder: settings of `encoder`.
        trained_ratios: the ratios that `adapted` was trained at.
        aggregator: `concat`, or `cross_attention`, which is trained.
        cross_attention: settings of `cross_attention`.
        prefix: settings of the aligner that goes with `encoder`.
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
    compressor: Untrained | Literal["adapted", "encoder"] = "pooled"
    adapter: AdapterConfig | None = None
    encoder: EncoderConfig | None = None
    trained_ratios: tuple[int, ...] = ()
    aggregator: Literal["concat", "cross_attention"] = "concat"
    cross_attention: CrossAttentionConfig | None = None
    prefix: PrefixConfig | None = None
    prompt: dict[str, Any] = Field(default_factory=dict)
    chat_template_kwargs: dict[str, Any] = Field(default_factory=dict)
    fingerprint: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _parts_have_their_settings(self) -> CMTConfig:
        encoder = self.compressor == "encoder"
        for key, value, part, chosen in (
            ("adapter", self.adapter, "compressor `adapted`", self.compressor == "adapted"),
            ("encoder", self.encoder, "compressor `encoder`", encoder),
            ("prefix", self.prefix, "compressor `encoder`", encoder),
            ("cross_attention", self.cross_attention, "aggregator `cross_attention`", self.across),
        ):
            if chosen != (value is not None):
                raise ValueError(f"`{key}` goes with {part}, and only with it")
        if self.across and not encoder:
            raise ValueError("aggregator `cross_attention` needs memories of one length: compressor `encoder`")
        if self.compressor in TRAINED and self.latent == "full":
            raise ValueError(f'compressor `{self.compressor}` makes latent slots; latent must be a number, not "full"')
        if encoder and self.ratio != 1:
            raise ValueError("compressor `encoder` makes the same number of slots of every document; leave out `ratio`")
        return self

    @property
    def across(self) -> bool:
        """Whether questions look across the memories found for them."""
        return self.aggregator == "cross_attention"

    def slot_counts(self) -> dict[str, int | None]:
        """What says how many slots a document gets: its tokens for each (`ratio`), or their number itself (`slots`)."""
        if self.encoder is not None:
            return {"ratio": None, "slots": self.encoder.slots}
        return {"ratio": self.ratio, "slots": None}

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
