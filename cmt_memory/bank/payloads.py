"""Payloads too large for the ledger: files named by their own sha256."""

from __future__ import annotations

import os
from collections.abc import Container
from hashlib import sha256
from pathlib import Path

from cmt_memory.errors import StoreCorruptError

_SUFFIX = ".safetensors"


class PayloadFiles:
    """The folder ``payloads/`` of a bank.

    A file is complete or absent: it is written beside its place, synced and renamed.

    Args:
        folder: Made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, payload: bytes) -> bytes:
        """Keep a payload and return its sha256 (32 bytes); one that is there already is not written again."""
        digest = sha256(payload).digest()
        path = self._path(digest)
        if path.exists() and sha256(path.read_bytes()).digest() == digest:
            return digest
        self.folder.mkdir(exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.partial")
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
        _sync_folder(self.folder)
        return digest

    def read(self, digest: bytes) -> bytearray:
        """Read a payload into a buffer of its own, without checking what it holds.

        Raises:
            StoreCorruptError: The file is missing or cannot be read.
        """
        path = self._path(digest)
        try:
            with path.open("rb", buffering=0) as file:
                buffer = bytearray(os.fstat(file.fileno()).st_size)
                view, done = memoryview(buffer), 0
                while done < len(buffer) and (count := file.readinto(view[done:])):
                    done += count
        except OSError as error:
            raise StoreCorruptError(f"the payload file {path} cannot be read: {error.strerror}") from error
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
