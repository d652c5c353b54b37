"""Data of a training run as its YAML file names it: files of several layouts, and synthetic facts."""

from __future__ import annotations

import os
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from cmt_memory.settings import Strict, check_rising

Share = Annotated[float, Field(ge=0, le=1)]


class DataFile(Strict):
    """A file of data.

    Attributes:
        path: the file; `$NAME` in it is replaced from the environment.
        part: which share of its documents, in the file's order, such as `[0, 0.9]`.
    """

    path: str = Field(description="the file; `$NAME` in it is replaced from the environment.")
    part: tuple[Share, Share] = Field(
        default=(0.0, 1.0), description="which share of its documents, in the file's order, such as `[0, 0.9]`."
    )

    @field_validator("path", "documents", check_fields=False)
    @classmethod
    def _expanded(cls, value: str) -> str:
        found = os.path.expandvars(os.path.expanduser(value))
        if "$" in found:
            raise ValueError(f"{value} names an environment variable that is not set")
        return found

    @model_validator(mode="after")
    def _part_is_a_range(self) -> DataFile:
        if self.part[0] >= self.part[1]:
            raise ValueError(f"part must be two rising numbers from 0 to 1, not {list(self.part)}")
        return self


class _File(DataFile):
    """A file to learn from.

    Attributes:
        weight: how often this source is drawn from, beside the others.
    """

    weight: float = Field(default=1.0, gt=0, description="how often this source is drawn from, beside the others.")


class SquadData(_File):
    """Questions in SQuAD's format: JSON, or JSON compressed with gzip or xz."""

    kind: Literal["squad"]


class JsonlData(_File):
    """A line a question: `{"documents": […], "question": "…", "answers": ["…"]}`."""

    kind: Literal["jsonl"]


class StreamingQAData(_File):
    """StreamingQA's JSONL, with its documents in `documents`: JSONL of `{"id" or "evidence_id": …, "text": …}`."""

    kind: Literal["streamingqa"]
    documents: str = Field(description="JSONL file of the documents that the questions are about.")


class ArchivalQAData(_File):
    """ArchivalQA's CSV, with its documents in `documents`: JSONL of `{"id" or "para_id": …, "text": …}`."""

    kind: Literal["archivalqa"]
    documents: str = Field(description="JSONL file of the documents that the questions are about.")


class TextData(_File):
    """Plain text for pretraining, documents separated by a form feed on a line of its own, or by nothing."""

    kind: Literal["text"]


class _Synthetic(Strict):
    """Documents of synthetic facts, without end.

    Attributes:
        split: names and values to draw from.
        phrasings: how statements and questions are worded; `mixed` is `train` and `composed` in turn.
        respelled: share of names and values that get other letters, so that hardly any is learned by heart.
        unknown: share of episodes with a question that the documents do not answer.
        weight: how often this source is drawn from, beside the others.
    """

    split: Literal["train", "eval"] = "train"
    phrasings: Literal["train", "composed", "heldout", "mixed"] = "mixed"
    respelled: Share = 0.0
    unknown: Share = 0.1
    weight: float = Field(default=1.0, gt=0)


class FactsData(_Synthetic):
    """Synthetic fact documents (`cmt_memory.training.facts`).

    Attributes:
        facts: fewest and most facts of a document.
        split: names and values to draw from.
        phrasings: how statements and questions are worded; `mixed` is `train` and `composed` in turn.
        respelled: share of names and values that get other letters, so that hardly any is learned by heart.
        unknown: share of episodes with a question that the documents do not answer.
        weight: how often this source is drawn from, beside the others.
    """

    kind: Literal["facts"]
    facts: tuple[int, int] = (4, 9)

    @model_validator(mode="after")
    def _facts_are_a_range(self) -> FactsData:
        check_rising("facts", self.facts, 1)
        return self


class SwappedData(_Synthetic):
    """Documents in which two values could as well stand the other way round (`FactWorld.swapped_pair`).

    Attributes:
        facts: fewest and most facts of a document, the two among them.
        values: `dates`, or `any` for codes, prices, times and telephone numbers too.
        split: as in `FactsData`.
        phrasings: as in `FactsData`.
        respelled: as in `FactsData`.
        unknown: as in `FactsData`.
        weight: as in `FactsData`.
    """

    kind: Literal["swapped"]
    facts: tuple[int, int] = (2, 4)
    values: Literal["dates", "any"] = "any"

    @model_validator(mode="after")
    def _facts_are_a_range(self) -> SwappedData:
        check_rising("facts", self.facts, 2)
        return self


Source = Annotated[
    SquadData | JsonlData | StreamingQAData | ArchivalQAData | TextData | FactsData | SwappedData,
    Field(discriminator="kind"),
]
