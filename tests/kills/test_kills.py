"""SIGKILL in the middle of everything; `benchmarks/soak_kills.py` does the same for longer."""

from __future__ import annotations

import multiprocessing
from pathlib import Path

import pytest

if "forkserver" not in multiprocessing.get_all_start_methods():
    pytest.skip("the killed processes are forked", allow_module_level=True)

from tests.kills.series import Series

KILLS = 15


@pytest.mark.slow
def test_a_killed_store_loses_nothing_it_acknowledged(tmp_path: Path):
    series = Series(tmp_path / "store", seed=11)
    for number in range(KILLS):
        series.kill(number)
    assert sum(series.phases.values()) == KILLS
    assert {"open", "sync", "rebuild"} & set(series.phases)
    assert series.acknowledged > KILLS
    assert series.repairs
