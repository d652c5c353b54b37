"""The plots of an evaluation's report, as PNG files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cmt_memory.errors import CMTError
from cmt_memory.evaluation.arms import RATIO_ARMS


def draw_plots(results: dict[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Draw what `results.json` has figures for; returns the files' names and what they show.

    Raises:
        CMTError: matplotlib is not installed.
    """
    plots: tuple[tuple[str, str, Callable[[dict[str, Any], Path], bool]], ...] = (
        ("share_kept.png", "Share of the text's token F1 that is kept, against the ratio", _draw_shares),
        ("ttft_f1.png", "Time to first token against token F1", _draw_times),
        ("bytes_f1.png", "Bytes before a question against token F1", _draw_bytes),
        ("retention.png", "Share of the first token F1 that is kept, as documents come in", _draw_retention),
        ("noise.png", "Share of the first token F1 that is kept, as irrelevant documents come in", _draw_noise),
    )
    return [(name, shows) for name, shows, draw in plots if draw(results, folder / name)]


def _figure_and_axes() -> tuple[Any, Any]:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CMTError("The plots of an evaluation need matplotlib: pip install 'cmt-memory[train]'.") from error
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.grid(alpha=0.3)
    return figure, axes


def _draw_shares(found: dict[str, Any], path: Path) -> bool:
    """Share of the text's F1 against the ratio, a line for each model and arm; False where there is no share."""
    figure, axes = _figure_and_axes()
    results = found["results"]
    models = list(dict.fromkeys(result["model"] for result in results))
    drawn = False
    for number, model in enumerate(models):
        mine = sorted((r for r in results if r["model"] == model), key=lambda r: r["ratio"])
        for style, arm in zip(("-o", "--s", ":^", "-.v", ":x"), _COMPARED, strict=True):
            points = [
                (r["ratio"], share)
                for r in mine
                if (share := r["share_kept"].get(arm, {}).get("f1", {}).get("raw")) is not None
            ]
            if points:
                drawn = True
                axes.errorbar(
                    [ratio for ratio, _ in points],
                    [100 * share["value"] for _, share in points],
                    yerr=_errors([share for _, share in points], 100),
                    fmt=style,
                    color=f"C{number}",
                    alpha=1 if arm == "memory" else 0.6,
                    capsize=2,
                    label=f"{model}: {arm}" if len(models) > 1 else arm,
                )
    if drawn:
        ratios = sorted({result["ratio"] for result in results})
        axes.axhline(100, color="gray", linewidth=1)
        axes.set_xscale("log", base=2)
        axes.set_xticks(ratios, [str(ratio) for ratio in ratios])
        axes.minorticks_off()
        axes.set(xlabel="document tokens per slot", ylabel="% of the text's token F1")
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=130)
    return drawn


_COMPARED = ("memory", "truncated", "extract", "extract_bytes", "shuffled")


def _draw_bytes(found: dict[str, Any], path: Path) -> bool:
    """Token F1 against the bytes before a question; False where no arm has bytes."""
    figure, axes = _figure_and_axes()
    from matplotlib.ticker import LogLocator

    drawn = False
    seen: set[tuple[str, str]] = set()
    for result in found["results"]:
        for arm in ("text", "memory@1", *RATIO_ARMS):
            values = result["arms"].get(arm)
            if values is None or not values["nbytes"] or arm not in _MARKERS:
                continue
            alone = arm not in RATIO_ARMS
            key = (result["lm"] if alone else result["model"], arm)
            if alone and key in seen:
                continue
            drawn = True
            axes.errorbar(
                values["nbytes"],
                values["f1"]["value"],
                yerr=_errors([values["f1"]], 1),
                fmt=_MARKERS[arm],
                color=f"C{list(_MARKERS).index(arm)}",
                capsize=2,
                label=None if arm in {name for _, name in seen} else arm,
            )
            name = "" if alone else f" {result['ratio']}×"
            axes.annotate(name, (values["nbytes"], values["f1"]["value"]), fontsize="x-small")
            seen.add(key)
    if drawn:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.minorticks_off()
        axes.set(xlabel="bytes before a question (memories: on disk)", ylabel="token F1")
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=130)
    return drawn


_MARKERS = {"memory": "o", "text": "D", "memory@1": "P", "truncated": "s", "extract": "^", "extract_bytes": "v"}


def _draw_times(found: dict[str, Any], path: Path) -> bool:
    """Token F1 against milliseconds to the first token, medians and 10th to 90th percentile; False where not timed."""
    figure, axes = _figure_and_axes()
    scores = {(result["model"], result["ratio"]): result["arms"] for result in found["results"]}
    markers = _MARKERS | {"none": "x"}
    models = list(dict.fromkeys(timed["model"] for timed in found["ttft_ms"]))
    labelled: set[tuple[str, str]] = set()
    for timed in found["ttft_ms"]:
        for arm, took in timed["arms"].items():
            key = (timed["model"], arm)
            if arm not in RATIO_ARMS and key in labelled:
                continue  # the LM's own arms are the same at every ratio
            f1 = scores[timed["model"], timed["ratio"]][arm]["f1"]
            axes.errorbar(
                took["median"],
                f1["value"],
                xerr=[[took["median"] - took["p10"]], [took["p90"] - took["median"]]],
                yerr=_errors([f1], 1),
                fmt=markers[arm],
                color=f"C{list(markers).index(arm)}",
                fillstyle=("full", "none", "left", "right")[models.index(timed["model"]) % 4],
                capsize=2,
                label=None if key in labelled else f"{timed['model']}: {arm}" if len(models) > 1 else arm,
            )
            if arm in RATIO_ARMS:
                axes.annotate(f" {timed['ratio']}×", (took["median"], f1["value"]), fontsize="x-small")
            labelled.add(key)
    if labelled:
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.set(xlabel="ms to the first token, search left out", ylabel="token F1")
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=130)
    return bool(labelled)


def _draw_retention(found: dict[str, Any], path: Path) -> bool:
    return _draw_growth(found, "retention", "documents", 1, "documents in the store", path)


def _draw_noise(found: dict[str, Any], path: Path) -> bool:
    return _draw_growth(found, "noise", "added", 100, "irrelevant documents added, % of the documents", path)


def _draw_growth(found: dict[str, Any], experiment: str, x: str, scale: float, says: str, path: Path) -> bool:
    """Share kept of the F1 at the first size, a line for the text and for memories of each model at each ratio."""
    figure, axes = _figure_and_axes()
    drawn = False
    for grown in found["growth"]:
        points = [(scale * p[x], p["f1_kept"]) for p in grown["points"] if p["f1_kept"] is not None]
        if grown["experiment"] != experiment or not points:
            continue
        drawn = True
        at = "" if grown["ratio"] is None else f" at ratio {grown['ratio']}"
        axes.errorbar(
            [place for place, _ in points],
            [100 * kept["value"] for _, kept in points],
            yerr=_errors([kept for _, kept in points], 100),
            fmt="--D" if grown["arm"] == "text" else "-o",
            capsize=2,
            label=f"{grown['arm']}, {grown['model']}{at}",
        )
    if drawn:
        axes.axhline(100, color="gray", linewidth=1)
        axes.set(xlabel=says, ylabel="% of the token F1 at the start")
        axes.legend(fontsize="small")
        figure.savefig(path, dpi=130)
    return drawn


def _errors(found: Sequence[dict[str, Any]], scale: float) -> list[list[float]]:
    """Lengths of the bars below and above; none where there is no interval."""
    low = [scale * (f["value"] - (f["value"] if f["low"] is None else f["low"])) for f in found]
    high = [scale * ((f["value"] if f["high"] is None else f["high"]) - f["value"]) for f in found]
    return [[max(0.0, length) for length in low], [max(0.0, length) for length in high]]
