"""The command itself: its groups, and how errors reach the user."""

from __future__ import annotations

import errno
from typing import Any

import click

from cmt_memory import __version__
from cmt_memory.cli.add import add
from cmt_memory.cli.ask import ask
from cmt_memory.cli.bench import bench
from cmt_memory.cli.demo import demo
from cmt_memory.cli.eval import evaluate
from cmt_memory.cli.options import debugging
from cmt_memory.cli.store import store
from cmt_memory.cli.train import recipe, train
from cmt_memory.errors import CMTError


class Root(click.Group):
    """A group that turns expected errors into one line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; `--debug` lets the traceback through."""
        try:
            return super().invoke(ctx)
        except CMTError as error:
            if debugging(ctx):
                raise
            raise click.ClickException(" ".join(str(error).split())) from error
        except OSError as error:
            if debugging(ctx) or error.errno == errno.EPIPE:
                raise
            raise click.ClickException(" ".join(str(error).split()) or type(error).__name__) from error

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a newcomer needs them."""
        return list(self.commands)


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="cmt-memory")
def main() -> None:
    """Documents compressed once into memories that a frozen language model answers from.

    \b
    See it work:         cmt-memory demo
    Your own documents:  cmt-memory add notes/ --store mem
                         cmt-memory ask "Who has the spare key?" --store mem

    Exit codes: 0 done, 1 failed, 2 wrong use. Add --debug to a command to see where an error came from.
    """


for command in (demo, add, ask, store, train, recipe, evaluate, bench):
    main.add_command(command)
