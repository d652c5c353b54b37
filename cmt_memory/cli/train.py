"""`cmt-memory train`: teach an LM to read documents into small memories."""

from __future__ import annotations

import os
from pathlib import Path

import click

from cmt_memory.cli.options import checked_config, config_option, debug_option, json_option, quiet, resumable
from cmt_memory.cli.output import print_json

RECIPES = ("facts-cpu", "squad", "paper", "mac")


@click.command(short_help="Train a compressor, so that high ratios keep what documents say.")
@config_option("run")
@json_option
@debug_option
def train(path: Path, as_json: bool) -> None:
    """Train a compressor for any LM: the LM is not changed, its memories get better.

    \b
    Try it (two hours):  cmt-memory recipe facts-cpu > run.yaml
                         cmt-memory train --config run.yaml
    Your LM and data:    cmt-memory recipe squad > run.yaml, then edit llm and path
    Several GPUs:        torchrun --nproc-per-node 4 -m cmt_memory train --config run.yaml
    Watch it:            tensorboard --logdir OUTPUT

    A run that was stopped goes on when the same command is given again. OUTPUT (in the file) gets:

    \b
    model/         what CMTModel.from_pretrained and --model take, with a model card
    training.png   losses, and answers to held-out questions, while training
    results.json   exact match at each ratio with memory, a wrong memory, none, and the text
    stage-N/       checkpoints and TensorBoard logs

    A run that is hopeless is ended early with exit code 1 and a sentence that says why, such as answers that do not
    depend on which memory is given. Exit code 2: the file is wrong; the message names the key and what is allowed.
    """
    from cmt_memory.training.config import read_config

    config = checked_config(read_config, path)
    quiet()
    from cmt_memory.training.run import run_training

    with resumable(lambda: f"the same command goes on from the last checkpoint in {config.folder}."):
        result = run_training(config, show_progress=True)
    if int(os.environ.get("RANK", "0")):
        return  # torchrun's other processes have nothing to add
    if as_json:
        print_json({"model": str(result.model), "results": result.results})
        return
    for ratio, found in result.results.items():
        click.echo(
            f"ratio {ratio:3}: {found['exact_match']:.1%} of held-out questions right from memories, "
            f"{found['exact_match_text']:.1%} from the text, {found['exact_match_shuffled']:.1%} from wrong memories"
        )
    click.echo(f"model: {result.model}")


@click.command(short_help="Print a training recipe to start from.")
@click.argument("name", type=click.Choice(RECIPES))
def recipe(name: str) -> None:
    """Print a recipe that comes with the package, to be edited and given to `cmt-memory train --config`.

    \b
    Example:  cmt-memory recipe squad > run.yaml
    """
    from importlib import resources

    text = resources.files("cmt_memory").joinpath(f"training/recipes/{name}.yaml").read_text("utf-8")
    click.echo(text, nl=False)
