"""Tests run without a network, on one thread, on the bundled model and on tiny ones made on the spot."""

from __future__ import annotations

import os

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

from cmt_memory import CMTMemoryStore, CMTModel

from tests.tiny import tiny_model


@pytest.fixture(scope="session", autouse=True)
def _one_thread_and_own_cache(tmp_path_factory):
    import torch

    torch.set_num_threads(1)
    os.environ["CMT_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def cmt_tiny():
    return CMTModel.from_pretrained("cmt-tiny")


@pytest.fixture(scope="session")
def qwen():
    return tiny_model(chat=True)


@pytest.fixture
def store(cmt_tiny, tmp_path):
    with CMTMemoryStore(tmp_path / "store", cmt_tiny) as opened:
        yield opened
