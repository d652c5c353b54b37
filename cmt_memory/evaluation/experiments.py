"""An evaluation from its configuration to answers in every arm: one LM, retriever and decoding at a time."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cmt_memory.documents import Document, MemoryHit
from cmt_memory.errors import CMTError, InvalidInputError
from cmt_memory.evaluation.arms import LM_ARMS, RATIO_ARMS, Arms, Case, Decoding, Reply
from cmt_memory.evaluation.config import EvalConfig, EvaluatedModel
from cmt_memory.evaluation.data import Dataset, Question, read_data
from cmt_memory.evaluation.extract import Nearest
from cmt_memory.evaluation.firsttoken import TIMED, time_first_tokens
from cmt_memory.evaluation.growth import Growing, growths, hits_of
from cmt_memory.evaluation.metrics import score
from cmt_memory.evaluation.records import ANSWERS, RETRIEVAL, TIMES, Record, Records
from cmt_memory.evaluation.summary import summarise, summarise_times
from cmt_memory.model.loading import bundled
from cmt_memory.model.modeling import CMTModel
from cmt_memory.progress import Progress
from cmt_memory.store import CMTMemoryStore


@dataclass(frozen=True, slots=True)
class Condition:
    """A model at a ratio, or an LM by itself (`ratio` None), and the arms measured there.

    Attributes:
        name: in records.
        model: what tables call the model.
        ratio: document tokens per slot.
        lm: name of the LM's own condition.
        arms: those measured.
        unavailable: why others were not.
        facts: settings of the model, for the report.
    """

    name: str
    model: str
    ratio: int | None
    lm: str
    arms: tuple[str, ...]
    unavailable: dict[str, str]
    facts: dict[str, Any]


def run_evaluation(config: EvalConfig, *, command: str = "", show_progress: bool = False) -> dict[str, Any]:
    """Answer every question in every arm and write what was found to the results folder.

    A run that was stopped goes on from the answers that are there, and ends with the same results.

    Args:
        config: the configuration.
        command: what started the run, for the report.
        show_progress: draw progress bars.

    Returns:
        What `results.json` holds.

    Raises:
        InvalidInputError: the data cannot be read, a model cannot be used so, or the results folder belongs to
            another run.
        CMTError: a model cannot be loaded.
    """
    data = read_data(config)
    records = Records(config.folder, config.what_records_depend_on() | {"data_digest": data.digest})
    with ExitStack() as stores:
        run = _Run(config, data, records, show_progress, stores)
        conditions = run.all_conditions()
    retrieval = records.read(RETRIEVAL)
    results = summarise(config, data, conditions, records.read(ANSWERS), retrieval, run.device, command)
    results |= {"ttft_ms": summarise_times(conditions, records.read(TIMES)), "growth": run.grown(conditions)}
    (config.folder / "results.json").write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    return results


class _Run:
    """The parts of a run that its steps share."""

    def __init__(
        self, config: EvalConfig, data: Dataset, records: Records, show_progress: bool, stores: ExitStack
    ) -> None:
        self.device = "cpu"
        self._config, self._data, self._records, self._show = config, data, records, show_progress
        self._stores = stores
        self._searched: dict[str, tuple[CMTMemoryStore, list[Case]]] = {}
        self._growing = {g.name: Growing(config, g, records, show_progress) for g in growths(config, data)}

    def all_conditions(self) -> list[Condition]:
        """Answer every question under every condition that is not done."""
        conditions: list[Condition] = []
        for entry in self._config.models:
            for model in load_models(entry, self._config):
                self.device = str(model.lm.device)
                lm = lm_condition(model)
                if lm not in self._searched:
                    exact = model.exact()
                    self._records.settle(lm, _digest(exact.fingerprint))
                    self._searched[lm] = self._search(lm, exact)
                    conditions.append(self._answer(exact, lm, Path(model.config.lm).name, None, lm))
                    for growing in self._growing.values():
                        growing.search(lm, exact)
                        if "text" in conditions[-1].arms:
                            growing.answer(self._arms(exact, lm), "text", lm, lm)
                name = f"{entry.label} at ratio {model.config.ratio}"
                self._records.settle(name, _digest(model.fingerprint))
                conditions.append(self._answer(model, name, entry.label, model.config.ratio, lm))
                if "memory" in conditions[-1].arms:
                    for growing in self._growing.values():
                        growing.answer(self._arms(model, lm), "memory", name, lm)
                    self._time(model, conditions[-1])
        return conditions

    # -- retrieval -------------------------------------------------------------------------------------------------

    def _search(self, lm: str, model: CMTModel) -> tuple[CMTMemoryStore, list[Case]]:
        """A store of the documents, whose memories are not made, and every question with what it finds there."""
        config = self._config
        store = self._stores.enter_context(
            CMTMemoryStore(
                config.folder / "stores" / lm.removeprefix("lm-"),
                model,
                encoder=None if config.encoder == "none" else config.encoder,
                passage_tokens=config.passage_tokens,
                passage_overlap=config.passage_overlap,
                lazy=True,
            )
        )
        store.add_documents(
            [Document(text, id=name) for name, text in self._data.documents.items()], show_progress=self._show
        )
        if config.has_pairs:
            gold = [store.bank.passage_ids(list(question.gold)) for question in self._data.questions]
            return store, self._cases(store, gold)
        found = {r["question"]: r["hits"] for r in self._records.read(RETRIEVAL) if r["lm"] == lm}
        questions = [question for question in self._data.questions if question.number not in found]
        with Progress("Searching", len(questions), unit="questions", show=self._show) as bar:
            for some in _batches(questions, 64):
                hits = [[hit.passage for hit in store.search(question.text, config.k)] for question in some]
                new = [{"lm": lm, "question": q.number, "hits": h} for q, h in zip(some, hits, strict=True)]
                self._records.append(RETRIEVAL, new)
                found.update({record["question"]: record["hits"] for record in new})
                bar.advance(len(some))
        return store, self._cases(store, [found[question.number] for question in self._data.questions])

    def _cases(self, store: CMTMemoryStore, found: Sequence[Sequence[str]]) -> list[Case]:
        """The questions with passages; the passages of a question's gold documents are in reading order."""
        questions = self._data.questions
        gold = [store.bank.passage_ids(list(question.gold)) for question in questions]
        partners = [store.bank.passage_ids([q.partner]) if q.partner else [] for q in questions]
        own = [[*right, *partner] for right, partner in zip(gold, partners, strict=True)]
        others = shuffled(found, own, self._config.seed)
        hits = hits_of(store, list(dict.fromkeys(name for names in (*found, *own) for name in names)))

        def passages(names: Sequence[str]) -> tuple[MemoryHit, ...]:
            return tuple(hits[name] for name in names)

        return [
            Case(question.text, passages(mine), passages(right), passages(other), passages(partner))
            for question, mine, right, other, partner in zip(questions, found, gold, others, partners, strict=True)
        ]

    # -- answers ---------------------------------------------------------------------------------------------------

    def _answer(self, model: CMTModel, name: str, label: str, ratio: int | None, lm: str) -> Condition:
        """Answer what is not answered yet under one condition, a batch at a time, each on disk before the next."""
        config = self._config
        _, cases = self._searched[lm]
        arms = self._arms(model, lm)
        condition = _condition(config, arms, cases, name, label, ratio, lm)
        done = {r["question"] for r in self._records.read(ANSWERS) if r["condition"] == name}
        todo = [pair for pair in zip(self._data.questions, cases, strict=True) if pair[0].number not in done]
        with Progress(label if ratio is None else name, len(todo), unit="questions", show=self._show) as bar:
            for some in _batches(todo, config.batch):
                replies: dict[str, list[Reply]] = {}
                for arm in condition.arms:
                    replies[arm] = arms.answer(arm, [case for _, case in some], replies.get("memory"))
                self._records.append(
                    ANSWERS,
                    [
                        _record(condition, question, case, {arm: replies[arm][i] for arm in condition.arms})
                        for i, (question, case) in enumerate(some)
                    ],
                )
                bar.advance(len(some))
        return condition

    def _arms(self, model: CMTModel, lm: str, max_new_tokens: int | None = None) -> Arms:
        config = self._config
        decoding = Decoding(max_new_tokens or config.max_new_tokens, config.template, config.question_format)
        return Arms(model, Nearest(self._searched[lm][0]), config.slot_dtype, decoding)

    def _time(self, model: CMTModel, condition: Condition) -> None:
        """Time the first tokens of a few questions that are not timed yet."""
        questions = self._data.questions[: self._config.ttft_questions]
        done = {r["question"] for r in self._records.read(TIMES) if r["condition"] == condition.name}
        places = [place for place, question in enumerate(questions) if question.number not in done]
        cases = [self._searched[condition.lm][1][place] for place in places]
        wanted = [arm for arm in TIMED if arm in self._config.compared and arm not in condition.unavailable]
        arms = self._arms(model, condition.lm, max_new_tokens=1)
        with Progress(f"Timing {condition.name}", len(cases), unit="questions", show=self._show) as bar:
            for place, took in zip(places, time_first_tokens(arms, wanted, cases), strict=True):
                record = {"condition": condition.name, "question": questions[place].number, "ms": took}
                self._records.append(TIMES, [record])
                bar.advance(1)

    def grown(self, conditions: Sequence[Condition]) -> list[dict[str, Any]]:
        """Figures of the growing stores, one entry for each experiment, condition and arm."""
        return [
            {
                "experiment": name,
                "model": condition.model,
                "ratio": condition.ratio,
                "arm": arm,
                "points": growing.summary(condition.name, condition.lm),
            }
            for name, growing in self._growing.items()
            for condition in conditions
            for arm in (("text",) if condition.ratio is None else ("memory",))
            if arm in condition.arms
        ]


def shuffled(found: Sequence[Sequence[str]], gold: Sequence[Sequence[str]], seed: int) -> list[Sequence[str]]:
    """For each question the passages found for another one, of none of its own documents.

    Args:
        found: ids of the passages found for each question.
        gold: ids of the passages that hold its answer, and of others that it is not to be given.
        seed: of the order in which others are tried.

    Returns:
        Ids of passages, none where every other question shares a document with this one.
    """
    order = list(range(len(found)))
    random.Random(f"{seed}/shuffled").shuffle(order)
    documents = [{_document(name) for name in names} for names in found]
    chosen: list[Sequence[str]] = [()] * len(found)
    for place, mine in enumerate(order):
        own = documents[mine] | {_document(name) for name in gold[mine]}
        others = (order[(place + step) % len(order)] for step in range(1, len(order)))
        other = next((i for i in others if found[i] and not documents[i] & own), None)
        if other is not None:
            chosen[mine] = found[other]
    return chosen


def _document(passage: str) -> str:
    return passage.rpartition("#")[0]


def load_models(entry: EvaluatedModel, config: EvalConfig) -> Iterator[CMTModel]:
    """A model at each of its ratios; the LM is loaded once.

    Raises:
        InvalidInputError: a trained model is given a latent or a compressor.
        CMTError: it cannot be loaded.
    """
    own = bundled(entry.model)
    saved = ((own or Path(entry.model)) / "cmt.safetensors").is_file()
    settings = {"latent": entry.latent, "compressor": entry.compressor}
    given = [name for name, value in settings.items() if value is not None]
    if saved and given and own is None:
        raise InvalidInputError(f"models: {entry.model} was trained with its own {given[0]}; leave {given[0]} out.")
    place: dict[str, Any] = {"device": None if config.device == "auto" else config.device, "dtype": config.dtype}
    first: CMTModel | None = None
    for ratio in dict.fromkeys(entry.ratios or (None,)):
        again = {} if first is None else {"tokenizer": first.lm.tokenizer}
        try:
            if saved and not given:
                lm = {} if first is None else {"llm": first.lm.model, **again}
                model = CMTModel.from_pretrained(entry.model, ratio=ratio, **(lm or place))
            else:
                source = entry.model if first is None else first.lm.model
                model = CMTModel.from_llm(source, ratio=ratio, **settings, **(again or place))  # type: ignore[arg-type]
        except CMTError:
            raise
        except (OSError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise CMTError(f"The model {entry.model!r} cannot be loaded: {reason}") from error
        first = first or model
        yield model


def lm_condition(model: CMTModel) -> str:
    """The name of the LM's own condition: models around the same LM and prompt head share its answers."""
    found = model.fingerprint
    return "lm-" + _digest({part: found[part] for part in ("lm", "tokenizer", "head")})[:12]


def _condition(
    config: EvalConfig, arms: Arms, cases: Sequence[Case], name: str, label: str, ratio: int | None, lm: str
) -> Condition:
    wanted = [arm for arm in (LM_ARMS if ratio is None else RATIO_ARMS) if arm in config.compared]
    unavailable = {arm: why for arm in config.compared if ratio is not None and (why := arms.unavailable(arm))}
    lonely = sum(not case.others for case in cases)
    if lonely and "shuffled" in wanted:
        unavailable["shuffled"] = f"for {lonely} questions every other one was given one of their documents"
    settings = arms.model.config
    return Condition(
        name=name,
        model=label,
        ratio=ratio,
        lm=lm,
        arms=tuple(arm for arm in wanted if arm not in unavailable),
        unavailable=unavailable,
        facts={
            "llm": settings.lm,
            "compressor": settings.compressor,
            "latent": settings.latent,
            "dtype": str(arms.lm.dtype).removeprefix("torch."),
            "trained": settings.adapter is not None,
            "trained_ratios": list(settings.trained_ratios or ()),
        },
    )


def _record(condition: Condition, question: Question, case: Case, replies: dict[str, Reply]) -> Record:
    return {
        "condition": condition.name,
        "model": condition.model,
        "ratio": condition.ratio,
        "question": question.number,
        "text": question.text,
        "answers": list(question.answers),
        "kind": question.kind,
        "gold": list(question.gold),
        "hits": [hit.passage for hit in case.hits],
        "replies": {
            arm: {key: value for key, value in asdict(reply).items() if value is not None}
            | score(reply.text, question.answers)
            for arm, reply in replies.items()
        },
    }


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (items[start : start + size] for start in range(0, len(items), size))


def _digest(values: dict[str, str]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
