"""A saved tiny LM, and the command run in this process or in its own."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from click.testing import CliRunner

from cmt_memory.cli import main
from tests.tiny import save_tiny


@pytest.fixture(scope="session")
def lm(tmp_path_factory):
    """Folder of a tiny LM with its tokenizer."""
    folder = tmp_path_factory.mktemp("lm")
    save_tiny(folder)
    return folder


@pytest.fixture
def cmt():
    """Run the command in this process; returns click's result."""

    def run(*args, code=0):
        result = CliRunner().invoke(main, [str(arg) for arg in args], prog_name="cmt-memory")
        shown = f"{result.output}\n{result.exc_info}"
        assert result.exit_code == code, shown
        return result

    return run


@pytest.fixture
def command():
    """The command line of a process of its own, and its environment."""
    return [sys.executable, "-m", "cmt_memory"], os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture
def process(command):
    """Run the command as a process; returns the finished process."""

    def run(*args, **settings):
        line, env = command
        return subprocess.run(
            [*line, *map(str, args)],
            capture_output=True,
            text=True,
            env=env | settings.pop("env", {}),
            timeout=120,
            **settings,
        )

    return run


@pytest.fixture
def notes(tmp_path):
    """A folder with one document of each kind."""
    folder = tmp_path / "notes"
    (folder / "sub").mkdir(parents=True)
    (folder / "keys.md").write_text("# Keys\n\nThe spare key hangs behind the red toolbox.\n")
    (folder / "sub" / "team.txt").write_text("Jonas comes from Bremen.")
    (folder / "facts.jsonl").write_text(
        '{"text": "The locker code is 4471.", "id": "locker", "metadata": {"year": 2024}}\n'
        "\n"
        '{"text": "The shop opens at 9:30."}\n'
    )
    return folder


@pytest.fixture
def store(cmt, lm, notes, tmp_path):
    """A store with the notes in it."""
    path = tmp_path / "mem"
    cmt("add", notes, "--store", path, "--model", lm, "--encoder", "none")
    return path
