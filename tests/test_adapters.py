"""A store finds what adapts it to a framework by entry point, and says what to install where there is none."""

from __future__ import annotations

import importlib
import sys

import pytest

from cmt_memory import CMTError, CMTMemoryStore, MissingIntegrationError
from tests.tiny import tiny_model

EXTRAS = {
    "as_retriever": "langchain",
    "as_vector_store": "langchain",
    "as_chat_model": "langchain",
    "as_llama_index_retriever": "llama-index",
    "as_query_engine": "llama-index",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    with CMTMemoryStore(tmp_path_factory.mktemp("store"), model=tiny_model(), encoder=None) as opened:
        yield opened


@pytest.fixture
def no_integrations(monkeypatch, tmp_path):
    """Nothing installed but what this test puts into the folder."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *(path for path in sys.path if "site-packages" not in path)])
    importlib.invalidate_caches()
    return tmp_path


@pytest.mark.parametrize("method", EXTRAS)
def test_a_missing_integration_names_the_extra_to_install(store, no_integrations, method):
    with pytest.raises(MissingIntegrationError, match=rf"{method}\(\).*pip install 'cmt-memory\[{EXTRAS[method]}\]'"):
        getattr(store, method)(k=2)
    assert issubclass(MissingIntegrationError, CMTError)
    assert issubclass(MissingIntegrationError, ImportError)


@pytest.mark.parametrize("method", EXTRAS)
def test_an_installed_integration_is_given_the_store_and_the_options(store, no_integrations, method):
    (no_integrations / f"adapter_{method}.py").write_text("def build(store, **options):\n    return store, options\n")
    installed = no_integrations / "adapter-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: adapter\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(f"[cmt_memory.adapters]\n{method} = adapter_{method}:build\n")
    assert getattr(store, method)(k=2) == (store, {"k": 2})
