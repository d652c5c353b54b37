"""The compressor that CONTRIBUTING.md shows works, and what the page names is there."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cmt_memory.model.lm import FrozenLM
from tests.tiny import DOCUMENTS, tiny_model

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture
def every_other(monkeypatch):
    [code] = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    module = ModuleType("every_other")
    monkeypatch.setitem(sys.modules, "every_other", module)
    exec(compile(code, "CONTRIBUTING.md", "exec"), module.__dict__)
    return module.EveryOther


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_compressor_it_shows_keeps_every_other_position(every_other, family):
    model = tiny_model(family, ratio=1)
    lm: FrozenLM = model.lm
    ids = [lm.encode_document(text) for text in DOCUMENTS]
    for whole, some in zip(model.compress(DOCUMENTS), every_other(3).compress(lm, ids), strict=True):
        torch.testing.assert_close(some.slots, whole.slots[::3])
        assert torch.equal(some.positions, whole.positions[::3])
        assert some.n_tokens == whole.n_tokens


def test_the_files_it_names_are_there():
    for name in re.findall(r"`((?:cmt_memory|tests|benchmarks|docs|integrations)/[\w./-]+)`", PAGE):
        assert (ROOT / name).exists(), name
