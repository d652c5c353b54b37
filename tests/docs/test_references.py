"""Pages made of the code: commands, configuration files, errors, drawings."""

from __future__ import annotations

import json
import re

import click
import commands
import draw
import errors_page
import links
import pytest
import schemas

import cmt_memory
from cmt_memory import training
from cmt_memory.cli import main

REFERENCE = links.ROOT / "docs" / "reference"


def _commands(command: click.Command, name: str) -> list[tuple[str, click.Command]]:
    subs = command.commands.items() if isinstance(command, click.Group) else ()
    return [(name, command), *(one for sub, made in subs for one in _commands(made, f"{name} {sub}"))]


@pytest.mark.parametrize(
    ("name", "command"), _commands(main, "cmt-memory"), ids=lambda one: one if type(one) is str else ""
)
def test_every_command_and_option_has_its_place(name, command):
    page = commands.reference()
    [section] = re.findall(rf"^##+ {name}(?: {{[^}}]*}})?\n(.*?)(?=^##+ |\Z)", page, re.M | re.S)
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            assert any(f"`{option}" in section or f", {option}" in section for option in parameter.opts)


@pytest.mark.parametrize("name", ["train", "eval"])
def test_every_key_is_explained(name):
    schema = json.loads((REFERENCE / f"{name}-config.schema.json").read_text("utf-8"))
    page = schemas.reference(name)
    assert page.count("\n### ") == len(schema["$defs"])
    for part in (schema, *schema["$defs"].values()):
        for key in part["properties"]:
            assert f"\n| `{key}` |" in page
    assert "| – |" not in page


def test_every_error_says_when_and_what_to_do():
    page = errors_page.reference()
    for error in errors_page.classes():
        assert f"::: cmt_memory.errors.{error.__name__}" in page
        assert "\n\n" in error.__doc__, error  # a sentence, then what to do


def test_every_public_name_has_a_place_in_the_reference():
    pages = "\n".join(path.read_text("utf-8") for path in REFERENCE.glob("*.md"))
    errors = {error.__name__ for error in errors_page.classes()}
    for name in set(cmt_memory.__all__) - errors - {"__version__"}:
        assert f"::: cmt_memory.{name}\n" in pages + "\n", name
    for name in set(training.__all__) - {"TrainConfig"}:
        assert f"::: cmt_memory.training.{name}\n" in pages + "\n", name


@pytest.mark.parametrize("name", draw.FIGURES)
def test_the_committed_drawing_is_what_the_code_draws(name):
    """`python docs/figures/draw.py` writes them anew."""
    assert (links.ROOT / "docs" / "figures" / f"{name}.svg").read_text("utf-8") == draw.FIGURES[name]()


def test_the_store_is_shown_whole():
    page = (REFERENCE / "python.md").read_text("utf-8")
    shown = re.findall(r"^        - (\w+)$", page, re.M)
    assert sorted(shown) == sorted(name for name in dir(cmt_memory.CMTMemoryStore) if not name.startswith("_"))
