"""A results folder for people: the same tables and plots as Markdown and as one HTML file."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cmt_memory.evaluation.growth import EXPERIMENTS
from cmt_memory.evaluation.metrics import SCORES
from cmt_memory.evaluation.plots import draw_plots

FEWEST_QUESTIONS = 2000
"""Figures on fewer questions are marked as preliminary."""

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; font-size: 0.9rem; display: block; overflow-x: auto; }
th, td { border: 1px solid #ccc; padding: 0.3rem 0.6rem; text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; }
img { max-width: 100%; }
code { background: #f2f2f2; padding: 0 0.2rem; }
"""


@dataclass(frozen=True, slots=True)
class Heading:
    """A heading of level 1 or 2."""

    level: int
    text: str


@dataclass(frozen=True, slots=True)
class Items:
    """Paragraphs, or with `bullets` a list."""

    texts: tuple[str, ...]
    bullets: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """A header and rows of as many cells."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Plot:
    """A PNG file in the folder, and what it shows."""

    name: str
    shows: str


Block = Heading | Items | Table | Plot


def write_report(results: dict[str, Any], folder: Path) -> Path:
    """Write `report.md`, `report.html` and the plots of what `results.json` holds.

    Args:
        results: what `run_evaluation` returned.
        folder: the results folder.

    Returns:
        The HTML file, which holds its plots and needs no network.

    Raises:
        CMTError: matplotlib is not installed.
    """
    blocks = _blocks(results, {name: Plot(name, shows) for name, shows in draw_plots(results, folder)})
    (folder / "report.md").write_text("\n\n".join(map(_markdown, blocks)) + "\n", "utf-8")
    body = "\n".join(_html(block, folder) for block in blocks)
    page = folder / "report.html"
    page.write_text(
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>Evaluation of memories</title>\n'
        f"<style>{_STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n",
        "utf-8",
    )
    return page


# -- what it says --------------------------------------------------------------------------------------------------


def _blocks(results: dict[str, Any], plots: dict[str, Plot]) -> list[Block]:
    blocks: list[Block] = [Heading(1, "How much of the text's answers memories keep"), _setting(results)]
    blocks += [
        _overview(results),
        *(plot for name, plot in plots.items() if name.removesuffix(".png") not in EXPERIMENTS),
    ]
    if pairs := _pairs(results):
        blocks += [Heading(2, "Pairs of documents with two values exchanged"), pairs]
    for result in results["results"]:
        blocks += [Heading(2, f"{result['model']} at ratio {result['ratio']}"), _arm_table(result)]
        missing = [f"{arm}: not measured; {why}" for arm, why in result["unavailable"].items()]
        missing += [
            f"{arm}: the budget held the whole text of {values['whole']:.0%} of the questions"
            for arm, values in result["arms"].items()
            if values.get("whole")
        ]
        missing += [
            f"{arm}: on average {values['left_out']:.2f} passages a question did not fit into the LM's positions"
            for arm, values in result["arms"].items()
            if values["left_out"]
        ]
        if missing:
            blocks.append(Items(tuple(missing), bullets=True))
    for experiment, what in EXPERIMENTS.items():
        if grown := [found for found in results["growth"] if found["experiment"] == experiment]:
            blocks += [Heading(2, experiment.capitalize()), Items((f"{what[0].upper()}{what[1:]}.",)), _growth(grown)]
            blocks += [plot for name, plot in plots.items() if name == f"{experiment}.png"]
    if results["ttft_ms"]:
        blocks += [Heading(2, "Time to first token"), _times(results)]
    if results["retrieval"]:
        blocks += [Heading(2, "Retrieval"), _retrieval(results)]
    return [*blocks, Heading(2, "Arms and figures"), _meanings(results)]


def _setting(results: dict[str, Any]) -> Items:
    data, settings = results["data"], results["settings"]
    source = settings["data"]
    named = Path(source["path"]).name if "path" in source else "generated"
    searched = f"{settings['k']} passages retrieved for each; encoder {settings['encoder']}."
    lines = [
        f"{data['questions']:,} questions (of {data['questions_available']:,}) about {data['documents']:,} documents: "
        f"{source['kind']}, {named}. "
        + (searched if results["retrieval"] else "Each is asked before its own document."),
        f"Greedy decoding of {settings['max_new_tokens']} tokens at most, the same in every arm; "
        f"slots kept as {settings['slot_dtype']}.",
        "Brackets are 95 % intervals of a paired bootstrap over the questions, drawn together where they are about "
        f"the same documents ({data['drawn_together']:,} draws, {settings['resamples']:,} resamples).",
        f"Seed {results['seed']}; cmt-memory {results['version']}; "
        + ", ".join(f"{name} {value}" for name, value in results["machine"].items())
        + ".",
    ]
    if results["command"]:
        lines.append(f"Command: {results['command']}")
    if data["questions"] < FEWEST_QUESTIONS:
        lines.append(f"Preliminary: fewer than {FEWEST_QUESTIONS:,} questions.")
    return Items(tuple(lines), bullets=True)


def _overview(results: dict[str, Any]) -> Table:
    rows = []
    for result in results["results"]:
        arms, shares = result["arms"], result["share_kept"].get("memory", {})
        f1 = [_figure(arms[arm]["f1"]) if arm in arms else "–" for arm in ("none", "memory", "text")]
        kept = [_percent(shares.get(name, {}).get(how)) for name in ("f1", "em") for how in ("raw", "normalised")]
        cost = result["bytes_per_passage"]
        rows.append(
            (
                result["model"],
                str(result["ratio"]),
                *f1,
                *kept,
                _number(arms["memory"]["positions"]) if "memory" in arms else "–",
                _number(arms["text"]["positions"]) if "text" in arms else "–",
                _number(cost.get("memory")),
                _number(cost.get("text")),
            )
        )
    header = ("model", "ratio", "F1 none", "F1 memory", "F1 text", "F1 kept", "F1 kept, normalised", "EM kept")
    costs = ("EM kept, normalised", "positions, memory", "positions, text", "bytes a passage, memory", "as text")
    return Table((*header, *costs), tuple(rows))


def _pairs(results: dict[str, Any]) -> Table | None:
    """Single answers and whole pairs by arm, where documents come in pairs."""
    rows = [
        (result["model"], str(result["ratio"]), arm, _figure(values["em"]), _figure(values["pair"]))
        for result in results["results"]
        for arm, values in result["arms"].items()
        if "pair" in values
    ]
    header = ("model", "ratio", "arm", "answers right (exact match)", "pairs right, both answers")
    return Table(header, tuple(rows)) if rows else None


def _arm_table(result: dict[str, Any]) -> Table:
    rows = []
    for arm, values in result["arms"].items():
        share = result["share_kept"].get(arm, {}).get("f1", {})
        lead = result["memory_minus"].get(arm, {}).get("f1")
        rows.append(
            (
                arm,
                *(_figure(values[name]) for name in SCORES),
                _percent(share.get("raw")),
                _percent(share.get("normalised")),
                "–" if lead is None else _figure(lead, signed=True),
                _number(values["positions"]),
                _number(values["nbytes"]),
            )
        )
    header = ("arm", *SCORES.values(), "F1 kept", "F1 kept, normalised", "memory minus this, F1", "positions", "bytes")
    return Table(header, tuple(rows))


def _growth(grown: Sequence[dict[str, Any]]) -> Table:
    rows = []
    for found in grown:
        for point in found["points"]:
            [cut] = [name for name in point if name.startswith("recall@")]
            rows.append(
                (
                    found["model"],
                    "–" if found["ratio"] is None else str(found["ratio"]),
                    found["arm"],
                    f"{point['documents']:,} (+{point['added']:.0%})",
                    _figure(point["f1"]),
                    _percent(point["f1_kept"]),
                    _figure(point["em"]),
                    f"{cut} {_figure(point[cut])}",
                )
            )
    header = ("model", "ratio", "arm", "documents", "token F1", "of the F1 at the start", "exact match", "found")
    return Table(header, tuple(rows))


def _times(results: dict[str, Any]) -> Table:
    """Medians with the 10th and 90th percentile."""
    timed = results["ttft_ms"]
    arms = list(dict.fromkeys(arm for found in timed for arm in found["arms"]))
    rows = [
        (
            found["model"],
            str(found["ratio"]),
            str(found["questions"]),
            *(
                f"{took['median']:.1f} [{took['p10']:.1f}, {took['p90']:.1f}]"
                if (took := found["arms"].get(arm))
                else "–"
                for arm in arms
            ),
        )
        for found in timed
    ]
    return Table(("model", "ratio", "questions", *(f"{arm}, ms" for arm in arms)), tuple(rows))


def _retrieval(results: dict[str, Any]) -> Table:
    found = results["retrieval"]
    cuts = list(next(iter(found.values())))
    rows = [(results["lms"][lm]["lm"], *(_figure(values[cut]) for cut in cuts)) for lm, values in found.items()]
    return Table(("passages in the tokens of", *cuts), tuple(rows))


def _meanings(results: dict[str, Any]) -> Items:
    return Items(
        (
            *(f"{arm}: {meaning}" for arm, meaning in results["arms"].items()),
            "kept: the arm's score over that of text (for oracle_memory, of oracle_text); normalised: both less the "
            "score of none",
            "exact match and token F1: SQuAD's, the best over all gold answers; prefix EM: the prediction cut to the "
            "length of the shortest gold answer, as in the tables of MAC and CMT; it can exceed F1",
            "positions and bytes: before a question, on average; bytes of memories are those on disk",
            "time to first token: from a question and its passages to the first token, one question at a time; "
            "medians, brackets from the 10th to the 90th percentile. Memories are read from their bytes and sentences "
            "are chosen on the clock, the search is not: cmt-memory bench latency times whole questions",
        ),
        bullets=True,
    )


def _figure(found: dict[str, float | None], *, signed: bool = False) -> str:
    shown = f"{found['value']:{'+' if signed else ''}.3f}"
    return shown if found["low"] is None else f"{shown} [{found['low']:.3f}, {found['high']:.3f}]"


def _percent(found: dict[str, float | None] | None) -> str:
    if found is None or found["value"] is None:
        return "–"
    shown = f"{found['value']:.1%}"
    if found["low"] is None or found["high"] is None:
        return shown
    return f"{shown} [{found['low']:.1%}, {found['high']:.1%}]"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"


# -- as Markdown and HTML ------------------------------------------------------------------------------------------


def _markdown(block: Block) -> str:
    match block:
        case Heading(level, text):
            return f"{'#' * level} {text}"
        case Items(texts, bullets):
            return "\n".join(f"- {text}" for text in texts) if bullets else "\n\n".join(texts)
        case Plot(name, shows):
            return f"![{shows}]({name})"
        case Table(header, rows):
            lines = [header, ("---",) * len(header), *rows]
            return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def _html(block: Block, folder: Path) -> str:
    match block:
        case Heading(level, text):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Items(texts, bullets):
            inside = "\n".join(f"<{'li' if bullets else 'p'}>{html.escape(text)}" for text in texts)
            return f"<ul>\n{inside}\n</ul>" if bullets else inside
        case Plot(name, shows):
            data = base64.b64encode((folder / name).read_bytes()).decode()
            return f'<p><img alt="{html.escape(shows)}" src="data:image/png;base64,{data}">'
        case Table(header, rows):
            head = "".join(f"<th>{html.escape(cell)}" for cell in header)
            body = "\n".join("<tr>" + "".join(f"<td>{html.escape(cell)}" for cell in row) for row in rows)
            return f"<table>\n<thead><tr>{head}</thead>\n<tbody>\n{body}\n</tbody>\n</table>"
