"""What a run leaves for people: a plot of losses and gates, and a model card."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cmt_memory.model.modeling import CMTModel
from cmt_memory.training.config import TrainConfig

_SHARES = (
    "exact_match",
    "exact_match_shuffled",
    "exact_match_zeroed",
    "exact_match_none",
    "exact_match_text",
    "copy_probe",
    "swap_right",
)
_SLOTS = ("effective_rank", "mean_cosine")


def curves(log: Sequence[dict[str, Any]], prefix: str) -> dict[str, tuple[list[int], list[float]]]:
    """Each logged value whose name begins so, by steps counted over all stages."""
    offsets, last = {}, 0
    for stage in sorted({line["stage"] for line in log}):
        offsets[stage] = last
        last += max(line["step"] for line in log if line["stage"] == stage)
    found: dict[str, tuple[list[int], list[float]]] = {}
    for line in log:
        for name, value in line.items():
            if name.startswith(prefix) and isinstance(value, int | float):
                steps, values = found.setdefault(name.removeprefix(prefix), ([], []))
                steps.append(offsets[line["stage"]] + line["step"])
                values.append(value)
    return found


def write_plot(log: Sequence[dict[str, Any]], path: Path) -> None:
    """Losses, answers on held-out questions and the state of the slots against steps, as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    losses, gates = curves(log, "loss_"), curves(log, "gate_")
    panels = [("loss, nats per token", losses, tuple(losses)), ("share of held-out questions", gates, _SHARES)]
    panels += [(name.replace("_", " "), gates, (name,)) for name in _SLOTS]
    panels = [(title, lines, names) for title, lines, names in panels if any(name in lines for name in names)]
    figure = Figure(figsize=(7, 2.8 * max(1, len(panels))), layout="constrained")
    FigureCanvasAgg(figure)
    for number, (title, lines, names) in enumerate(panels):
        axes = figure.add_subplot(len(panels), 1, number + 1)
        for name in names:
            if name in lines:
                axes.plot(*lines[name], label=name.replace("_", " "), marker="." if len(lines[name][0]) < 20 else "")
        axes.set_ylabel(title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
        if number == len(panels) - 1:
            axes.set_xlabel("steps")
    figure.savefig(path, dpi=110)


def write_card(
    config: TrainConfig,
    model: CMTModel,
    results: dict[int, dict[str, float]],
    log: Sequence[dict[str, Any]],
    digest: str,
    path: Path,
) -> None:
    """A model card with data, settings, results and seed."""
    trained = sum(p.numel() for part in (model.compressor, model.aggregator, model.aligner) for p in part.parameters())
    llm = model.config.lm or config.llm
    ratio = f", ratio={model.config.ratio}" if config.compressor == "adapted" else ""
    lines = [
        f"# Compressor for {llm}",
        "",
        "Turns documents into memories that the frozen language model answers from (CMT, arXiv 2412.07393).",
        "Use it with [cmt-memory](https://pypi.org/project/cmt-memory/):",
        "",
        "```python",
        "from cmt_memory import CMTMemoryStore, CMTModel",
        "",
        f'model = CMTModel.from_pretrained("this folder"{ratio})',
        'store = CMTMemoryStore("memories", model)',
        "```",
        "",
        "## What it is",
        "",
        f"- language model: `{llm}`, not changed (sha256 of its weights before and after: `{digest[:16]}…`)",
        *_parts(config, model),
        f"- {trained:,} parameters beside the language model",
        "",
        "## Data",
        "",
        *(f"- {_source(source)}" for source in config.train),
        *(f"- held out, never trained on: {_source(source)}" for source in config.held_out),
        "",
        "## Results",
        "",
        *_results(config, results),
        "",
        "## Training",
        "",
        f"Seed {config.seed}, one run. Objectives: {_objectives(config)}.",
        "",
        "| stage | task | trains | steps | batch | learning rate | last loss |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, stage in enumerate(config.stages):
        mine = [line for line in log if line["stage"] == number and "loss" in line]
        steps = max((line["step"] for line in log if line["stage"] == number), default=0)
        loss = f"{mine[-1]['loss']:.3f}" if mine else "–"
        batch = stage.batch * stage.gradient_accumulation
        lines.append(
            f"| {number} | {stage.task} | {stage.trains} | {steps} | {batch} | {stage.learning_rate:g} | {loss} |"
        )
    path.write_text("\n".join(lines) + "\n", "utf-8")


def _parts(config: TrainConfig, model: CMTModel) -> list[str]:
    """What reads, what a memory is, and what it becomes."""
    size, encoder, prefix = model.config.latent, model.config.encoder, model.config.prefix
    if encoder is None or prefix is None:
        adapter = config.adapter
        return [
            f"- reads {'from left to right' if adapter.causal else 'in both directions'}, with LoRA adapters of rank "
            f"{adapter.rank}",
            f"- {size} numbers per slot; trained at {_list(config.ratios)} document tokens per slot",
        ]
    across = model.config.cross_attention
    return [
        f"- `{Path(encoder.model).name if Path(encoder.model).is_absolute() else encoder.model}` reads, "
        f"{'trained too' if encoder.trained else 'not trained'}",
        f"- {encoder.slots} slots of {size} numbers for every document",
        f"- the documents' slots {'are joined by cross-attention from the question' if across else 'follow each other'}"
        f", and become {prefix.positions} positions in each layer",
    ]


def _results(config: TrainConfig, results: dict[int, dict[str, float]]) -> list[str]:
    if not results:
        return ["Not measured: the run had no held-out data."]
    lines = [
        f"Exact match of free answers to {config.gates.questions} held-out questions: a check, no evaluation.",
        "",
        "| ratio | memory | another document's | no memory | text in the prompt | share of text | swapped dates |",
        "|---|---|---|---|---|---|---|",
    ]
    for ratio, found in results.items():
        memory, text = found["exact_match"], found["exact_match_text"]
        share = f"{memory / text:.0%}" if text else "–"
        lines.append(
            f"| {ratio} | {memory:.3f} | {found['exact_match_shuffled']:.3f} | {found['exact_match_none']:.3f} "
            f"| {text:.3f} | {share} | {found['swap_right']:.3f} (text {found['swap_right_text']:.3f}) |"
        )
    pairs = "Swapped dates: pairs of documents in which two dates have changed places, both answers right."
    return [*lines, "", pairs]


def _objectives(config: TrainConfig) -> str:
    chosen = config.objectives.model_dump(by_alias=True)
    parts = []
    for name, value in chosen.items():
        if isinstance(value, dict):
            if value["weight"]:
                parts.append(f"{name} ({', '.join(f'{key} {part}' for key, part in value.items())})")
        elif value:
            parts.append(f"{name} {value:g}")
    return ", ".join(parts)


def _source(source: Any) -> str:
    values = source.model_dump()
    kind = values.pop("kind")
    named = {key: Path(value).name if key in ("path", "documents") else value for key, value in values.items()}
    return f"`{kind}` ({', '.join(f'{key} {value}' for key, value in named.items())})"


def _list(ratios: Sequence[int]) -> str:
    return ", ".join(map(str, sorted(set(ratios))))
