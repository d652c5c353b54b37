"""`cmt-memory demo`."""

from __future__ import annotations

import json

import pytest
from rich.cells import cell_len

from cmt_memory.cli.demo import is_right


@pytest.mark.parametrize("columns", [80, 120])
def test_demo_prints_tables_that_fit(cmt, lm, tmp_path, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.chdir(tmp_path)
    shown = cmt("demo", "--model", lm).stdout
    for said in ("memory", "text", "none", "prompt", "slots", "first token", "kept per", "copper-otter-58"):
        assert said in shown
    assert max(map(cell_len, shown.splitlines())) <= columns
    assert list(tmp_path.iterdir()) == []


def test_demo_as_json_and_kept(cmt, lm, tmp_path):
    result = json.loads(cmt("demo", "--model", lm, "--store", tmp_path / "mem", "--encoder", "none", "--json").stdout)
    assert result["documents"] == 12
    assert len(result["questions"]) == 8
    assert set(result["modes"]) == {"memory", "text", "none"}
    assert result["modes"]["memory"]["memory_slots"] > result["modes"]["none"]["memory_slots"] == 0
    assert result["modes"]["text"]["prompt_tokens"] > result["modes"]["memory"]["prompt_tokens"]
    answers = [question["answers"] for question in result["questions"]]
    assert {len(answer) for answer in answers} == {3}
    assert len(json.loads(cmt("store", "list", "--store", tmp_path / "mem", "--json").stdout)) == 12


@pytest.mark.parametrize(
    ("answer", "expected", "right"),
    [
        ("copper-otter-58", "copper-otter-58", True),
        ("It is Copper-Otter-58.", "copper-otter-58", True),
        ("copper-otter-581", "copper-otter-58", False),
        ("on Thursday\nat 8:45", "Thursday at 8:45", True),
        ("142 euros", "42 euros", False),
        ("", "Bremen", False),
    ],
)
def test_an_answer_is_right_when_the_expected_words_are_in_it(answer, expected, right):
    assert is_right(answer, expected) is right
