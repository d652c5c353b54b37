"""The distribution: found by the store, cheap to import, independent, and its README and examples are true."""

from __future__ import annotations

import importlib
import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from cmt_memory import CMTMemoryStore
from models import DOCUMENTS, QUESTION, model

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """What installing this distribution leaves for `importlib.metadata`."""
    folder = tmp_path / "site" / "langchain_cmt-0.1.0.dist-info"
    folder.mkdir(parents=True)
    (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: langchain-cmt\nVersion: 0.1.0\n")
    points = PROJECT["entry-points"]["cmt_memory.adapters"]
    lines = "".join(f"{name} = {value}\n" for name, value in points.items())
    (folder / "entry_points.txt").write_text(f"[cmt_memory.adapters]\n{lines}")
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()


@pytest.mark.usefixtures("installed")
def test_a_store_hands_its_parts_out(store):
    from langchain_cmt import ChatCMT, CMTRetriever, CMTVectorStore

    retriever, vectors, chat = store.as_retriever(k=1), store.as_vector_store(), store.as_chat_model(k=1, max_tokens=4)
    assert isinstance(retriever, CMTRetriever)
    assert isinstance(vectors, CMTVectorStore)
    assert isinstance(chat, ChatCMT)
    [document] = retriever.invoke(QUESTION)
    assert document.id == vectors.similarity_search(QUESTION, k=1)[0].id == "locker"
    assert chat.invoke(QUESTION).text == store.ask(QUESTION, k=1, max_new_tokens=4).text


def test_a_store_takes_documents_as_they_are(tmp_path):
    from langchain_core.documents import Document

    with CMTMemoryStore(tmp_path / "s", model(), encoder=None) as store:
        given = [Document(page_content=text, metadata={"n": n}, id=f"d{n}") for n, text in enumerate(DOCUMENTS)]
        assert store.add_documents(given) == ["d0", "d1", "d2"]
        assert store.get("d2")[0].metadata == {"n": 2}


def test_importing_is_cheap_and_needs_no_other_framework():
    code = (
        "import sys, langchain_cmt; heavy = {'torch', 'chromadb', 'langchain', 'langgraph', 'langchain_core'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules); "
        "assert 'ChatCMT' in dir(langchain_cmt); from langchain_cmt import ChatCMT, CMTRetriever, CMTVectorStore; "
        "assert not {'langchain', 'langgraph', 'llama_index'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    import langchain_cmt

    assert all(hasattr(langchain_cmt, name) for name in langchain_cmt.__all__)
    with pytest.raises(AttributeError, match="CMTNothing"):
        _ = langchain_cmt.CMTNothing
    assert langchain_cmt.__version__ == PROJECT["version"]


@pytest.mark.usefixtures("installed")
def test_the_readme_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.DOTALL)
    names: dict = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)
    names["store"].close()
    assert len(blocks) == 2
    assert "4471" in capsys.readouterr().out


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("example", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_the_examples_run(example, capsys):
    runpy.run_path(str(example), run_name="__main__")
    assert "?" in capsys.readouterr().out
