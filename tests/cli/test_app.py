"""How the command starts, teaches and fails."""

from __future__ import annotations

import subprocess
import sys

import pytest

COMMANDS = [
    ("demo",),
    ("add",),
    ("ask",),
    ("store",),
    ("store", "list"),
    ("store", "show"),
    ("store", "delete"),
    ("store", "stats"),
    ("bench",),
    ("bench", "latency"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_teaches_by_an_example(cmt, command):
    text = cmt(*command, "--help").output
    assert "Example:  cmt-memory " + " ".join(command) in text


def test_the_command_lists_its_groups_in_the_order_of_use(cmt):
    text = cmt("--help").output
    places = [text.index(f"\n  {name} ") for name in ("demo", "add", "ask", "store", "bench")]
    assert places == sorted(places)
    assert "..." not in text.split("Commands:")[1]


def test_help_imports_nothing_heavy():
    code = (
        "import sys\n"
        "from cmt_memory.cli import main\n"
        "main(['--help'], standalone_mode=False)\n"
        "heavy = {'torch', 'transformers', 'chromadb', 'numpy', 'rich', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, timeout=60)


def test_runs_as_a_module(process):
    done = process("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("cmt-memory, version ")


@pytest.mark.parametrize(
    "line",
    [
        "add nowhere.txt --store mem",
        "add",
        "add {notes}",
        "add {notes} --store mem --ratio 0",
        "add {notes} --store mem --latent 0",
        "add {notes} --store mem --latent half",
        "ask question --store nowhere",
        "ask question --store {store} --k 0",
        "ask question --store {store} --mode kv",
        "ask question --store {store} --json --stream",
        "ask '' --store {store}",
        "ask --store {store}",
        "store list --store nowhere",
        "store delete --store {store}",
        "store wipe --store {store}",
        "bench latency --shape 70b",
        "bench latency --output nowhere/result.json",
        "fly",
    ],
)
def test_wrong_use_exits_with_2_and_says_what(cmt, notes, store, line, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    args = [arg.strip("'") for arg in line.format(notes=notes, store=store).split(" ")]
    result = cmt(*args, code=2)
    assert "Error: " in result.stderr
    assert result.stdout == ""


def test_errors_are_one_line_and_a_traceback_only_if_asked_for(process, tmp_path, notes):
    line = ("add", notes, "--store", tmp_path / "mem", "--model", tmp_path / "no-lm")
    done = process(*line)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert "no-lm" in done.stderr
    shown = process(*line, "--debug")
    assert shown.returncode == 1
    assert "Traceback" in shown.stderr


def test_a_closed_pipe_is_quiet(command, store):
    line, env = command
    reader = subprocess.Popen(["true"], stdin=subprocess.PIPE)
    reader.wait()
    writer = subprocess.Popen(
        [*line, "store", "list", "--json", "--store", str(store)],
        stdout=reader.stdin,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
    )
    _, errors = writer.communicate(timeout=60)
    reader.stdin.close()
    assert errors == ""
