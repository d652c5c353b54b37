"""`benchmarks/untrained.py`, which CONTRIBUTING.md asks for with a new compressor, writes what it has measured."""

from __future__ import annotations

import json
import sys

from benchmarks.untrained import main
from cmt_memory.model.parts import COMPRESSORS
from tests.tiny import DOCUMENTS, save_tiny


def test_it_measures_every_compressor(tmp_path, monkeypatch):
    lm = save_tiny(tmp_path / "lm")
    (tmp_path / "texts").write_text("\n\n".join([" ".join(DOCUMENTS * 3)] * 2))
    options = ["--context", "32", "--continuation", "8", "--ratios", "2", "--latents", "8"]
    files = ["--llm", str(lm), "--texts", str(tmp_path / "texts"), "--output", str(tmp_path / "found.json")]
    monkeypatch.setattr(sys, "argv", ["untrained", *files, *options])
    main()
    rows = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert {row["compressor"] for row in rows if row["ratio"] == 2} == set(COMPRESSORS)
    assert [row["scaled"] for row in rows if row["latent"] == 8] == [False, True]
    assert all(row["tokens"] > 0 for row in rows)
