"""A training run as one YAML file, checked before anything is loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from cmt_memory.model.config import (
    MAX_RATIO,
    AdapterConfig,
    CrossAttentionConfig,
    EncoderConfig,
    PrefixConfig,
)
from cmt_memory.model.loading import lm_name
from cmt_memory.settings import Strict, check_settings, read_settings
from cmt_memory.training.data import Share, Source

Weight = Annotated[float, Field(ge=0)]


def _some_documents(value: dict[int, float]) -> dict[int, float]:
    if not any(value):
        raise ValueError("at least one number of documents must be above 0")
    return value


Counts = Annotated[
    dict[Annotated[int, Field(ge=0, le=64)], Annotated[float, Field(gt=0)]], AfterValidator(_some_documents)
]
"""Numbers of documents, and how often each is drawn."""


class Distillation(Strict):
    """KL divergence from the same LM reading the text; see `objectives.distillation_loss`.

    Attributes:
        weight: of this objective; 0 switches it off.
        top_k: compare the teacher's k most likely tokens one by one and all others as one; null compares all.
        temperature: divides the logits of both.
    """

    weight: Weight = 0.0
    top_k: int | None = Field(default=64, ge=1)
    temperature: float = Field(default=1.0, gt=0)


class MemoryAware(Strict):
    """Cross-entropy of the contrast of memory and no memory; see `objectives.memory_aware_logits`.

    Attributes:
        weight: of this objective; 0 switches it off.
        alpha: α; above 0 what the memory changes is amplified, below 0 dampened.
    """

    weight: Weight = 0.0
    alpha: float = 0.5


class SelfMatching(Strict):
    """Questions near their documents, documents apart; see `objectives.self_matching_loss`.

    Attributes:
        weight: of this objective; 0 switches it off.
        lambda: how much counts that documents are apart.
    """

    weight: Weight = 0.0
    balance: float = Field(default=0.1, ge=0, alias="lambda")


class Objectives(Strict):
    """Weights of what is minimised; 0 switches an objective off and costs nothing.

    Attributes:
        answer: cross-entropy of the answers.
        distillation: see `Distillation`.
        memory_aware: see `MemoryAware`.
        self_matching: see `SelfMatching`.
        importance: that slots go to tokens of answers, for `adapted`; see `objectives.importance_loss`.
        reconstruction: cross-entropy of the document itself, in pretraining.
        continuation: cross-entropy of the text that follows, in pretraining.
    """

    answer: Weight = 1.0
    distillation: Distillation = Distillation()
    memory_aware: MemoryAware = MemoryAware()
    self_matching: SelfMatching = SelfMatching()
    importance: Weight = 0.0
    reconstruction: Weight = 1.0
    continuation: Weight = 1.0


class Episodes(Strict):
    """How documents and questions are put together.

    Attributes:
        documents: how many documents a question is asked before, and how often each number is drawn.
        questions: most questions asked about the same documents.
        hard_negatives: a wrong document is one of so many that BM25 finds most like the question.
        document_tokens: longest document; of a longer one the part around the answer is taken.
        continuation_tokens: tokens to predict in pretraining.
        reconstruction: share of pretraining that repeats the document; the rest continues it.
    """

    documents: Counts = Field(default={1: 1.0})
    questions: int = Field(default=2, ge=1)
    hard_negatives: int = Field(default=16, ge=1)
    document_tokens: int = Field(default=512, ge=8)
    continuation_tokens: int = Field(default=64, ge=4)
    reconstruction: Share = 0.3


class Stage(Strict):
    """A part of the run, with an optimiser and a schedule of its own.

    Attributes:
        task: `pretrain` (reconstruction and continuation of text) or `answers`.
        trains: `maps` (the ways to the latent and back, or all of the paper's parts but the text encoder) or `all`
            (the adapters, or the text encoder, too).
        steps: optimiser steps.
        epochs: times over the data, instead of `steps`.
        batch: episodes read together.
        gradient_accumulation: batches of a step, over all processes.
        learning_rate: highest rate, of maps and adapters.
        warmup: share of the steps until it is reached.
        schedule: how it falls afterwards.
        weight_decay: of the adapters and maps.
        max_grad_norm: longest gradient.
        documents: see `Episodes.documents`; only in this stage.
        ratios: those of the run's `ratios` that batches are drawn at, where not all: fewer tokens per slot are learned
            sooner, and help with more.
    """

    task: Literal["pretrain", "answers"]
    trains: Literal["maps", "all"] = "all"
    steps: int | None = Field(default=None, ge=1)
    epochs: float | None = Field(default=None, gt=0)
    batch: int = Field(default=24, ge=1)
    gradient_accumulation: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    warmup: Share = 0.04
    schedule: Literal["linear", "cosine", "constant"] = "cosine"
    weight_decay: float = Field(default=0.0, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    documents: Counts | None = None
    ratios: tuple[int, ...] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_length(self) -> Stage:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give `steps` or `epochs`, one of them")
        return self


class Gates(Strict):
    """What is measured on held-out questions while training, and what ends a hopeless run.

    A threshold of None is measured and never stops.

    Attributes:
        every: steps between measurements.
        after: steps, counted over all stages with task `answers`, before a threshold stops the run.
        questions: held-out questions asked.
        ratio: at which ratio; the checkpoint's own unless given.
        max_new_tokens: length of the answers.
        memory_over_shuffled: least lead of the exact match with the right memories over that with wrong ones.
        shuffled_over_none: most lead of wrong memories over no memory, and over chance for the type of answer, that is
            left at the lower end of its 95 % interval.
        zeroed_over_none: the same of memories whose slots are all zeros.
        exact_match: least exact match of free generations.
        first_token_gain: least nats by which the right memories lower the loss of an answer's first token.
        copy_probe: least share of codes, numbers and names copied exactly from a one-sentence document.
        swap_changed: least share of document pairs, in which two dates have changed places, whose answers differ.
        swap_right: least share of such pairs in which both answers are right.
        effective_rank: least effective rank of the slots of all documents.
        mean_cosine: most mean cosine between two slots of a document.
        overfit_steps: before anything else, so many steps on some 32 questions, which must be known by heart then;
            what they taught is forgotten again. 0 leaves it out.
        overfit: least share of those that must be known.
    """

    every: int = Field(default=200, ge=1)
    after: int = Field(default=400, ge=0)
    questions: int = Field(default=64, ge=4)
    ratio: int | None = Field(default=None, ge=1, le=MAX_RATIO)
    max_new_tokens: int = Field(default=24, ge=1)
    memory_over_shuffled: float | None = 0.02
    shuffled_over_none: float | None = 0.15
    zeroed_over_none: float | None = 0.15
    exact_match: float | None = None
    first_token_gain: float | None = 0.0
    copy_probe: float | None = None
    swap_changed: float | None = 0.1
    swap_right: float | None = None
    effective_rank: float | None = 4.0
    mean_cosine: float | None = 0.98
    overfit_steps: int = Field(default=0, ge=0)
    overfit: Share = 0.9


class TrainConfig(Strict):
    """A run of `cmt-memory train`.

    Attributes:
        output: the run's folder: checkpoints, logs, plot, model card; a run that was stopped goes on from here.
        llm: the frozen LM: hub id, folder, or `cmt-tiny`.
        start: a trained CMT model to go on from, instead of the PCA.
        seed: of everything random.
        ratios: document tokens per slot, for `adapted`; one is drawn for each batch.
        ratio: the one that the checkpoint is used at unless told otherwise; the second of `ratios` unless given.
        latent: numbers per slot.
        compressor: `adapted` (the LM reads, with adapters) or `encoder` (the paper's: a text encoder reads).
        adapter: the LoRA adapters, for `adapted`.
        encoder: the text encoder and the tokens that look at it, for `encoder`.
        aggregator: `concat` (all slots of all documents) or, for `encoder`, `cross_attention` (the paper's).
        cross_attention: settings of `cross_attention`.
        prefix: positions that the slots become, for `encoder`.
        train: data to learn from.
        held_out: data for the gates.
        fit: texts that the PCA is fitted on.
        fit_questions: questions by which the PCA is weighted, so that it keeps what answers depend on; 0 keeps what
            varies most. For `adapted`, and where a stage asks questions.
        episodes: how documents and questions are put together.
        objectives: what is minimised.
        stages: in order.
        gates: measurements that stop a hopeless run.
        bf16: compute in bfloat16; weights of what is trained stay float32. `auto` does where that is faster: on GPUs
            that can, and on CPUs with tile registers (AMX). A CPU without them takes up to twice as long for it.
        batch_tokens: most document tokens that the compressor reads in one pass.
        log_every: steps between two lines of the log.
        save_every: steps between two checkpoints.
        keep_checkpoints: how many checkpoints of a stage are kept.
        device: `auto`, or `cpu`.
    """

    output: str
    llm: str = "cmt-tiny"
    start: str | None = None
    seed: int = Field(default=0, ge=0)
    ratios: tuple[Annotated[int, Field(ge=1, le=MAX_RATIO)], ...] = Field(default=(2, 4, 8, 16), min_length=1)
    ratio: int | None = Field(default=None, ge=1, le=MAX_RATIO)
    latent: int = Field(default=256, ge=1)
    compressor: Literal["adapted", "encoder"] = "adapted"
    adapter: AdapterConfig = AdapterConfig()
    encoder: EncoderConfig | None = None
    aggregator: Literal["concat", "cross_attention"] = "concat"
    cross_attention: CrossAttentionConfig | None = None
    prefix: PrefixConfig | None = None
    train: tuple[Source, ...] = Field(min_length=1)
    held_out: tuple[Source, ...] = ()
    fit: int = Field(default=200, ge=1)
    fit_questions: int = Field(default=0, ge=0)
    episodes: Episodes = Episodes()
    objectives: Objectives = Objectives()
    stages: tuple[Stage, ...] = Field(min_length=1)
    gates: Gates = Gates()
    bf16: bool | Literal["auto"] = False
    batch_tokens: int = Field(default=16384, ge=64)
    log_every: int = Field(default=20, ge=1)
    save_every: int = Field(default=200, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    device: Literal["auto", "cpu"] = "auto"

    @model_validator(mode="after")
    def _data_fits_the_stages(self) -> TrainConfig:
        if any(stage.task == "answers" for stage in self.stages):
            if not any(source.kind != "text" for source in self.train):
                raise ValueError("a stage with task `answers` needs a source with questions, not `text` alone")
            total = self.objectives
            if not (total.answer or total.distillation.weight or total.memory_aware.weight):
                raise ValueError("a stage with task `answers` needs objective answer, distillation or memory_aware")
        if any(source.kind == "text" for source in self.held_out):
            raise ValueError("held_out takes sources with questions, not `text`")
        return self

    @model_validator(mode="after")
    def _parts_go_together(self) -> TrainConfig:
        encoder, across = self.compressor == "encoder", self.aggregator == "cross_attention"
        for key, value, needed, there in (
            ("encoder", self.encoder, "compressor: encoder", encoder),
            ("prefix", self.prefix, "compressor: encoder", encoder),
            ("aggregator", across or None, "compressor: encoder", encoder),
            ("cross_attention", self.cross_attention, "aggregator: cross_attention", across),
        ):
            if value is not None and not there:
                raise ValueError(f"`{key}` needs `{needed}`")
        default = TrainConfig.model_fields["ratios"].default
        if encoder and (self.ratio is not None or self.ratios != default):
            raise ValueError("compressor `encoder` has `encoder.slots`, not `ratios` and `ratio`; leave them out")
        for number, stage in enumerate(self.stages):
            if unknown := sorted(set(stage.ratios or ()) - set(self.used_ratios)):
                raise ValueError(f"`stages.{number}.ratios` has {unknown}, which the run's `ratios` do not have")
        if encoder and self.adapter != AdapterConfig():
            raise ValueError("`adapter` needs `compressor: adapted`")
        return self

    @property
    def parts(self) -> dict[str, Any]:
        """Which parts are trained, as the settings of a CMT model say it."""
        if self.compressor == "adapted":
            return {"compressor": "adapted", "adapter": self.adapter}
        encoder = self.encoder or EncoderConfig()
        across = self.aggregator == "cross_attention"
        return {
            "compressor": "encoder",
            "encoder": encoder.model_copy(update={"model": lm_name(encoder.model)}),
            "aggregator": self.aggregator,
            "cross_attention": (self.cross_attention or CrossAttentionConfig()) if across else None,
            "prefix": self.prefix or PrefixConfig(),
        }

    @property
    def used_ratios(self) -> tuple[int, ...]:
        """The ratios that batches are drawn at; 1 alone where the number of slots does not depend on the document."""
        return self.ratios if self.compressor == "adapted" else (1,)

    @property
    def default_ratio(self) -> int:
        """The ratio that the checkpoint is used at unless told otherwise."""
        return self.ratio or self.used_ratios[min(1, len(self.used_ratios) - 1)]

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return Path(self.output)

    def as_json(self) -> dict[str, Any]:
        """JSON-ready values."""
        values: dict[str, Any] = self.model_dump(mode="json", by_alias=True)
        return values


def read_config(path: Path) -> TrainConfig:
    """Read and check a YAML file; see `cmt_memory.settings.read_settings`."""
    return read_settings(path, TrainConfig)


def checked(values: dict[str, Any], name: str) -> TrainConfig:
    """A configuration from plain values; `name` says where they came from."""
    return check_settings(values, name, TrainConfig)
