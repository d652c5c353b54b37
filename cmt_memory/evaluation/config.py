"""An evaluation as one YAML file, checked before anything is loaded."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cmt_memory.evaluation.arms import ARMS
from cmt_memory.model.config import MAX_RATIO, Untrained
from cmt_memory.settings import Strict, check_rising, read_settings
from cmt_memory.training.data import DataFile


class SquadQuestions(DataFile):
    """Questions in SQuAD's format: JSON, or JSON compressed with gzip or xz."""

    kind: Literal["squad"]


class JsonlQuestions(DataFile):
    """A line a question: `{"documents": […], "question": "…", "answers": ["…"]}`."""

    kind: Literal["jsonl"]


class StreamingQAQuestions(DataFile):
    """StreamingQA's JSONL, with its documents in `documents`: JSONL of `{"id" or "evidence_id": …, "text": …}`."""

    kind: Literal["streamingqa"]
    documents: str = Field(description="JSONL file of the documents that the questions are about.")


class ArchivalQAQuestions(DataFile):
    """ArchivalQA's CSV, with its documents in `documents`: JSONL of `{"id" or "para_id": …, "text": …}`."""

    kind: Literal["archivalqa"]
    documents: str = Field(description="JSONL file of the documents that the questions are about.")


class FactsQuestions(Strict):
    """Synthetic documents of one world, in which no two facts have the same name and value.

    Attributes:
        count: how many documents.
        facts: fewest and most facts of a document.
        split: names and values to draw from; `eval` is what nothing was trained on.
        phrasings: how statements and questions are worded; `heldout` is what nothing was trained on.
    """

    kind: Literal["facts"]
    count: int = Field(default=2000, ge=1)
    facts: tuple[int, int] = (8, 8)
    split: Literal["train", "eval"] = "eval"
    phrasings: Literal["train", "composed", "heldout"] = "heldout"

    @model_validator(mode="after")
    def _facts_are_a_range(self) -> FactsQuestions:
        check_rising("facts", self.facts, 1)
        return self


class SwappedQuestions(Strict):
    """Pairs of synthetic documents, in the second of which two values have changed places (the paper's swapped dates).

    Both documents are asked the same question; a pair is right where both answers are. Nothing is searched: each
    question is asked before its own document, because the words of the other are the same.

    Attributes:
        pairs: how many pairs.
        facts: fewest and most facts of a document, the two among them.
        values: what is exchanged: `dates`, or `any` for codes, prices, times and telephone numbers too.
        split: names and values to draw from; `eval` is what nothing was trained on.
        phrasings: how statements and questions are worded; `heldout` is what nothing was trained on.
    """

    kind: Literal["swapped"]
    pairs: int = Field(default=200, ge=1)
    facts: tuple[int, int] = (2, 2)
    values: Literal["dates", "any"] = "dates"
    split: Literal["train", "eval"] = "eval"
    phrasings: Literal["train", "composed", "heldout"] = "heldout"

    @model_validator(mode="after")
    def _facts_are_a_range(self) -> SwappedQuestions:
        check_rising("facts", self.facts, 2)
        return self


Questions = Annotated[
    SquadQuestions | JsonlQuestions | StreamingQAQuestions | ArchivalQAQuestions | FactsQuestions | SwappedQuestions,
    Field(discriminator="kind"),
]


class Retention(Strict):
    """Questions about the first documents, asked again as later ones come in; the paper's stream.

    Attributes:
        sizes: after how many documents questions are asked; they are about the first so many as `sizes` begins with.
        questions: how many.
    """

    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(default=(200, 400, 600, 800, 1000, 1200), min_length=2)
    questions: int = Field(default=200, ge=1)

    @field_validator("sizes")
    @classmethod
    def _rise(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"must be rising numbers, not {list(value)}")
        return value


class Noise(Strict):
    """The questions, asked again as irrelevant documents come in.

    Attributes:
        shares: how many irrelevant documents, as shares of the documents.
        questions: how many questions.
        data: where irrelevant documents come from; synthetic facts unless given.
    """

    shares: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.2, 0.4, 0.6, 0.8, 1.0), min_length=1)
    questions: int = Field(default=200, ge=1)
    data: Questions | None = None

    @field_validator("shares")
    @classmethod
    def _rise(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"must be rising numbers, not {list(value)}")
        return value


class EvaluatedModel(Strict):
    """A model, at one or several ratios.

    Attributes:
        model: a folder that `cmt-memory train` wrote, any LM's hub id or folder (nothing is trained then), or
            `cmt-tiny`.
        ratios: document tokens per slot; the model's own unless given.
        latent: numbers per slot, or `full`; only where nothing was trained.
        compressor: `pooled` or `kept`; only where nothing was trained.
        name: what tables call it; the model's name unless given.
    """

    model: str
    ratios: tuple[Annotated[int, Field(ge=1, le=MAX_RATIO)], ...] | None = Field(default=None, min_length=1)
    latent: Annotated[int, Field(ge=1)] | Literal["full"] | None = None
    compressor: Untrained | None = None
    name: str | None = Field(default=None, min_length=1)

    @property
    def label(self) -> str:
        """What tables call it."""
        settings = [str(value) for value in (self.compressor, self.latent and f"latent {self.latent}") if value]
        return self.name or ", ".join([Path(self.model).name, *settings])


class EvalConfig(Strict):
    """A run of `cmt-memory eval`.

    Attributes:
        output: the results folder; a run that was stopped goes on from here.
        models: what is evaluated, all on the same questions.
        data: where documents and questions come from.
        documents: how many documents are searched, the first ones of the data; all unless given.
        questions: how many questions are asked, drawn from those about these documents; null for all.
        k: passages that are retrieved for a question.
        arms: what is compared; `text`, `none` and `memory` are needed for shares. Unless given, all that say something
            about the data: `swapped` for pairs alone, the oracles where passages are searched.
        ttft_questions: on how many questions the time to the first token is measured; 0 leaves it out.
        retention: see `Retention`; left out unless given.
        noise: see `Noise`; left out unless given.
        encoder: sentence encoder for the search; `auto`, or `none` for words alone.
        passage_tokens: longest passage, in the LM's tokens.
        passage_overlap: tokens that neighbouring passages share.
        slot_dtype: how slots are kept, `int8`, `float16` or `native`.
        question_format: the words around a question, such as `"{question} Answer in a few words."`.
        template: whether the LM's prompt format is used; false lets it continue the words.
        max_new_tokens: length of the answers.
        batch: questions that are answered together.
        seed: of the choice of questions, of what is shuffled, and of the intervals.
        resamples: of the bootstrap.
        device: `auto`, or one such as `cpu` or `cuda:0`.
        dtype: of the LM, such as `bfloat16`; its own (float32 on a CPU) unless given.
    """

    output: str
    models: tuple[EvaluatedModel, ...] = Field(min_length=1)
    data: Questions
    documents: int | None = Field(default=None, ge=1)
    questions: int | None = Field(default=2000, ge=1)
    k: int = Field(default=4, ge=1)
    arms: tuple[str, ...] | None = Field(default=None, min_length=1)
    ttft_questions: int = Field(default=20, ge=0)
    retention: Retention | None = None
    noise: Noise | None = None
    encoder: str = "auto"
    passage_tokens: int = Field(default=512, ge=8)
    passage_overlap: int = Field(default=64, ge=0)
    slot_dtype: Literal["int8", "float16", "native"] = "int8"
    question_format: str = "{question}"
    template: bool = True
    max_new_tokens: int = Field(default=32, ge=1)
    batch: int = Field(default=16, ge=1)
    seed: int = Field(default=0, ge=0)
    resamples: int = Field(default=2000, ge=100)
    device: str = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None

    @field_validator("question_format")
    @classmethod
    def _holds_the_question(cls, value: str) -> str:
        try:
            names = [name for _, name, _, _ in string.Formatter().parse(value) if name is not None]
        except ValueError:
            names = []
        if names != ["question"]:
            raise ValueError("must hold {question} once, and no other braces")
        return value

    @field_validator("arms")
    @classmethod
    def _are_arms(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if value is None:
            return None
        unknown = [name for name in value if name not in ARMS]
        if unknown:
            raise ValueError(f"there is no arm {unknown[0]!r}; allowed: {', '.join(ARMS)}")
        for needing in ("truncated", "extract", "extract_bytes"):
            if needing in value and "memory" not in value:
                raise ValueError(f"{needing!r} is measured against 'memory', which is left out")
        return tuple(name for name in ARMS if name in value)

    @model_validator(mode="after")
    def _fits_together(self) -> EvalConfig:
        if "swapped" in (self.arms or ()) and not self.has_pairs:
            raise ValueError("arms: 'swapped' needs pairs of documents: data of kind `swapped`")
        if self.has_pairs and (self.retention or self.noise):
            raise ValueError("retention and noise need a search, and pairs of documents are not searched")
        labels = [entry.label for entry in self.models]
        double = [label for label in labels if labels.count(label) > 1]
        if double:
            raise ValueError(f"models: two are called {double[0]!r}; give one of them another `name`")
        if self.passage_overlap >= self.passage_tokens:
            raise ValueError(f"passage_overlap must be below passage_tokens, not {self.passage_overlap}")
        return self

    @property
    def folder(self) -> Path:
        """The results folder."""
        return Path(self.output)

    @property
    def has_pairs(self) -> bool:
        """Whether the documents are pairs, so that each question's own document is given and nothing is searched."""
        return isinstance(self.data, SwappedQuestions)

    @property
    def compared(self) -> tuple[str, ...]:
        """The arms that are measured."""
        senseless = ("oracle_text", "oracle_memory") if self.has_pairs else ("swapped",)
        return self.arms or tuple(arm for arm in ARMS if arm not in senseless)

    def what_records_depend_on(self) -> dict[str, Any]:
        """Every setting that a record of an answer depends on, beside its model and ratio."""
        free = {"output", "models", "batch", "resamples", "device", "ttft_questions", "retention", "noise"}
        return self.model_dump(mode="json", exclude=free) | {"arms": list(self.compared)}


def read_config(path: Path) -> EvalConfig:
    """Read and check a YAML file; see `cmt_memory.settings.read_settings`."""
    return read_settings(path, EvalConfig)
