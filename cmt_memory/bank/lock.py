"""One writer per folder: a lock on a file, let go by the operating system when the process ends."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO

from cmt_memory.errors import StoreLockedError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]


class FolderLock:
    """Hold a folder for writing: alone, or beside others that share it.

    Args:
        path: The lock file.
        shared: Let other shared holders in (they keep order among themselves by the ledger's transactions).

    Raises:
        StoreLockedError: Somebody holds it in a way that excludes this one.
    """

    def __init__(self, path: Path, *, shared: bool) -> None:
        self._path = path
        self._pid = os.getpid()
        self.shared = shared
        self._file: IO[bytes] = path.open("a+b")
        if not self._take(exclusive=not shared):
            self._file.close()
            raise StoreLockedError(
                f"{path.parent} is open for writing elsewhere; close it there, open it with read_only=True, or let "
                "all its users share it with client=chromadb.HttpClient(...)."
            )

    def make_exclusive(self) -> bool:
        """Try to become the sole holder; False leaves things as they were."""
        if not self.shared or self._take(exclusive=True):
            return True
        self._take(exclusive=False)  # a conversion that fails may have lost the lock
        return False

    def make_shared(self) -> None:
        """Go back to sharing after `make_exclusive`."""
        if self.shared:
            self._take(exclusive=False)

    def release(self) -> None:
        """Let go, also where a forked child still has the file open."""
        if fcntl is not None and os.getpid() == self._pid:
            fcntl.flock(self._file, fcntl.LOCK_UN)
        self._file.close()

    def _take(self, *, exclusive: bool) -> bool:
        if fcntl is not None:
            try:
                fcntl.flock(self._file, (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
            except OSError:
                return False
            return True
        return _take_windows(self._file, exclusive)


def _take_windows(file: IO[bytes], exclusive: bool) -> bool:
    import msvcrt

    # There are no shared locks: a sharing holder takes one byte of 256, a sole one all of them.
    for start in (0,) if exclusive else range(256):
        file.seek(start)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 256 if exclusive else 1)  # type: ignore[attr-defined]
        except OSError:
            continue
        return True
    return False
