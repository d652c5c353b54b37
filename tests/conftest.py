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
def passes(model):
    """How many times the decoder of the test file's `model` has run."""
    seen = []
    hook = model.lm.decoder.register_forward_pre_hook(lambda *_: seen.append(1))
    yield seen
    hook.remove()


@pytest.fixture(scope="module")
def encoders(tmp_path_factory):
    """Folders of tiny text encoders by kind."""
    from tests.encoders import save_encoder

    return {kind: save_encoder(tmp_path_factory.mktemp(kind), kind) for kind in ("t5", "bert")}
