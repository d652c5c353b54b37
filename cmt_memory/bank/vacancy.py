"""Blanks the places of an index that no vector has taken yet.

Chroma's HNSW takes unwritten memory for a hundred vectors and writes it to its files as it finds it: with whatever the
process had in it before, which may be a deleted document's vector or text. It does so when an index is made, and when
one of less than a thousand vectors is opened.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

# Of `header.bin`: version, offset of a vector's record, places, places taken, bytes a record.
_HEADER = struct.Struct("<iQQQQ")
_VERSION = 1
_BYTES_PER_LENGTH = 4
_BLOCK = 1024 * 1024


def blank_vacant_places(folder: Path) -> None:
    """Fill with zeros what no vector of an index uses; files of another form are left as they are.

    Args:
        folder: Folder of Chroma's. It may have it open, but be doing nothing: it writes only while it is called, and
            only the places that it takes.

    Raises:
        OSError: A file cannot be written.
    """
    for header in sorted(folder.glob("*/header.bin")):
        content = header.read_bytes()[: _HEADER.size]
        if len(content) < _HEADER.size:
            continue
        version, _, places, taken, record = _HEADER.unpack(content)
        if version == _VERSION and taken <= places:
            _blank_from(header.with_name("data_level0.bin"), taken * record)
            _blank_from(header.with_name("length.bin"), taken * _BYTES_PER_LENGTH)


def _blank_from(path: Path, start: int) -> None:
    if not path.is_file() or start >= path.stat().st_size:
        return
    with path.open("r+b") as file:
        changed = False
        while True:
            file.seek(start)
            block = file.read(_BLOCK)
            if not block:
                break
            if any(block):
                file.seek(start)
                file.write(bytes(len(block)))
                changed = True
            start += len(block)
        if changed:
            file.flush()
            os.fsync(file.fileno())
