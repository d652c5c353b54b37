"""Importing the package costs nothing heavy."""

from __future__ import annotations

import subprocess
import sys

import pytest

import cmt_memory


def test_importing_loads_neither_torch_nor_chromadb():
    code = (
        "import sys, cmt_memory\n"
        "dir(cmt_memory)\n"
        "cmt_memory.Document('text'), cmt_memory.InvalidInputError\n"
        "heavy = {'torch', 'transformers', 'chromadb', 'numpy', 'sentence_transformers'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("name", cmt_memory.__all__)
def test_every_public_name_is_there(name):
    assert getattr(cmt_memory, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        cmt_memory.nothing  # noqa: B018
