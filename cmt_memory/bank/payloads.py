"""Payloads too large for the ledger: files named by their own sha256."""

from __future__ import annotations

import errno
import os
from collections.abc import Container
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from cmt_memory.errors import CMTError, StoreFullError

_SUFFIX = ".safetensors"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class PayloadFiles:
    """The folder ``payloads/`` of a bank.

    A file is complete or absent: it is written beside its place, synced and renamed.

    Args:
        folder: Made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, payload: bytes) -> bytes:
        """Keep a payload and return its sha256 (32 bytes); one that is there whole is not written again.

        Raises:
            StoreFullError: The disk has no room.
            CMTError: The file cannot be written for another reason.
        """
        digest = sha256(payload).digest()
        path = self._path(digest)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        try:
            if path.exists() and sha256(self.read(digest)).digest() == digest:
                return digest
            self.folder.mkdir(exist_ok=True)
            with partial.open("wb") as file:
                file.write(payload)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
            _sync_folder(self.folder)
        except OSError as error:
            with suppress(OSError):
                partial.unlink()
            kind = StoreFullError if error.errno in _NO_ROOM else CMTError
            raise kind(f"{path} cannot be written: {error.strerror}; nothing was changed.") from error
        return digest

    def read(self, digest: bytes) -> bytearray:
        """Read a payload into a buffer of its own, without checking what it holds.

        Raises:
            OSError: The file is missing or cannot be read.
        """
        with self._path(digest).open("rb", buffering=0) as file:
            buffer = bytearray(os.fstat(file.fileno()).st_size)
            view, done = memoryview(buffer), 0
            while done < len(buffer) and (count := file.readinto(view[done:])):
                done += count
        return buffer

    def remove(self, digest: bytes) -> None:
        """Delete a payload's file where there is one."""
        self._path(digest).unlink(missing_ok=True)

    def orphans(self, used: Container[bytes]) -> list[Path]:
        """Files of payloads that are not in use, and what interrupted writes left."""
        found = sorted(self.folder.iterdir()) if self.folder.is_dir() else []
        names = [path for path in found if path.suffix == _SUFFIX and len(path.stem) == 64]
        unused = [path for path in names if bytes.fromhex(path.stem) not in used]
        return unused + [path for path in found if path.suffix == ".partial"]

    def _path(self, digest: bytes) -> Path:
        return self.folder / f"{digest.hex()}{_SUFFIX}"


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":  # a folder cannot be opened elsewhere
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
