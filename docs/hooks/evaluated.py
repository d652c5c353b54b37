"""Tables of what `cmt-memory eval` measured: its results.json, committed under benchmarks/results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import results

Found = dict[str, Any]


def table(name: str) -> str:
    """A table of an evaluation: `<file>`, or `<file>/pairs`, `<file>/arms`, `<file>/times`."""
    stem, _, part = name.partition("/")
    if not results.there(stem):
        return results.absent([stem])
    found = results.read(stem)
    made = PARTS[part](found)
    if not made:
        return f"`benchmarks/results/{stem}.json` has no figures for this."
    return f"{made}\n\n{results.origin([stem])}"


def _overview(found: Found) -> str:
    lines = []
    for result in found["results"]:
        arms, cost = result["arms"], result["bytes_per_passage"]
        lines.append(
            (
                result["model"],
                str(result["ratio"]),
                *(figure(arms.get(arm, {}).get("em")) for arm in ("memory", "text", "none")),
                percent(share(result, "memory", "em")),
                _count(arms.get("memory", {}).get("positions")),
                _count(cost.get("memory")),
            )
        )
    header = ("model", "ratio", "memory", "text", "no document", "kept of the text's", "positions", "bytes a passage")
    beside = _beside(found)
    return f"{_asked(found)}\n\n{results.rows(header, lines)}" + (f"\n\n{beside}" if beside else "")


def _asked(found: Found) -> str:
    data, settings = found["data"], found["settings"]
    searched = (
        f"{settings['k']} passages found for each" if found["retrieval"] else "each asked before its own document"
    )
    drawn = f"{data['drawn_together']:,} draws, {settings['resamples']:,} resamples"
    intervals = f"Below each figure stands its 95 % interval ({drawn})."
    return (
        f"{data['questions']:,} questions about {data['documents']:,} documents, {searched}. Exact match, greedy "
        f"decoding. {intervals}"
    )


def _beside(found: Found) -> str:
    """What the text costs, for comparison; the same at every ratio."""
    for result in found["results"]:
        text, cost = result["arms"].get("text"), result["bytes_per_passage"].get("text")
        if text and cost:
            return (
                f"The text takes {_count(text['positions'])} positions a question and {_count(cost)} bytes a passage."
            )
    return ""


def _arms(found: Found) -> str:
    parts = []
    for result in found["results"]:
        lines = []
        for arm, values in result["arms"].items():
            lead = result["memory_minus"].get(arm, {}).get("em")
            lines.append(
                (
                    arm,
                    figure(values["em"]),
                    figure(values["f1"]),
                    percent(share(result, arm, "em")),
                    "–" if lead is None else figure(lead, signed=True),
                    _count(values["positions"]),
                    _count(values["nbytes"]),
                )
            )
        header = ("arm", "exact match", "token F1", "kept of the text's", "memory minus this", "positions", "bytes")
        missing = "".join(f"\n\n{arm}: not measured; {why}." for arm, why in result["unavailable"].items())
        inside = results.rows(header, lines) + missing
        title = f"Every arm: {result['model']} at ratio {result['ratio']}"
        parts.append(
            f'??? note "{title}"\n\n' + "\n".join(f"    {line}" if line else "" for line in inside.split("\n"))
        )
    return "\n\n".join(parts)


def _pairs(found: Found) -> str:
    lines = [
        (result["model"], str(result["ratio"]), arm, percent(values["em"]), percent(values["pair"]))
        for result in found["results"]
        for arm, values in result["arms"].items()
        if "pair" in values
    ]
    header = ("model", "ratio", "arm", "answers right", "pairs right, both answers")
    return results.rows(header, lines) if lines else ""


def _times(found: Found) -> str:
    timed = found["ttft_ms"]
    arms = list(dict.fromkeys(arm for one in timed for arm in one["arms"]))
    lines = [
        (
            one["model"],
            str(one["ratio"]),
            *(
                results.between(*(f"{took[name]:,.1f}" for name in ("median", "p10", "p90")))
                if (took := one["arms"].get(arm))
                else "–"
                for arm in arms
            ),
        )
        for one in timed
    ]
    return results.rows(("model", "ratio", *(f"{arm}, ms" for arm in arms)), lines) if lines else ""


PARTS: dict[str, Callable[[Found], str]] = {"": _overview, "arms": _arms, "pairs": _pairs, "times": _times}


def share(result: Found, arm: str, score: str) -> Found | None:
    """Share kept of the text's score, with its interval."""
    found: Found | None = result["share_kept"].get(arm, {}).get(score, {}).get("raw")
    return found


def figure(found: Found | None, *, signed: bool = False) -> str:
    """A score with its interval."""
    if found is None:
        return "–"
    shown = f"{found['value']:{'+' if signed else ''}.3f}"
    if found["low"] is None or found["high"] is None:
        return shown
    return results.between(shown, f"{found['low']:.3f}", f"{found['high']:.3f}")


def percent(found: Found | None) -> str:
    """A share with its interval."""
    if found is None or found["value"] is None:
        return "–"
    shown = f"{found['value']:.1%}"
    if found["low"] is None or found["high"] is None:
        return shown
    return results.between(shown, f"{found['low']:.1%}", f"{found['high']:.1%}")


def _count(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}"
