"""From records of single answers to figures with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cmt_memory import __version__
from cmt_memory.evaluation.arms import ARMS
from cmt_memory.evaluation.config import EvalConfig
from cmt_memory.evaluation.data import Dataset
from cmt_memory.evaluation.firsttoken import times
from cmt_memory.evaluation.measuring import machine
from cmt_memory.evaluation.metrics import SCORES, Bootstrap, recall
from cmt_memory.evaluation.records import Record

if TYPE_CHECKING:
    from cmt_memory.evaluation.experiments import Condition

_WHOLE = {"oracle_memory": "oracle_text"}
"""What an arm's share is a share of, where it is not `text`."""

Columns = dict[str, dict[str, list[float]]]
"""Values of every question by arm and name."""


def summarise(
    config: EvalConfig,
    data: Dataset,
    conditions: Sequence[Condition],
    answers: Sequence[Record],
    retrieval: Sequence[Record],
    device: str,
    command: str,
) -> dict[str, Any]:
    """All figures of a run, each over the same questions.

    Args:
        config: its configuration.
        data: what was asked.
        conditions: what was measured.
        answers: the records of all answers.
        retrieval: the records of what was found.
        device: what the LMs ran on.
        command: what started the run.
    """
    units = [question.documents or (str(question.number),) for question in data.questions]
    bootstrap = Bootstrap(units, seed=config.seed, resamples=config.resamples)
    columns = {condition.name: _columns(condition, data, answers) for condition in conditions}
    facts = {condition.name: condition for condition in conditions}
    return {
        "command": command,
        "version": __version__,
        "seed": config.seed,
        "machine": machine(device),
        "settings": config.model_dump(mode="json"),
        "data": {
            "documents": len(data.documents),
            "questions": len(data.questions),
            "questions_available": data.available,
            "drawn_together": len(set(units)),
        },
        "arms": {arm: ARMS[arm] for arm in config.compared},
        "retrieval": {
            condition.name: _recalls(bootstrap, config.k, data, retrieval, condition.name)
            for condition in conditions
            if condition.ratio is None and not config.has_pairs
        },
        "lms": {
            condition.name: {"lm": condition.model, **condition.facts}
            for condition in conditions
            if condition.ratio is None
        },
        "results": [
            _result(bootstrap, condition, facts[condition.lm], columns[condition.lm] | columns[condition.name])
            for condition in conditions
            if condition.ratio is not None
        ],
    }


def summarise_times(conditions: Sequence[Condition], measured: Sequence[Record]) -> list[dict[str, Any]]:
    """Time to first token by model, ratio and arm; nothing where it was not measured."""
    found = []
    for condition in conditions:
        mine = [record["ms"] for record in measured if record["condition"] == condition.name]
        if mine:
            arms = times(mine)
            found.append({"model": condition.model, "ratio": condition.ratio, "questions": len(mine), "arms": arms})
    return found


def _columns(condition: Condition, data: Dataset, answers: Sequence[Record]) -> Columns:
    mine = {record["question"]: record["replies"] for record in answers if record["condition"] == condition.name}
    rows = [mine[question.number] for question in data.questions]
    columns = {
        arm: {name: [float(row[arm][name]) for row in rows] for name in rows[0][arm] if name != "text"}
        for arm in condition.arms
    }
    if any(question.partner for question in data.questions):
        for values in columns.values():
            values["pair"] = _both(data, values["em"])
    return columns


def _both(data: Dataset, right: Sequence[float]) -> list[float]:
    """For each question 1 where it is right and the same question about the pair's other document is right too."""
    of_pair: dict[tuple[str, ...], list[float]] = {}
    for question, value in zip(data.questions, right, strict=True):
        of_pair.setdefault(question.documents, []).append(value)
    return [min(of_pair[question.documents]) for question in data.questions]


def _recalls(
    bootstrap: Bootstrap, k: int, data: Dataset, retrieval: Sequence[Record], lm: str
) -> dict[str, dict[str, float | None]]:
    """Recall@k of gold documents, at powers of two up to `k`."""
    found = {
        record["question"]: [name.rpartition("#")[0] for name in record["hits"]]
        for record in retrieval
        if record["lm"] == lm
    }
    cuts = sorted({k, *(2**power for power in range(k.bit_length()) if 2**power <= k)})
    return {
        f"recall@{cut}": bootstrap.mean(
            [recall(found[question.number], question.gold, cut) for question in data.questions]
        ).as_json()
        for cut in cuts
    }


def _result(bootstrap: Bootstrap, condition: Condition, lm: Condition, columns: Columns) -> dict[str, Any]:
    arms: dict[str, dict[str, Any]] = {}
    for arm in ARMS:
        if arm in columns:
            arms[arm] = {name: bootstrap.mean(columns[arm][name]).as_json() for name in SCORES}
            if "pair" in columns[arm]:
                arms[arm]["pair"] = bootstrap.mean(columns[arm]["pair"]).as_json()
            for name in ("positions", "nbytes", "left_out"):
                arms[arm][name] = round(float(np.mean(columns[arm][name])), 3)
            if "whole" in columns[arm]:
                arms[arm]["whole"] = round(float(np.mean(columns[arm]["whole"])), 4)
    return {
        "model": condition.model,
        "ratio": condition.ratio,
        "lm": lm.name,
        **condition.facts,
        "arms": arms,
        "unavailable": condition.unavailable,
        "share_kept": {arm: found for arm in columns if (found := _shares(bootstrap, columns, arm))},
        "memory_minus": _differences(bootstrap, columns),
        "bytes_per_passage": {
            arm: round(sum(columns[arm]["nbytes"]) / used, 1)
            for arm in ("memory", "text")
            if arm in columns and (used := sum(columns[arm]["used"]))
        },
    }


def _shares(bootstrap: Bootstrap, columns: Columns, arm: str) -> dict[str, dict[str, Any]] | None:
    """Share kept of the text's score, raw and normalised by closed book; None where there is nothing to compare."""
    whole = _WHOLE.get(arm, "text")
    if arm in ("none", "text", "oracle_text") or whole not in columns:
        return None
    shares: dict[str, dict[str, Any]] = {}
    for name in SCORES:
        own, text = columns[arm][name], columns[whole][name]
        raw = bootstrap.share(own, text)
        normalised = bootstrap.share(own, text, columns["none"][name]) if "none" in columns else None
        shares[name] = {
            "raw": None if raw is None else raw.as_json(),
            "normalised": None if normalised is None else normalised.as_json(),
        }
    return shares


def _differences(bootstrap: Bootstrap, columns: Columns) -> dict[str, Mapping[str, Any]]:
    """How much better the memory is than each other arm that answers from the same retrieval, or from none."""
    if "memory" not in columns:
        return {}
    others = [arm for arm in columns if arm != "memory" and not arm.startswith("oracle")]
    return {
        arm: {
            name: bootstrap.difference(columns["memory"][name], columns[arm][name]).as_json() for name in ("em", "f1")
        }
        for arm in others
    }
