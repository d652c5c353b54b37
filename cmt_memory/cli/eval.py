"""`cmt-memory eval`: how much of the text's answers memories keep, beside every control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from cmt_memory.cli.options import checked_config, config_option, debug_option, json_option, quiet, resumable
from cmt_memory.cli.output import print_json


@click.command("eval", short_help="Measure how much of your text's answers memories keep, beside every control.")
@config_option("evaluation")
@json_option
@debug_option
def evaluate(path: Path, as_json: bool) -> None:
    """Ask the same questions from memories, from the text they were made of, and from less; compare the answers.

    A file that evaluates the bundled model on a SQuAD-format file:

    \b
    output: results/squad
    models: [{model: cmt-tiny, ratios: [4, 8]}]   # or your LM's hub id, or the model/ that `train` wrote
    data: {kind: squad, path: dev-v1.1.json}      # or jsonl, streamingqa, archivalqa, facts
    questions: 2000
    k: 4
    retention: {sizes: [200, 400, 800]}           # optional: the same questions as documents come in
    noise: {shares: [0.5, 1.0]}                   # optional: as irrelevant documents come in

    Every arm has the same LM, search, questions and greedy decoding: none (closed book), memory, shuffled (another
    question's memories), text (the same passages in the prompt), truncated and extract (less text in as many
    positions, or bytes), memory@1 (uncompressed), and the right documents as memory and as text. Where an arm cannot
    be had, the report says why.

    A run that was stopped goes on when the same command is given again. OUTPUT (in the file) gets:

    \b
    report.html      tables and plots; one file that needs no network
    report.md        the same tables; plots beside it
    results.json     every figure with its 95 % interval
    questions.jsonl  every answer of every arm, to look at failures

    Exit code 1: it failed, such as a model that cannot be loaded. Exit code 2: the file is wrong; the message names
    the key and what is allowed.
    """
    from cmt_memory.evaluation.config import read_config

    config = checked_config(read_config, path)
    quiet()
    from cmt_memory.evaluation.experiments import run_evaluation
    from cmt_memory.evaluation.report import write_report

    with resumable(lambda: f"what was answered is in {config.folder}; the same command goes on."):
        results = run_evaluation(config, command=f"cmt-memory eval --config {path.name}", show_progress=True)
    report = write_report(results, config.folder)
    if as_json:
        print_json(results)
        return
    for result in results["results"]:
        click.echo(_line(result))
    click.echo(f"report: {report}")


def _line(result: dict[str, Any]) -> str:
    """One model at one ratio in a line."""
    arms = result["arms"]
    told = ", ".join(f"{arm} {arms[arm]['f1']['value']:.1%}" for arm in ("memory", "text", "none") if arm in arms)
    share = result["share_kept"].get("memory", {}).get("f1", {}).get("raw")
    kept = "" if share is None else f"; memories keep {share['value']:.1%} of the text's"
    pairs = ", ".join(f"{arm} {values['pair']['value']:.1%}" for arm, values in arms.items() if "pair" in values)
    both = f"; pairs with both answers right: {pairs}" if pairs else ""
    return f"{result['model']} at ratio {result['ratio']}: F1 {told}{kept}{both}"
