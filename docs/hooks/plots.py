"""Plots of committed results, as SVG that takes its ink from the page around it."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import results

Found = dict[str, Any]
Point = tuple[float, float, Sequence[float]]
"""Place, height, and the ends of the interval."""

INK = "#010203"
"""Stands for the page's own colour of text while a plot is drawn."""
COLOURS = ("#1f8a80", "#d1702a", "#5b7fd1", "#b0589f", "#8a8f2a", "#7a7a7a")
"""Readable on white and on a dark page; see tests/docs/test_plots.py."""
MARKERS = ("o", "s", "^", "D", "v", "P", "X")


@dataclass(frozen=True)
class Plot:
    """A plot by the name that pages use, what it is made of, and how it is drawn."""

    name: str
    stems: tuple[str, ...]
    caption: str
    draw: Callable[[Any, dict[str, Found]], None]

    def there(self) -> bool:
        """Whether anything it is made of was measured."""
        return any(map(results.there, self.stems))

    def svg(self) -> str:
        """The drawing, without a background."""
        found = {stem: results.read(stem) for stem in self.stems if results.there(stem)}
        return _drawn(self.name, self.caption, lambda axes: self.draw(axes, found))


def find(name: str) -> Plot:
    """The plot of a name; `eval/<file>/<what>` is one of an evaluation.

    Raises:
        KeyError: there is no such plot.
    """
    if name == "kept-against-ratio":
        return find("eval/facts/kept") if results.there("facts") else _UNTRAINED
    if name in _BENCHMARKS:
        return _BENCHMARKS[name]
    _, stem, what = name.split("/") if name.count("/") == 2 else (None, name, name)
    caption, draw = _EVALUATIONS[what]
    return Plot(name, (stem,), caption, lambda axes, found: draw(axes, found[stem]))


def _drawn(name: str, caption: str, draw: Callable[[Any], None]) -> str:
    import matplotlib
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "svg.hashsalt": name,
        "font.size": 10,
        "font.family": ["sans-serif"],
        "text.color": INK,
        "axes.edgecolor": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.8, 3.4), layout="constrained")
        axes = figure.add_subplot()
        axes.grid(alpha=0.18, color=INK)
        draw(axes)
        written = io.StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _themed(written.getvalue(), caption)


def _themed(svg: str, caption: str) -> str:
    """The page gives size, ink and type; the caption is the text for those who do not see it."""
    svg = svg[svg.index("<svg") :].replace(INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"; *font-family: [^;\"]*", "", svg)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    label = re.sub(r"[<>&\"]", "", caption)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)


# -- benchmarks ----------------------------------------------------------------------------------------------------


def _untrained(axes: Any, found: dict[str, Found]) -> None:
    [one] = found.values()
    arms = [arm for arm in one["gates"]["names"] if arm["arm"] == "memory" and arm["latent"] == "full"]
    whole = next(arm for arm in arms if arm["ratio"] == 1)
    for number, compressor in enumerate(("kept", "pooled")):
        mine = [whole, *(arm for arm in arms if arm.get("compressor") == compressor)]
        points = [(arm["ratio"], 100 * arm["share_of_text"], [100 * end for end in arm["share_95"]]) for arm in mine]
        _line(axes, points, number, f"nothing trained, {compressor}")
    _ratio_axes(axes, sorted({arm["ratio"] for arm in arms}), "% of the text's exact matches")


def _first_token(axes: Any, found: dict[str, Found]) -> None:
    modes = {"none": "question alone", "memory": "with memories", "text": "with the text"}
    for number, (mode, meaning) in enumerate(modes.items()):
        for row, one in enumerate(found.values()):
            took, spread = one["ttft_ms"][mode], one["spread"]["ttft_ms"][mode]
            place = row + 0.27 * (number - 1)
            axes.barh(
                place,
                took,
                0.24,
                color=COLOURS[(5, 0, 1)[number]],
                label=meaning if row == 0 else None,
                xerr=[[took - spread["p10"]], [spread["p90"] - took]],
                error_kw={"ecolor": INK, "alpha": 0.6, "capsize": 2},
            )
            _beside(axes, f"{took:,.0f}", spread["p90"], place)
    axes.set_yticks(range(len(found)), [one["settings"]["dtype"] for one in found.values()])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.14)
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_xlabel("ms to the first token")
    _legend(axes, 3)


_UNTRAINED = Plot(
    "untrained-kept",
    ("facts_memory",),
    "Share of the text's exact matches that memories keep without training, against the ratio; 95 % intervals.",
    _untrained,
)
_BENCHMARKS = {
    plot.name: plot
    for plot in (
        _UNTRAINED,
        Plot(
            "first-token",
            ("latency_0.5b_fp32", "latency_0.5b_bf16"),
            "Time to the first token with four documents of 512 tokens; medians, 10th to 90th percentile.",
            _first_token,
        ),
    )
}


# -- evaluations ---------------------------------------------------------------------------------------------------


def _kept(axes: Any, found: Found) -> None:
    number = 0
    models = list(dict.fromkeys(result["model"] for result in found["results"]))
    for arm, meaning in _COMPARED.items():
        for model in models:
            points = []
            for result in sorted(found["results"], key=lambda result: result["ratio"]):
                share = result["share_kept"].get(arm, {}).get("em", {}).get("raw")
                if result["model"] == model and share is not None:
                    points.append((result["ratio"], 100 * share["value"], _ends(share, 100)))
            if points:
                _line(
                    axes, points, number, f"{meaning}, {model}" if len(models) > 1 else meaning, faint=arm != "memory"
                )
                number += 1
    _ratio_axes(axes, sorted({result["ratio"] for result in found["results"]}), "% of the text's exact matches")


_COMPARED = {
    "memory": "memories",
    "extract": "closest sentences",
    "truncated": "text cut short",
    "shuffled": "others' memories",
}


def _against(x: Callable[[Found, Found], Iterator[tuple[str, float]]], label: str) -> Callable[[Any, Found], None]:
    """A plot of the exact match against a cost of each arm."""

    def draw(axes: Any, found: Found) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator

        several = len({result["model"] for result in found["results"]}) > 1
        labels: dict[str, list[Point]] = {}
        for result in found["results"]:
            for arm, cost in x(found, result):
                score = result["arms"].get(arm, {}).get("em")
                own = arm in _OF_A_RATIO
                label = f"{arm}, {result['model']}" if several and own else arm
                if score is None or not cost or (label in labels and not own):
                    continue  # the LM's own arms are the same at every ratio
                labels.setdefault(label, []).append((cost, score["value"], _ends(score, 1)))
                if arm == "memory":
                    _beside(axes, f"{result['ratio']}×", cost, score["value"])
        for number, label in enumerate(sorted(labels, key=lambda label: label.partition(",")[0] != "memory")):
            _points(axes, labels[label], number, label, "")
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if _decades(labels) < 3 else (1,)))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.set_ylabel("exact match")
        axes.set_xlabel(label_of_axis)
        _legend(axes, 3)

    label_of_axis = label
    return draw


_OF_A_RATIO = ("memory", "shuffled", "truncated", "extract", "extract_bytes")


def _decades(labels: dict[str, list[Point]]) -> float:
    costs = [cost for points in labels.values() for cost, _, _ in points]
    return math.log10(max(costs) / min(costs)) if costs else 0.0


def _of_arm(name: str) -> Callable[[Found, Found], Iterator[tuple[str, float]]]:
    def costs(found: Found, result: Found) -> Iterator[tuple[str, float]]:
        for arm, values in result["arms"].items():
            if arm in ("memory", "text", "memory@1", "truncated", "extract", "extract_bytes"):
                yield arm, values[name]

    return costs


def _milliseconds(found: Found, result: Found) -> Iterator[tuple[str, float]]:
    for timed in found["ttft_ms"]:
        if (timed["model"], timed["ratio"]) == (result["model"], result["ratio"]):
            for arm, took in timed["arms"].items():
                yield arm, took["median"]


_EVALUATIONS: dict[str, tuple[str, Callable[[Any, Found], None]]] = {
    "kept": (
        "Share of the text's exact matches that is kept, against the ratio (document tokens per slot); 95 % intervals. "
        "The sentences closest to the question, and the text cut short, take as many positions as the memories.",
        _kept,
    ),
    "time": (
        "Exact match against the time to the first token, search left out.",
        _against(_milliseconds, "ms to the first token"),
    ),
    "positions": (
        "Exact match against the positions that stand before a question.",
        _against(_of_arm("positions"), "positions before a question"),
    ),
    "bytes": (
        "Exact match against the bytes before a question; those of memories are on disk.",
        _against(_of_arm("nbytes"), "bytes before a question"),
    ),
}


# -- what plots share ----------------------------------------------------------------------------------------------


def _ends(found: Found, scale: float) -> tuple[float, float]:
    low, high = (found["value"] if found[end] is None else found[end] for end in ("low", "high"))
    return scale * low, scale * high


def _points(
    axes: Any, points: Sequence[Point], number: int, label: str | None, line: str, *, faint: bool = False
) -> None:
    x, y, ends = zip(*points, strict=True)
    below = [max(0.0, value - low) for value, (low, _) in zip(y, ends, strict=True)]
    above = [max(0.0, high - value) for value, (_, high) in zip(y, ends, strict=True)]
    axes.errorbar(
        x,
        y,
        yerr=[below, above],
        fmt=MARKERS[number % len(MARKERS)] + line,
        color=COLOURS[number % len(COLOURS)],
        linewidth=1.2 if faint else 2,
        markersize=5,
        capsize=2,
        label=label,
    )


def _line(axes: Any, points: Sequence[Point], number: int, label: str, *, faint: bool = False) -> None:
    _points(axes, points, number, label, "--" if faint else "-", faint=faint)


def _ratio_axes(axes: Any, ratios: Sequence[int], label: str) -> None:
    axes.axhline(100, color=INK, linewidth=1, alpha=0.5)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ratios, [str(ratio) for ratio in ratios])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("document tokens per slot (ratio)")
    axes.set_ylabel(label)
    _legend(axes, 2)


def _beside(axes: Any, words: str, x: float, y: float) -> None:
    axes.annotate(words, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8)


def _legend(axes: Any, columns: int) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.figure.legend(loc="outside upper left", ncols=columns, fontsize=9)
