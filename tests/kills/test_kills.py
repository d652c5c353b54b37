"""SIGKILL in the middle of everything; `benchmarks/soak_kills.py` does the same for longer."""

from __future__ import annotations

import multiprocessing
import sqlite3
from pathlib import Path

import pytest

if "forkserver" not in multiprocessing.get_all_start_methods():
    pytest.skip("the killed processes are forked", allow_module_level=True)

from cmt_memory.errors import CMTError
from tests.kills.series import Series
from tests.kills.worker import document, open_store

KILLS = 15


@pytest.mark.slow
def test_a_killed_store_loses_nothing_it_acknowledged(tmp_path: Path):
    series = Series(tmp_path / "store", seed=11)
    for number in range(KILLS):
        series.kill(number)
    assert sum(series.phases.values()) == KILLS
    assert {"open", "sync", "rebuild"} & set(series.phases)
    assert "recompress" in series.phases
    assert series.acknowledged > KILLS
    assert series.repairs


LOSSES = {
    "a document": "DELETE FROM documents WHERE id = 'a'",
    "half a document": "DELETE FROM passages WHERE key = (SELECT max(key) FROM passages)",
    "a memory": "DELETE FROM payloads WHERE passage = 1",
    "an older memory": "UPDATE payloads SET sha256 = x'00' WHERE passage = 1",
    "all memories": "UPDATE counters SET generation = generation + 1",
    "older metadata": "UPDATE documents SET metadata = replace(metadata, '\"version\":3', '\"version\":2')",
}


@pytest.mark.parametrize("loss", LOSSES)
def test_the_check_finds_a_loss(tmp_path: Path, loss: str):
    series = Series(tmp_path / "store", seed=1)
    series.versions = {"a": 3, "long": long_version()}
    with open_store(series.path) as store:
        store.add_documents([document(*item) for item in series.versions.items()])
        names = {id: store.bank.passage_ids([id]) for id in series.versions}
        series.digests = {id: store.bank.payload_digests(passages) for id, passages in names.items()}
    series.check()
    with sqlite3.connect(series.path / "ledger.sqlite3") as connection:
        connection.execute(LOSSES[loss])
    connection.close()
    with pytest.raises((AssertionError, CMTError, sqlite3.DatabaseError)):
        series.check()


def long_version() -> int:
    """The first version of a document of several passages."""
    return next(version for version in range(100) if len(document("long", version).text) > 1000)
