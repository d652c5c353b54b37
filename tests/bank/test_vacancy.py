"""What Chroma's memory held before is not left in its files."""

from __future__ import annotations

import logging
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.index import VectorIndex
from cmt_memory.bank.vacancy import blank_vacant_places
from tests.bank.helpers import stored, vector

REMAINS = b"a deleted vector"


def leave_remains(folder: Path) -> None:
    """Write into the last places of Chroma's files, as its unwritten memory would be."""
    for name in ("data_level0.bin", "length.bin"):
        [path] = folder.glob(f"*/{name}")
        status = path.stat()
        with path.open("r+b") as file:
            file.seek(-len(REMAINS), 2)
            file.write(REMAINS)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def has_remains(folder: Path) -> bool:
    return any(REMAINS in path.read_bytes() for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize("end", ["compact", "close", "rebuild"])
def test_nothing_is_left_after_compact_or_close(tmp_path: Path, end: str, warnings_seen: list[str]):
    bank = MemoryBank(tmp_path)
    bank.put([stored(f"d{n}", f"text {n}", seed=n) for n in range(5)])
    leave_remains(tmp_path / "chroma")
    assert has_remains(tmp_path)
    if end == "compact":
        bank.compact()
        assert not has_remains(tmp_path)
        bank.put([stored("d5", "text 5", seed=5)])
    elif end == "rebuild":
        bank._index.rebuild("the test asked for it", level=logging.INFO)  # type: ignore[union-attr]
        assert not has_remains(tmp_path)
    bank.close()
    assert not has_remains(tmp_path)
    bank = MemoryBank(tmp_path)
    assert bank.passages([bank.search_vectors(vector(3), 1)[0][0]]).popitem()[1].document == "d3"
    assert bank.verify().ok
    assert not warnings_seen
    bank.close()


def test_a_killed_index_is_not_rebuilt_for_what_an_opening_wrote(tmp_path: Path, warnings_seen: list[str]):
    """Chroma writes the files of a small index anew when it opens them."""
    bank = MemoryBank(tmp_path / "a")
    bank.put([stored(f"d{n}", f"text {n}", seed=n) for n in range(5)])
    bank.close()
    bank = MemoryBank(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "killed")
    bank.close()
    bank = MemoryBank(tmp_path / "killed")
    assert len(bank.search_vectors(vector(3), 9)) == 5
    bank.close()
    assert not warnings_seen


@pytest.mark.parametrize("size", [3, 1500])
def test_every_entry_stays(tmp_path: Path, size: int):
    vectors = np.stack([vector(n) for n in range(size)])
    index = VectorIndex(tmp_path, "cmt-test")
    index.upsert(range(1, size + 1), vectors, [{"n": n} for n in range(size)])
    before = {path: path.read_bytes() for path in tmp_path.glob("*/*.bin")}
    index.tidy()
    after = {path: path.read_bytes() for path in before}
    assert {path: len(content) for path, content in after.items()} == {p: len(c) for p, c in before.items()}
    assert index.count() == size
    keys, found = index.vectors(range(1, size + 1))
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found /= np.linalg.norm(found, axis=1, keepdims=True)
    assert np.allclose(found[np.argsort(keys)], expected, atol=1e-5)
    assert all(index.query(vectors[n], 1)[0][0] == n + 1 for n in range(0, size, 7))
    index.close()


HEADERS = {
    "empty": b"",
    "cut off": b"\1",
    "another version": b"\2" + bytes(99),
    "more taken than there are": struct.pack("<iQQQQ", 1, 0, 1, 2, 0),
    "records beyond all sizes": struct.pack("<iQQQQ", 1, 0, 2**60, 2**60, 2**60),
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_files_of_another_form_are_left_alone(tmp_path: Path, header: bytes):
    (tmp_path / "segment").mkdir()
    (tmp_path / "segment" / "header.bin").write_bytes(header)
    (tmp_path / "segment" / "data_level0.bin").write_bytes(REMAINS)
    blank_vacant_places(tmp_path)
    assert has_remains(tmp_path)
    blank_vacant_places(tmp_path / "nowhere")
