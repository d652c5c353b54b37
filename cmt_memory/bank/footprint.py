"""What the files of an index look like, to tell at opening whether they are as they were left.

Chroma trusts its files: one flipped byte in them ends the process or hides entries without an error.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Footprint = dict[str, list[int]]

_DATABASE = "chroma.sqlite3"
_BLOCK = 1024 * 1024


def outline(folder: Path) -> Footprint:
    """Size and time of change of each file that Chroma writes as a whole; its SQLite file looks after itself."""
    return {
        name: [status.st_size, status.st_mtime_ns]
        for name, path in _files(folder)
        if not name.startswith(_DATABASE)
        for status in [path.stat()]
    }


def seal(folder: Path, earlier: Footprint) -> Footprint:
    """Size, time of change and CRC-32 of every file; the CRC of a file that did not change since is taken over."""
    found: Footprint = {}
    for name, path in _files(folder):
        status = path.stat()
        known = earlier.get(name)
        same = known is not None and known[:2] == [status.st_size, status.st_mtime_ns]
        found[name] = [status.st_size, status.st_mtime_ns, known[2] if known and same else _crc(path)]
    return found


def is_as_left(folder: Path, record: Mapping[str, Any]) -> bool:
    """Whether the files look like those of a record; after a close, those written or copied since are read.

    Args:
        folder: The index's folder.
        record: ``closed``, and ``files``: what `seal` found at the close, or `outline` before.
    """
    files: Footprint = record["files"]
    if not record["closed"]:
        return outline(folder) == files
    found = {name: path.stat() for name, path in _files(folder)}
    return {name: status.st_size for name, status in found.items()} == {
        name: known[0] for name, known in files.items()
    } and all(found[name].st_mtime_ns == known[1] or _has_crc(folder / name, known[2]) for name, known in files.items())


def dated(folder: Path, files: Footprint) -> Footprint:
    """What `seal` found, with the times that the files, which are still those bytes, have now."""
    return {name: [size, (folder / name).stat().st_mtime_ns, crc] for name, (size, _, crc) in files.items()}


def is_sound(folder: Path, files: Footprint) -> bool:
    """Whether every byte of the files is as `seal` found it."""
    return all(_has_crc(folder / name, known[2]) for name, known in files.items())


def _files(folder: Path) -> list[tuple[str, Path]]:
    if not folder.is_dir():
        return [("", folder)] if folder.exists() else []
    return [(path.relative_to(folder).as_posix(), path) for path in sorted(folder.rglob("*")) if path.is_file()]


def _has_crc(path: Path, expected: int) -> bool:
    try:
        return _crc(path) == expected
    except OSError:  # gone, or the disk cannot read it any more
        return False


def _crc(path: Path) -> int:
    value = 0
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            value = zlib.crc32(block, value)
    return value
