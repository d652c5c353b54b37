"""The reference of the command line, from what `--help` says."""

from __future__ import annotations

import html
import inspect
import re
from collections.abc import Iterator

import click
import results

from cmt_memory.cli import main


def reference() -> str:
    """A section for each command: usage, description, arguments and options."""
    return "\n\n".join(_sections(main, "cmt-memory", 2))


def _sections(command: click.Command, name: str, level: int) -> Iterator[str]:
    context = click.Context(command, info_name=name)
    heading = f"{'#' * level} {name}" + (f" {{ #{name.replace(' ', '-')} }}" if " " in name else "")
    usage = " ".join([name, *command.collect_usage_pieces(context)])
    yield f"{heading}\n\n```text\n{usage}\n```"
    yield _described(command.help or "")
    if options := _options(command, context):
        yield options
    if isinstance(command, click.Group):
        for sub in command.list_commands(context):
            made = command.get_command(context, sub)
            assert made is not None
            yield from _sections(made, f"{name} {sub}", min(level + 1, 3))


def _described(text: str) -> str:
    """Paragraphs as Markdown; what must not be rewrapped becomes a code block."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            block = paragraph.removeprefix("\b").strip("\n")
            parts.append(f"```text\n{inspect.cleandoc(block)}\n```")
        else:
            parts.append(_escaped(" ".join(paragraph.split())))
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> str:
    lines = []
    for parameter in command.get_params(context):
        record = parameter.get_help_record(context)
        if record is not None and "--help" not in parameter.opts:
            declared, meaning = record
            lines.append((f"`{declared}`", _escaped(" ".join(meaning.split())) or "–"))
    return results.rows(("option", "meaning"), lines) if lines else ""


def _escaped(text: str) -> str:
    """Plain words for Markdown; options and names in capitals as code."""
    text = re.sub(r"([\\`*_\[\]])", r"\\\1", html.escape(text, quote=False))
    return re.sub(r"(?<![\w`-])(--[a-z][a-z-]*)", r"`\1`", text)
