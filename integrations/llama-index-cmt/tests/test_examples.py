"""What the README and the examples show runs, with the wheel's entry points."""

from __future__ import annotations

import importlib
import re
import runpy
import sys
import tomllib
from pathlib import Path

import pytest
from cmt_memory import CMTMemoryStore
from llama_index.core.query_engine import RetrieverQueryEngine

from llama_index.retrievers.cmt import CMTRetriever
from tests.tiny import QUESTION, nodes

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
README = (ROOT / "README.md").read_text("utf-8")


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """The distribution's metadata on the path, as an installer writes it."""
    folder = tmp_path / "llama_index_cmt-0.1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: llama-index-cmt\nVersion: 0.1.0\n")
    entries = PROJECT["project"]["entry-points"]["cmt_memory.adapters"]
    lines = [f"{name} = {value}" for name, value in entries.items()]
    (folder / "entry_points.txt").write_text("\n".join(["[cmt_memory.adapters]", *lines, ""]))
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()


def test_the_store_hands_them_out(installed, store):
    store.add_documents(nodes())
    retriever = store.as_llama_index_retriever(similarity_top_k=1)
    assert isinstance(retriever, CMTRetriever)
    assert [one.node.node_id for one in retriever.retrieve(QUESTION)] == ["n0"]
    engine = store.as_query_engine(similarity_top_k=2)
    assert isinstance(engine, RetrieverQueryEngine)
    assert str(engine.query(QUESTION)) == store.ask(QUESTION, k=2).text == "4471"


@pytest.mark.parametrize(("name", "expected"), [("query_engine", "4471"), ("index_and_pipeline", ["4471", "9032"])])
def test_the_examples_run(installed, tmp_path, name, expected):
    example = runpy.run_path(str(ROOT / "examples" / f"{name}.py"))
    assert example["main"](str(tmp_path / "mem")) == expected


def test_the_readmes_code_runs(installed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL):
        exec(compile(block, "README.md", "exec"), names)
    assert names["answer"] == "4471"
    names["store"].close()


def test_every_class_is_on_the_hub_and_in_the_readme():
    for name in PROJECT["tool"]["llamahub"]["class_authors"]:
        assert f"`{name}`" in README, name


@pytest.mark.parametrize("path", sorted(ROOT.glob("llama_index/*/cmt")), ids=lambda path: path.parent.name)
def test_every_part_is_typed_and_no_namespace_is_taken(path):
    assert (path / "py.typed").exists()
    assert not (path.parent / "__init__.py").exists()
    assert not (path.parent.parent / "__init__.py").exists()


def test_importing_them_needs_no_other_framework():
    import subprocess

    code = (
        "import sys, llama_index.retrievers.cmt, llama_index.llms.cmt, llama_index.response_synthesizers.cmt, "
        "llama_index.vector_stores.cmt, llama_index.memory.cmt\n"
        "sys.exit('langchain_cmt' in sys.modules or 'langgraph' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


def test_a_store_takes_documents_and_nodes_as_they_are(store):
    from llama_index.core import Document

    assert isinstance(store, CMTMemoryStore)
    ids = store.add_documents([Document(id_="d", text="A document.", metadata={"a": [1]}), nodes()[0]])
    assert ids == ["d", "n0"]
    assert [(one.text, one.metadata) for one in store.get("d")] == [("A document.", {"a": [1]})]
