"""The examples of docstrings run, each by itself in an empty folder, as a reader would try it."""

from __future__ import annotations

import ast
import doctest
import importlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import cmt_memory

ROOT = Path(cmt_memory.__file__).parent
SHOWN = (
    "cmt_memory.store.CMTMemoryStore",
    "cmt_memory.store.CMTMemoryStore.add_documents",
    "cmt_memory.answering.Answering.ask",
    "cmt_memory.answering.Answering.calibrate",
    "cmt_memory.answering.Answering.search",
    "cmt_memory.answering.Answering.stream",
    "cmt_memory.store.CMTMemoryStore.update",
    "cmt_memory.asynchronous.AsyncTwins.aask",
    "cmt_memory.documents.Document",
    "cmt_memory.generation.generator.CMTGenerator",
    "cmt_memory.model.modeling.CMTModel",
    "cmt_memory.model.modeling.CMTModel.from_llm",
    "cmt_memory.model.modeling.CMTModel.from_pretrained",
    "cmt_memory.model.modeling.CMTModel.save_pretrained",
    "cmt_memory.training.run.run_training",
    "cmt_memory.training.trainer.CMTTrainingArguments.of",
)
"""What a user meets first has an example."""


def _documented(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        yield name, ast.get_docstring(node) or ""
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _documented(child, f"{name}.{child.name}")


def _examples() -> dict[str, str]:
    found = {}
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text("utf-8")
        if ">>>" in text:
            module = ".".join(["cmt_memory", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
            found |= {name: shown for name, shown in _documented(ast.parse(text), module) if ">>>" in shown}
    return found


def _parents(name: str) -> Iterator[str]:
    while name:
        yield name
        name = name.rpartition(".")[0]


MODULES = {
    ".".join(["cmt_memory", *path.relative_to(ROOT).with_suffix("").parts]).removesuffix(".__init__")
    for path in ROOT.rglob("*.py")
}
EXAMPLES = _examples()


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_example_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = importlib.import_module(next(parent for parent in _parents(name) if parent in MODULES))
    shown = doctest.DocTestParser().get_doctest(EXAMPLES[name], dict(vars(module)), name, name, 0)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(shown, out=said.append).failed == 0, "".join(said)


@pytest.mark.parametrize("name", SHOWN)
def test_it_has_an_example(name):
    assert "doctest: +SKIP" not in EXAMPLES[name]
