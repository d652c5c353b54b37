"""Whether confidence tells right answers from wrong ones, and what reading the text of the doubtful ones brings back.

    python benchmarks/confidence.py --model checkpoints/cmt-tiny-dropkey --output benchmarks/results/confidence.json

Documents of synthetic facts in a store, questions that one of them answers, and two sorts that none does: about
documents that were left out of the store (`left_out`), and about something that a document does not tell of a subject
that it tells other things of (`not_told`). A store of the training split's documents is calibrated; with that,
questions of the held-out split are asked. `--write-calibration DIR` keeps the calibrations of all ratios as
`confidence.json`, for a saved model. Where `$CMT_DATA/squad` has `train-1.1.json.gz` and `dev-1.1.json.gz` (the public
files, gzipped), it is also measured how well the search tells questions about SQuAD's paragraphs from those about
articles that were left out, learned on train and asked on validation; the LM is not asked.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cmt_memory import Answer, CMTMemoryStore, CMTModel, __version__
from cmt_memory.calibrating import recovered
from cmt_memory.confidence import (
    SEARCH,
    Calibration,
    Logistic,
    auroc,
    calibration_error,
    doubted,
    features,
    write_calibrations,
)
from cmt_memory.documents import Mode
from cmt_memory.evaluation.measuring import machine
from cmt_memory.evaluation.metrics import Bootstrap
from cmt_memory.squad import exact_match
from cmt_memory.training.facts import FactWorld

K = 4
NEW_TOKENS = 24
FACTS = 8
RESAMPLES = 1000
SORTS = ("answerable", "left_out", "not_told")


@dataclass(frozen=True, slots=True)
class Asked:
    """A question, its right answers, why there are none, and what it is drawn with."""

    text: str
    answers: tuple[str, ...]
    sort: str
    unit: int


@dataclass(frozen=True, slots=True)
class Told:
    """The answers to a question; that from text where there is a right one, else that from memories again."""

    asked: Asked
    memory: Answer
    text: Answer

    def right(self, answer: Answer) -> bool:
        return bool(self.asked.answers) and exact_match(answer.text, self.asked.answers) == 1


Data = tuple[list[str], list[Asked]]


def facts(split: str, questions: int, seed: int) -> Data:
    """Documents to store, and questions: as many answerable ones as asked for, and half as many of each other sort."""
    rng = random.Random(f"{seed}/confidence/{split}")
    worlds = [FactWorld(rng, split, words) for words in (("train", "composed") if split == "train" else ("heldout",))]
    count = -(-questions // 4)
    drawn = [worlds[number % len(worlds)].document(FACTS) for number in range(count + -(-count // 4))]
    kept, out = drawn[:count], drawn[count:]
    sorts = {
        "answerable": [Asked(q.text, (q.answer,), "answerable", i) for i, d in enumerate(kept) for q in d.questions],
        "left_out": [Asked(q.text, (), "left_out", count + i) for i, d in enumerate(out) for q in d.questions],
        "not_told": [
            Asked(d.unanswerable[0].text, (), "not_told", i) for i, d in enumerate(kept) if len(d.unanswerable) > 1
        ],
    }
    return [document.text for document in kept], _drawn(rng, sorts, questions)


def squad(path: Path, questions: int, seed: int) -> Data:
    """Paragraphs and questions as `facts`; what is left out are whole articles."""
    articles = json.loads(gzip.decompress(path.read_bytes()))["data"]
    rng = random.Random(f"{seed}/confidence/{path.name}")
    rng.shuffle(articles)
    kept: list[str] = []
    sorts: dict[str, list[Asked]] = {"answerable": [], "left_out": []}
    for number, article in enumerate(articles):
        out = number % 4 == 3
        for paragraph in rng.sample(article["paragraphs"], min(8, len(article["paragraphs"]))):
            if not out:
                kept.append(paragraph["context"])
            for q in rng.sample(paragraph["qas"], min(2, len(paragraph["qas"]))):
                answers = () if out else tuple(answer["text"] for answer in q["answers"])
                sorts["left_out" if out else "answerable"].append(
                    Asked(q["question"].strip(), answers, "left_out" if out else "answerable", number)
                )
        if len(sorts["answerable"]) >= questions and len(sorts["left_out"]) >= questions // 2:
            break
    return kept, _drawn(rng, sorts, questions)


def _drawn(rng: random.Random, sorts: dict[str, list[Asked]], questions: int) -> list[Asked]:
    wanted = {sort: questions if sort == "answerable" else questions // 2 for sort in sorts}
    return [asked for sort, some in sorts.items() for asked in rng.sample(some, min(wanted[sort], len(some)))]


def ask_all(store: CMTMemoryStore, asked: Sequence[Asked]) -> list[Told]:
    """Each question from memories, and from text where it has an answer."""
    told = []
    for one in asked:
        modes: tuple[Mode, ...] = ("memory", "text") if one.answers else ("memory",)
        answers = [store.ask(one.text, k=K, mode=mode, max_new_tokens=NEW_TOKENS) for mode in modes]
        told.append(Told(one, answers[0], answers[-1]))
    return told


def summary(told: Sequence[Told], calibration: Calibration) -> dict[str, Any]:
    """All figures of a ratio."""
    asked = [one for one in told if one.asked.answers]
    bootstrap = Bootstrap([one.asked.unit for one in asked], resamples=RESAMPLES)
    text, memory = ([float(one.right(answer)) for one, answer in zip(asked, some, strict=True)] for some in (
        [one.text for one in asked], [one.memory for one in asked]
    ))  # fmt: skip
    doubt = np.array([_confidence(one.memory) for one in asked])
    doubtful = _doubted(asked, calibration.fallback)
    read = {
        "memory": np.zeros(len(asked), bool),
        "memory+fallback": doubtful,
        "memory+fallback, exactly the budget": _lowest(doubt, int(calibration.budget * len(asked))),
        "memory+best possible fallback at the budget": _lowest(
            np.subtract(memory, text), int(calibration.budget * len(asked))
        ),
        "text": np.ones(len(asked), bool),
    }
    arms = {}
    for name, chosen in read.items():
        right = np.where(chosen, text, memory).tolist()
        share = bootstrap.share(right, text)
        back = recovered([bool(m) for m in memory], [bool(t) for t in text], chosen.tolist())
        arms[name] = {
            "em": bootstrap.mean(right).as_json(),
            "share": None if share is None else share.as_json(),
            "read_text": round(float(chosen.mean()), 4),
            "recovered": None if back is None else round(back, 4),
        }
    return {
        "questions": {sort: sum(one.asked.sort == sort for one in told) for sort in SORTS},
        "arms": arms,
        "fallback": round(calibration.fallback, 5),
        "read_text_of_all": round(float(_doubted(told, calibration.fallback).mean()), 4),
        "memory_right_where_doubted": _share(memory, doubtful),
        "memory_right_elsewhere": _share(memory, ~doubtful),
        "confidence": told_apart(told),
    }


def told_apart(told: Sequence[Told]) -> dict[str, Any]:
    """AUROC and calibration error of answers from memories."""
    answers = [one.memory for one in told]
    right = np.array([one.right(answer) for one, answer in zip(told, answers, strict=True)])
    confidence = np.array([_confidence(answer) for answer in answers])
    has_answer = np.array([bool(one.asked.answers) for one in told])
    everything = np.ones(len(told), bool)
    found: dict[str, Any] = {
        "right": round(float(right.mean()), 4),
        "mean": round(float(confidence.mean()), 4),
        "ece": round(calibration_error(confidence, right.tolist()), 4),
        "auroc": {
            "right over wrong": _auroc(told, confidence, right, everything),
            "right over wrong, where there is an answer": _auroc(told, confidence, right, has_answer),
        },
    }
    holds = np.array([np.nan if answer.answerable is None else answer.answerable for answer in answers])
    for sort in SORTS[1:]:
        own = np.array([one.asked.sort == sort for one in told])
        if own.any():
            among = has_answer | own
            found["auroc"][f"right over {sort}"] = _auroc(told, confidence, right, right | own)
            found["auroc"][f"answerable over {sort}"] = _auroc(told, confidence, has_answer, among)
            found["auroc"][f"answerable over {sort}, by `answerable`"] = _auroc(
                told, holds, has_answer, has_answer | own
            )
    return found


def _auroc(told: Sequence[Told], values: Any, positive: Any, among: Any) -> dict[str, Any] | None:
    """AUROC among some questions, with a percentile interval over resampled documents."""
    if np.isnan(values).any():
        return None
    groups: dict[int, list[int]] = {}
    for place in np.flatnonzero(among).tolist():
        groups.setdefault(told[place].asked.unit, []).append(place)
    units, rng = list(groups.values()), np.random.default_rng(0)
    drawn = []
    for _ in range(RESAMPLES):
        places = [place for unit in rng.integers(0, len(units), len(units)) for place in units[unit]]
        drawn.append(auroc(values[places], positive[places]))
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    whole = auroc(values[among], positive[among])
    return {name: round(float(value), 4) for name, value in (("value", whole), ("low", low), ("high", high))}


def _confidence(answer: Answer) -> float:
    return 0.0 if answer.confidence is None else answer.confidence


def _doubted(told: Sequence[Told], fallback: float) -> Any:
    """Where `ask(..., fallback=fallback)` reads the text."""
    return np.array([doubted(one.memory.confidence, one.memory.answerable, fallback) for one in told])


def _lowest(values: Any, count: int) -> Any:
    chosen = np.zeros(len(values), bool)
    chosen[np.argsort(values, kind="stable")[:count]] = True
    return chosen


def _share(values: Sequence[float], among: Any) -> float | None:
    return round(float(np.array(values)[among].mean()), 4) if among.any() else None


def measure(
    name: str, ratio: int, data: dict[str, Data], folder: Path, budget: float
) -> tuple[Calibration, list[Told]]:
    """Calibrate on one split's questions and ask the other's."""
    model = CMTModel.from_pretrained(name, ratio=ratio)
    model.calibrations = []
    with CMTMemoryStore(folder / f"train-{ratio}", model) as store:
        documents, asked = data["train"]
        store.add_documents(documents)
        questions = [{"question": one.text, "answers": list(one.answers)} for one in asked]
        calibration = store.calibrate(questions, k=K, max_new_tokens=NEW_TOKENS, budget=budget)
    model.calibrations = [calibration]
    with CMTMemoryStore(folder / f"eval-{ratio}", model) as store:
        documents, asked = data["eval"]
        store.add_documents(documents)
        return calibration, ask_all(store, asked)


def searched(model: CMTModel, data: dict[str, Data], folder: Path) -> dict[str, Any]:
    """How well `answerable` holds on one split when it was fitted on the other; no LM pass."""
    rows: dict[str, list[dict[str, float]]] = {}
    for split, (documents, asked) in data.items():
        with CMTMemoryStore(folder / split, model, lazy=True) as store:
            store.add_documents(documents)
            rows[split] = [features({}, "", store.search(one.text, k=K)) for one in asked]
    asked = data["eval"][1]
    labels = {split: [bool(one.answers) for one in some] for split, (_, some) in data.items()}
    logistic = Logistic.fit(rows["train"], labels["train"], SEARCH)
    values, truth = np.array([logistic(row) for row in rows["eval"]]), np.array(labels["eval"])
    told = [Told(one, Answer(""), Answer("")) for one in asked]
    return {
        "documents": {split: len(documents) for split, (documents, _) in data.items()},
        "questions": {sort: sum(one.sort == sort for one in asked) for sort in SORTS[:2]},
        "auroc": {"answerable over left_out, by `answerable`": _auroc(told, values, truth, np.ones(len(told), bool))},
        "ece": round(calibration_error(values, labels["eval"]), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="checkpoints/cmt-tiny-dropkey", help="folder of a saved model")
    parser.add_argument("--ratios", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--questions", type=int, default=1000, help="answerable ones, of each split")
    parser.add_argument("--budget", type=float, default=0.2, help="share of the questions that may be read as text")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--squad-questions", type=int, default=400, help="the same, of SQuAD's; 0 for none")
    parser.add_argument("--write-calibration", type=Path, help="folder to write confidence.json of the facts to")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    results: dict[str, Any] = {}
    files = Path(os.environ.get("CMT_DATA", "data")) / "squad"
    if options.squad_questions and files.is_dir():
        data = {
            split: squad(files / file, options.squad_questions, options.seed)
            for split, file in (("train", "train-1.1.json.gz"), ("eval", "dev-1.1.json.gz"))
        }
        with tempfile.TemporaryDirectory() as folder:
            results["squad"] = searched(CMTModel.from_pretrained(options.model), data, Path(folder))
        print("squad", json.dumps(results["squad"]), flush=True)
    data = {split: facts(split, options.questions, options.seed) for split in ("train", "eval")}
    results["facts"] = {"documents": {split: len(documents) for split, (documents, _) in data.items()}, "ratios": {}}
    calibrations = []
    for ratio in options.ratios:
        with tempfile.TemporaryDirectory() as folder:
            calibration, told = measure(options.model, ratio, data, Path(folder), options.budget)
        calibrations.append(calibration.portable())
        fitted = calibration.model_dump(exclude={"fingerprint", "format_version"})
        results["facts"]["ratios"][ratio] = summary(told, calibration) | {"calibration": fitted}
        print("facts", ratio, json.dumps(results["facts"]["ratios"][ratio]), flush=True)
    if options.write_calibration:
        write_calibrations(options.write_calibration, calibrations)
    report = {
        "command": " ".join(["python", *sys.argv]),
        "version": __version__,
        "seed": options.seed,
        "machine": machine("cpu"),
        "settings": {
            "model": Path(options.model).name, "k": K, "max_new_tokens": NEW_TOKENS, "facts": FACTS,
            "budget": options.budget,
        },
        "seconds": round(time.perf_counter() - started),
        "results": results,
    }  # fmt: skip
    if options.output:
        options.output.write_text(json.dumps(report, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
