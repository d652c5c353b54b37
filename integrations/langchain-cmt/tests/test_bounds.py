"""The lower bounds of pyproject.toml are the versions that `make lowest` tests."""

from __future__ import annotations

import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def pins(name: str) -> dict[str, Version]:
    lines = (ROOT / name).read_text("utf-8").splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    assert all(spec.operator == "==" for pin in found for spec in pin.specifier)
    return {pin.name: Version(next(iter(pin.specifier)).version) for pin in found}


def bounds(*lists: list[str]) -> dict[str, Version]:
    needs = [Requirement(need) for given in lists for need in given]
    return {need.name: Version(spec.version) for need in needs for spec in need.specifier if spec.operator == ">="}


def test_each_lower_bound_is_pinned():
    declared = bounds(PROJECT["dependencies"])
    assert len(declared) == len(PROJECT["dependencies"])
    assert pins("constraints-lowest.txt") == declared
