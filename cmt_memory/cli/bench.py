"""`cmt-memory bench …`: measure on this machine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Literal

import click

from cmt_memory.cli.options import Latent, debug_option, json_option, quiet
from cmt_memory.cli.output import print_json, size

_MEANING = {"none": "the question alone", "memory": "documents as memories", "text": "documents as text"}


@click.group()
def bench() -> None:
    """Measure on this machine: latency.

    \b
    Example:  cmt-memory bench latency
    """


@bench.command(short_help="Time to the first token: memories, text, neither.")
@click.option(
    "--shape",
    type=click.Choice(["0.5b", "7b", "tiny"]),
    default="0.5b",
    show_default=True,
    help="Model shape: Qwen2.5's, or a tiny one for a try. The weights are random.",
)
@click.option("--dtype", type=click.Choice(["float32", "bfloat16", "float16"]), default="float32", show_default=True)
@click.option("--device", help="cpu, cuda, ...  [default: cuda if there is one]")
@click.option("--ratio", type=click.IntRange(1, 256), default=16, show_default=True, help="Document tokens per slot.")
@click.option("--latent", type=Latent(), metavar="N|full", default=256, show_default=True, help="Numbers per slot.")
@click.option(
    "--encoder", default="auto", show_default=True, metavar="NAME", help="Sentence encoder, or 'none' for BM25 alone."
)
@click.option(
    "--repetitions", type=click.IntRange(min=1), default=20, show_default=True, help="Questions asked in each mode."
)
@click.option("--output", type=click.Path(dir_okay=False, path_type=Path), help="Write the JSON to this file too.")
@json_option
@debug_option
def latency(
    shape: str,
    dtype: str,
    device: str | None,
    ratio: int,
    latent: int | Literal["full"],
    encoder: str,
    repetitions: int,
    output: Path | None,
    as_json: bool,
) -> None:
    """Time to the first token: 4 documents of 512 tokens as memories, as text, and not at all.

    \b
    Example:  cmt-memory bench latency
    Script:   cmt-memory bench latency --dtype bfloat16 --json

    Every question is new, nothing is cached between questions, and the clock includes question encoder, search
    and reading memories from disk. Modes take turns, so that the ratios hold on a busy machine.
    """
    if output is not None and not output.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {output.absolute().parent} does not exist.", param_hint="--output")
    click.echo(f"Building a random model of shape {shape} ...", err=True)
    quiet()
    from cmt_memory.evaluation.latency import LatencySettings, measure_latency
    from cmt_memory.progress import Progress

    settings = LatencySettings(
        shape=shape,
        dtype=dtype,
        device=device,
        ratio=ratio,
        latent=latent,
        encoder=None if encoder == "none" else encoder,
        repetitions=repetitions,
    )
    with Progress("Measuring", repetitions, unit="questions", show=sys.stderr.isatty()) as bar:
        result = measure_latency(settings, lambda: bar.advance(1))
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if as_json:
        print_json(result)
    else:
        _print(result)


def _print(result: dict[str, Any]) -> None:
    settings, spread = result["settings"], result["spread"]
    click.echo(
        f"\n{settings['documents']} documents of {settings['document_tokens']} tokens, shape {settings['shape']}, "
        f"{settings['dtype']}, {settings['device']}, ratio {settings['ratio']}, latent {settings['latent']}, "
        f"{settings['repetitions']} questions\n"
    )
    click.echo(f"{'':24}{'first token':>12}{'p10 to p90':>18}{'prompt tokens':>15}{'slots':>7}")
    for mode, meaning in _MEANING.items():
        low, high = spread["ttft_ms"][mode]["p10"], spread["ttft_ms"][mode]["p90"]
        slots = result["memory_slots"] if mode == "memory" else 0
        click.echo(
            f"{meaning:24}{result['ttft_ms'][mode]:>9,.0f} ms{f'{low:,.0f} to {high:,.0f}':>18}"
            f"{result['prompt_tokens'][mode]:>15,.0f}{slots:>7,.0f}"
        )
    click.echo(
        f"\nmemory is {_times(result, 'text_over_memory')} faster than text and takes "
        f"{_times(result, 'memory_over_none')} the time of the bare question."
    )
    stages = ", ".join(f"{stage} {took:.1f}" for stage, took in result["breakdown_ms"].items())
    kept = result["bytes_per_document"]
    click.echo(f"memory mode by stage, ms: {stages}")
    click.echo(f"kept per document: memory {size(kept['memory'])}, text {size(kept['text'])}")


def _times(result: dict[str, Any], name: str) -> str:
    spread = result["spread"][name]
    return f"{result[name]:.2f}x (p10 {spread['p10']:.2f}, p90 {spread['p90']:.2f})"
