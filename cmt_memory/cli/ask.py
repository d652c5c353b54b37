"""`cmt-memory ask`: one question to a store."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from cmt_memory.cli.options import (
    debug_option,
    encoder_option,
    json_option,
    model_option,
    open_store,
    store_option,
)
from cmt_memory.cli.output import print_json
from cmt_memory.documents import Answer


@click.command(short_help="Answer a question from a store.")
@click.argument("question")
@store_option()
@click.option(
    "--mode",
    type=click.Choice(["memory", "text", "none"]),
    default="memory",
    show_default=True,
    help="memory: inject memories. text: put the same passages into the prompt. none: ask the LM alone.",
)
@click.option("--k", type=click.IntRange(min=1), default=4, show_default=True, help="Passages to use at most.")
@click.option("--min-score", type=float, help="Leave out passages less relevant than this (0 to 1).")
@click.option(
    "--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Longest answer, in tokens."
)
@click.option(
    "--fallback",
    type=click.FloatRange(0, 1),
    metavar="CONFIDENCE",
    help="Read the same passages once as text where the answer from memories is less sure than this (0 to 1).",
)
@click.option("--stream", is_flag=True, help="Print the answer as it is written.")
@model_option("LM that answers, where it is no longer where the store says.  [default: the store's own]")
@encoder_option
@json_option
@debug_option
def ask(
    question: str,
    path: Path,
    mode: str,
    k: int,
    min_score: float | None,
    max_new_tokens: int,
    fallback: float | None,
    stream: bool,
    model: str | None,
    encoder: str | None,
    as_json: bool,
) -> None:
    """Answer a question from a store's memories.

    \b
    Example:  cmt-memory ask "Who has the spare key?" --store mem
    Compare:  cmt-memory ask "Who has the spare key?" --store mem --mode text
    Script:   cmt-memory ask "Who has the spare key?" --store mem --json | jq -r .text

    The answer goes to the standard output; where it came from and what it cost go to the standard error.
    """
    if stream and as_json:
        raise click.UsageError("--stream and --json do not go together.")
    if fallback is not None and mode != "memory":
        raise click.UsageError(f"--fallback reads text after memories; it does not go with --mode {mode}.")
    if not question.strip():
        raise click.BadParameter("the question is empty.", param_hint="QUESTION")
    settings: dict[str, Any] = {
        "k": k, "mode": mode, "min_score": min_score, "max_new_tokens": max_new_tokens, "fallback": fallback
    }  # fmt: skip
    # Another encoder indexes the store anew, which a reader must not do.
    with open_store(path, model=model, encoder=encoder, read_only=encoder is None) as store:
        if stream:
            pieces = store.stream(question, **settings)
            while True:
                try:
                    click.echo(next(pieces), nl=False)
                except StopIteration as end:
                    answer: Answer = end.value
                    break
            click.echo()
        else:
            answer = store.ask(question, **settings)
    if as_json:
        print_json({"question": question} | asdict(answer))
        return
    if not stream:
        click.echo(answer.text)
    click.echo(_provenance(answer), err=True)


def _provenance(answer: Answer) -> str:
    usage = answer.usage
    lines = []
    if answer.mode != "none" and not answer.grounded:
        lines.append("No passage was found for this; the LM answered on its own.")
    for hit in answer.hits:
        lines.append(f"  {hit.score:.2f}  {_source(hit.id, hit.metadata)}")
    cost = f"{usage.prompt_tokens} prompt tokens, {usage.memory_slots} memory slots"
    if "first_token" in answer.timings:
        cost += f", first token after {1000 * answer.timings['first_token']:.0f} ms"
    if answer.confidence is not None:
        cost += f", confidence {answer.confidence:.2f}"
    if usage.left_out:
        cost += f"; {usage.left_out} passages did not fit and were left out"
    mode = "text after memory" if usage.passes > 1 else answer.mode
    return "\n".join([*lines, f"  {mode}: {cost}"])


def _source(id: str, metadata: dict[str, Any]) -> str:
    source = metadata.get("source")
    if not isinstance(source, str):
        return id
    file = Path(source)
    shown = str(file.relative_to(Path.cwd())) if file.is_relative_to(Path.cwd()) else source
    return f"{shown}, page {metadata['page']}" if "page" in metadata else shown
