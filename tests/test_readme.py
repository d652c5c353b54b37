"""What the front page shows is true: its five lines run, its tree exists, its commands are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks.front_page import TABLES, written
from cmt_memory.cli import main
from cmt_memory.cli.demo import OWN_LM
from tests.tiny import save_tiny

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")


def five_lines() -> list[str]:
    [block] = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    return [line for line in block.splitlines() if line]


def test_the_five_lines_run_with_a_model_at_hand(tmp_path, monkeypatch, capsys):
    save_tiny(tmp_path / "lm", "qwen3", "chat")
    monkeypatch.chdir(tmp_path)
    code = "\n".join(five_lines()).replace("Qwen/Qwen3-0.6B", "lm")
    assert len(five_lines()) == 5
    exec(compile(code, "README.md", "exec"), {})
    assert capsys.readouterr().out.strip()


def test_the_demo_shows_the_same_five_lines():
    assert [re.sub(r"\s+#.*", "", line) for line in five_lines()] == OWN_LM.splitlines()


def test_the_file_tree_is_true():
    [tree] = re.findall(r"```\ncmt_memory/\n(.*?)```", README, re.DOTALL)
    for line in tree.splitlines():
        folder = ROOT / "cmt_memory" if line.startswith("  ") else ROOT
        assert (folder / line.split()[0]).exists(), line
    shown = set(re.findall(r"^  (\w+)/", tree, re.MULTILINE))
    there = {p.name for p in (ROOT / "cmt_memory").iterdir() if p.is_dir() and p.name != "__pycache__"}
    assert shown == there


@pytest.mark.parametrize("name", sorted(set(re.findall(r"cmt-memory (add|ask|demo|store|bench|\w+)(?= )", README))))
def test_every_command_shown_is_there(name):
    assert name in main.commands


def test_every_make_target_shown_is_there():
    rules = (ROOT / "Makefile").read_text("utf-8")
    for page in ("README.md", "CONTRIBUTING.md"):
        for target in re.findall(r"^make (\w+)", (ROOT / page).read_text("utf-8"), re.MULTILINE):
            assert re.search(rf"^{target}:", rules, re.MULTILINE), target


def test_the_tables_are_what_was_measured():
    """`python -m benchmarks.front_page` writes them anew."""
    assert set(re.findall(r"<!-- table: (\w+) -->", README)) == set(TABLES)
    assert written(README) == README


def test_the_front_page_fits_a_screen():
    assert README[: README.index("## Where things are")].count("\n") <= 90


def test_every_link_leads_somewhere():
    pages = "".join((ROOT / name).read_text("utf-8") for name in ("README.md", "CONTRIBUTING.md"))
    site = (ROOT / "mkdocs.yml").read_text("utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", pages):
        assert (ROOT / target).exists() or f" {target.removeprefix('docs/')}\n" in site, target
