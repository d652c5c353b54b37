"""Tests run without a network and on one thread: tiny models are fastest so."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_own_cache(tmp_path_factory):
    import torch

    torch.set_num_threads(1)
    os.environ["CMT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture
def store(tmp_path):
    """A store with the tiny model and three documents."""
    from cmt_memory import CMTMemoryStore
    from models import DOCUMENTS, model

    with CMTMemoryStore(tmp_path / "store", model()) as opened:
        opened.add_documents(DOCUMENTS, ids=["locker", "shop", "sunday"], metadatas=[{"n": n} for n in range(3)])
        yield opened
