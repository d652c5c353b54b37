"""`cmt-memory bench …`: measure on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from cmt_memory.cli.options import Latent, debug_option, json_option, quiet
from cmt_memory.cli.output import print_json, size

_MEANING = {"none": "the question alone", "memory": "documents as memories", "text": "documents as text"}


@click.group()
def bench() -> None:
    """Measure on this machine: latency, ingest, storage, search.

    \b
    Example:  cmt-memory bench latency
    """


F = TypeVar("F", bound=Callable[..., Any])


def _model_options(command: F) -> F:
    """What the random model is, and how it compresses: the fields of `RandomModel`."""
    for option in reversed(
        (
            click.option(
                "--shape",
                type=click.Choice(["0.5b", "7b", "tiny"]),
                default="0.5b",
                show_default=True,
                help="Model shape: Qwen2.5's, or a tiny one for a try. The weights are random.",
            ),
            click.option(
                "--dtype",
                type=click.Choice(["float32", "bfloat16", "float16"]),
                default="float32",
                show_default=True,
            ),
            click.option("--device", help="cpu, cuda, ...  [default: cuda if there is one]"),
            click.option(
                "--ratio", type=click.IntRange(1, 256), default=16, show_default=True, help="Document tokens per slot."
            ),
            click.option(
                "--latent", type=Latent(), metavar="N|full", default=256, show_default=True, help="Numbers per slot."
            ),
            click.option(
                "--encoder",
                default="auto",
                show_default=True,
                metavar="NAME",
                callback=lambda _context, _parameter, name: None if name == "none" else name,
                help="Sentence encoder, or 'none' for BM25 alone.",
            ),
        )
    ):
        command = option(command)
    return command


output_option = click.option(
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    callback=lambda _context, _parameter, path: _in_a_folder(path),
    help="Write the JSON to this file too.",
)


def _in_a_folder(path: Path | None) -> Path | None:
    if path is not None and not path.absolute().parent.is_dir():
        raise click.BadParameter(f"the folder {path.absolute().parent} does not exist.")
    return path


def _show(result: dict[str, Any], output: Path | None, as_json: bool, write: Callable[[dict[str, Any]], None]) -> None:
    if output is not None:
        output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    if as_json:
        print_json(result)
    else:
        write(result)


@bench.command(short_help="Time to the first token: memories, text, neither.")
@_model_options
@click.option(
    "--repetitions", type=click.IntRange(min=1), default=20, show_default=True, help="Questions asked in each mode."
)
@output_option
@json_option
@debug_option
def latency(repetitions: int, output: Path | None, as_json: bool, **model: Any) -> None:
    """Time to the first token: 4 documents of 512 tokens as memories, as text, and not at all.

    \b
    Example:  cmt-memory bench latency
    Script:   cmt-memory bench latency --dtype bfloat16 --json

    Every question is new, nothing is cached between questions, and the clock includes question encoder, search
    and reading memories from disk. Modes take turns, so that the ratios hold on a busy machine.
    """
    click.echo(f"Building a random model of shape {model['shape']} ...", err=True)
    quiet()
    from cmt_memory.evaluation.latency import LatencySettings, measure_latency
    from cmt_memory.progress import Progress

    settings = LatencySettings(**model, repetitions=repetitions)
    with Progress("Measuring", repetitions, unit="questions", show=sys.stderr.isatty()) as bar:
        result = measure_latency(settings, lambda: bar.advance(1))
    _show(result, output, as_json, _print_latency)


@bench.command(short_help="Tokens a second of adding, against the LM's bare forward pass.")
@_model_options
@click.option("--rounds", type=click.IntRange(min=1), default=3, show_default=True, help="Times of each way, in turn.")
@click.option(
    "--documents", type=click.IntRange(min=1), default=16, show_default=True, help="Documents of 512 tokens a round."
)
@output_option
@json_option
@debug_option
def ingest(rounds: int, documents: int, output: Path | None, as_json: bool, **model: Any) -> None:
    """Adding documents of 512 tokens through the whole path, against the LM's bare decoder over the same tokens.

    \b
    Example:  cmt-memory bench ingest
    Script:   cmt-memory bench ingest --json
    """
    _show(_rounds("measure_ingest", model, rounds, documents), output, as_json, _print_ingest)


@bench.command(short_help="Bytes of a document's memory, its text and its full keys and values.")
@_model_options
@click.option("--documents", type=click.IntRange(min=1), default=32, show_default=True, help="Documents of 512 tokens.")
@output_option
@json_option
@debug_option
def storage(documents: int, output: Path | None, as_json: bool, **model: Any) -> None:
    """What a document of 512 tokens takes on the disk: its memory, the whole store, its text, its keys and values.

    \b
    Example:  cmt-memory bench storage
    Script:   cmt-memory bench storage --ratio 8 --json
    """
    _show(_rounds("measure_storage", model, 1, documents), output, as_json, _print_storage)


@bench.command(short_help="Searching, opening and rebuilding a large store.")
@click.option("--memories", type=click.IntRange(min=100), default=100_000, show_default=True, help="Memories.")
@click.option("--questions", type=click.IntRange(min=1), default=200, show_default=True, help="Questions asked.")
@click.option(
    "--store", "folder", type=click.Path(file_okay=False, path_type=Path), help="Keep the store there and use it again."
)
@output_option
@json_option
@debug_option
def search(memories: int, questions: int, folder: Path | None, output: Path | None, as_json: bool) -> None:
    """Search a large store of clustered vectors, open it and rebuild its index.

    \b
    Example:  cmt-memory bench search
    Script:   cmt-memory bench search --memories 1000000 --json
    """
    quiet()
    from cmt_memory.evaluation.search import SearchSettings, measure_search
    from cmt_memory.progress import Progress

    settings = SearchSettings(memories=memories, questions=questions)
    with Progress("Adding", memories, unit="memories", show=sys.stderr.isatty()) as bar:
        result = measure_search(settings, folder, bar.advance)
    _show(result, output, as_json, _print_search)


def _rounds(
    measure: Literal["measure_ingest", "measure_storage"], model: dict[str, Any], rounds: int, documents: int
) -> dict[str, Any]:
    click.echo(f"Building a random model of shape {model['shape']} ...", err=True)
    quiet()
    from cmt_memory.evaluation import ingest
    from cmt_memory.progress import Progress

    settings = ingest.IngestSettings(**model, rounds=rounds, documents=documents)
    with Progress("Measuring", rounds, unit="rounds", show=sys.stderr.isatty()) as bar:
        result: dict[str, Any] = getattr(ingest, measure)(settings, lambda: bar.advance(1))
    return result


def _print_ingest(result: dict[str, Any]) -> None:
    rates, between = result["tokens_per_s"], result["spread"]["share"]
    click.echo(f"adding to the store   {rates['store']:>10,.0f} tokens/s")
    click.echo(f"the LM's bare decoder {rates['bare_forward']:>10,.0f} tokens/s")
    click.echo(f"\nshare {result['share']:.0%} (p10 {between['p10']:.0%}, p90 {between['p90']:.0%})")


def _print_storage(result: dict[str, Any]) -> None:
    kept, settings = result["bytes_per_document"], result["settings"]
    asked = f"ratio {settings['ratio']}, latent {settings['latent']}, {settings['slot_dtype']}"
    click.echo(f"a document of {settings['document_tokens']} tokens, {asked}:")
    for name, meaning in (
        ("payload", "its memory"),
        ("store", "what it adds to the store's folder"),
        ("text", "its text"),
        ("full_kv", "its full keys and values"),
    ):
        click.echo(f"  {meaning:34}{size(kept[name]):>12}")
    click.echo(f"once for a store: {size(result['bytes_per_store'])}, most of it the latent's projection")


def _print_search(result: dict[str, Any]) -> None:
    for name, took in result["search_ms"].items():
        click.echo(f"search, {name:7} {took['p50']:>8.1f} ms, p95 {took['p95']:.1f} ms")
    click.echo(f"recall of the index    {result['recall']:.3f} of the {result['settings']['k']} exactly nearest")
    click.echo(f"opening                {result['open_s']:.2f} s; {result['first_search_s']:.2f} s to the first hits")
    click.echo(f"index made anew        {result['rebuild_s']:.0f} s, {result['rebuilt_per_s']:,} memories/s")
    click.echo(f"peak memory            {result['peak_rss_mb']:,} MB")


def _print_latency(result: dict[str, Any]) -> None:
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
