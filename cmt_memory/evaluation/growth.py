"""The paper's two experiments on growing stores: what becomes of answers as documents, or irrelevant ones, come in."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cmt_memory.documents import Document, MemoryHit
from cmt_memory.errors import InvalidInputError
from cmt_memory.evaluation.arms import Arms, Case
from cmt_memory.evaluation.config import EvalConfig, FactsQuestions
from cmt_memory.evaluation.data import Dataset, Question, read_data
from cmt_memory.evaluation.metrics import SCORES, Bootstrap, recall, score
from cmt_memory.evaluation.records import Record, Records
from cmt_memory.model.modeling import CMTModel
from cmt_memory.progress import Progress
from cmt_memory.store import CMTMemoryStore

FOUND, ANSWERED = "growth_retrieval.jsonl", "growth.jsonl"
EXPERIMENTS: dict[str, str] = {
    "retention": "questions about the first documents, asked again as later ones come in",
    "noise": "the same questions, asked again as irrelevant documents come in",
}
"""Names of the experiments and what they are."""


@dataclass(frozen=True, slots=True)
class Growth:
    """A store that grows, and questions that are asked at each of its sizes.

    Attributes:
        name: a key of `EXPERIMENTS`.
        documents: text by id, in the order they come in.
        sizes: after how many documents the questions are asked; all are about the first `sizes[0]`.
        questions: those asked.
    """

    name: str
    documents: dict[str, str]
    sizes: tuple[int, ...]
    questions: tuple[Question, ...]

    @property
    def digest(self) -> str:
        """A digest of everything that its records depend on."""
        asked = [(q.number, q.text, q.answers, q.gold) for q in self.questions]
        return hashlib.sha256(json.dumps([self.name, self.documents, self.sizes, asked]).encode()).hexdigest()[:16]


def growths(config: EvalConfig, data: Dataset) -> list[Growth]:
    """The experiments that a configuration asks for.

    Raises:
        InvalidInputError: there are fewer documents than an experiment needs.
    """
    found = []
    if config.retention is not None:
        sizes = config.retention.sizes
        if sizes[-1] > len(data.documents):
            raise InvalidInputError(
                f"retention.sizes go up to {sizes[-1]:,}, but there are {len(data.documents):,} documents; lower them."
            )
        wanted = {"documents": sizes[0], "questions": config.retention.questions}
        first = read_data(config.model_copy(update=wanted))
        found.append(Growth("retention", dict(list(data.documents.items())[: sizes[-1]]), sizes, first.questions))
    if config.noise is not None:
        own = len(data.documents)
        sizes = (own, *(own + round(share * own) for share in config.noise.shares))
        texts = _irrelevant(config, sizes[-1] - own)
        documents = data.documents | {f"noise{number}": text for number, text in enumerate(texts)}
        chosen = _some(data.questions, config.noise.questions, f"{config.seed}/noise")
        found.append(Growth("noise", documents, sizes, chosen))
    return found


def _irrelevant(config: EvalConfig, count: int) -> list[str]:
    """Texts of other data; unless it is named, synthetic facts with names that no evaluation's facts have."""
    assert config.noise is not None
    source = config.noise.data or FactsQuestions(kind="facts", count=count, facts=(4, 9), split="train")
    other = config.model_copy(update={"data": source, "documents": None, "questions": 1})
    texts = list(read_data(other).documents.values())
    if len(texts) < count:
        raise InvalidInputError(
            f"noise.data has {len(texts):,} documents, and {count:,} are needed; lower noise.shares or `documents`."
        )
    return texts[:count]


def _some(questions: Sequence[Question], count: int, seed: str) -> tuple[Question, ...]:
    places = random.Random(seed).sample(range(len(questions)), min(count, len(questions)))
    return tuple(questions[place] for place in sorted(places))


def hits_of(store: CMTMemoryStore, passages: Sequence[str]) -> dict[str, MemoryHit]:
    """Passages of a store by id, as a search gives them."""
    return {
        name: MemoryHit(row.document, name, (row.start, row.end), 1.0, {}, row.text, row.metadata)
        for start in range(0, len(passages), 500)
        for some in [passages[start : start + 500]]
        for name, row in zip(some, store.bank.passages_by_id(some), strict=True)
    }


class Growing:
    """Searches and answers of one growth, on disk as they come.

    Args:
        config: the configuration.
        growth: the experiment.
        records: of the run.
        show_progress: draw progress bars.
    """

    def __init__(self, config: EvalConfig, growth: Growth, records: Records, show_progress: bool) -> None:
        self._config, self._growth, self._records, self._show = config, growth, records, show_progress
        self._found: dict[str, dict[tuple[int, int], list[str]]] = {}
        self._hits: dict[str, dict[str, MemoryHit]] = {}

    def search(self, lm: str, model: CMTModel) -> None:
        """Find passages for every question at every size, in a store that is made anew and grows."""
        growth = self._growth
        wanted = len(growth.sizes) * len(growth.questions)
        found = self._searched(lm)
        folder = self._config.folder / "stores" / f"{lm.removeprefix('lm-')}-{growth.name}"
        if len(found) < wanted and folder.exists():
            shutil.rmtree(folder)
        with CMTMemoryStore(
            folder,
            model,
            encoder=None if self._config.encoder == "none" else self._config.encoder,
            passage_tokens=self._config.passage_tokens,
            passage_overlap=self._config.passage_overlap,
            lazy=True,
        ) as store:
            if len(found) < wanted:
                found = self._grow(lm, store)
            names = list(dict.fromkeys(name for hits in found.values() for name in hits))
            self._hits[lm] = hits_of(store, names)
        self._found[lm] = found

    def _grow(self, lm: str, store: CMTMemoryStore) -> dict[tuple[int, int], list[str]]:
        growth, found = self._growth, dict[tuple[int, int], list[str]]()
        documents = [Document(text, id=name) for name, text in growth.documents.items()]
        total = len(growth.sizes) * len(growth.questions)
        with Progress(f"Searching, {growth.name}", total, unit="questions", show=self._show) as bar:
            for before, size in zip((0, *growth.sizes), growth.sizes, strict=False):
                store.add_documents(documents[before:size])
                for question in growth.questions:
                    hits = store.search(question.text, self._config.k)
                    found[size, question.number] = [hit.passage for hit in hits]
                    bar.advance(1)
        self._records.append(
            FOUND,
            [
                {"lm": lm, "growth": growth.digest, "size": size, "question": number, "hits": hits}
                for (size, number), hits in found.items()
            ],
        )
        return found

    def _searched(self, lm: str) -> dict[tuple[int, int], list[str]]:
        return {
            (record["size"], record["question"]): record["hits"]
            for record in self._records.read(FOUND)
            if (record["lm"], record["growth"]) == (lm, self._growth.digest)
        }

    def answer(self, arms: Arms, arm: str, condition: str, lm: str) -> None:
        """Answer every question at every size; the same passages give the same answer and are read once."""
        growth, found, hits = self._growth, self._found[lm], self._hits[lm]
        known = {(r["question"], tuple(r["hits"])): r["reply"] for r in self._answered(condition)}
        done = {(r["size"], r["question"]) for r in self._answered(condition)}
        todo = [(size, q) for size in growth.sizes for q in growth.questions if (size, q.number) not in done]
        with Progress(f"{growth.name}, {condition}", len(todo), unit="questions", show=self._show) as bar:
            for start in range(0, len(todo), self._config.batch):
                some = todo[start : start + self._config.batch]
                new = {
                    (q.number, tuple(found[size, q.number])): q
                    for size, q in some
                    if (q.number, tuple(found[size, q.number])) not in known
                }
                cases = [Case(q.text, tuple(hits[name] for name in names), (), ()) for (_, names), q in new.items()]
                for key, reply in zip(new, arms.answer(arm, cases) if cases else (), strict=True):
                    values = {name: value for name, value in asdict(reply).items() if value is not None}
                    known[key] = values | score(reply.text, new[key].answers)
                self._records.append(ANSWERED, [self._record(condition, size, q, found, known) for size, q in some])
                bar.advance(len(some))

    def _record(
        self,
        condition: str,
        size: int,
        question: Question,
        found: dict[tuple[int, int], list[str]],
        known: dict[tuple[int, tuple[str, ...]], dict[str, Any]],
    ) -> Record:
        names = found[size, question.number]
        return {
            "growth": self._growth.digest,
            "condition": condition,
            "size": size,
            "question": question.number,
            "hits": names,
            "reply": known[question.number, tuple(names)],
        }

    def _answered(self, condition: str) -> list[Record]:
        wanted = (self._growth.digest, condition)
        return [r for r in self._records.read(ANSWERED) if (r["growth"], r["condition"]) == wanted]

    def summary(self, condition: str, lm: str) -> list[dict[str, Any]]:
        """Figures at each size: scores, the share kept of those at the first size, and what was found."""
        growth, config = self._growth, self._config
        bootstrap = Bootstrap(
            [q.documents or (str(q.number),) for q in growth.questions], seed=config.seed, resamples=config.resamples
        )
        replies = {(r["size"], r["question"]): r["reply"] for r in self._answered(condition)}

        def values(size: int, name: str) -> list[float]:
            return [float(replies[size, q.number][name]) for q in growth.questions]

        points = []
        for size in growth.sizes:
            kept = bootstrap.share(values(size, "f1"), values(growth.sizes[0], "f1"))
            found = [[name.rpartition("#")[0] for name in self._found[lm][size, q.number]] for q in growth.questions]
            recalls = [recall(names, q.gold, config.k) for names, q in zip(found, growth.questions, strict=True)]
            points.append(
                {
                    "documents": size,
                    "added": round(size / growth.sizes[0] - 1, 4),
                    **{name: bootstrap.mean(values(size, name)).as_json() for name in SCORES},
                    "f1_kept": None if kept is None else kept.as_json(),
                    f"recall@{config.k}": bootstrap.mean(recalls).as_json(),
                }
            )
        return points
