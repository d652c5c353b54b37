"""One run a folder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cmt_memory.bank.lock import FolderLock
from cmt_memory.errors import InvalidInputError, StoreLockedError


@contextmanager
def alone(folder: Path, what: str) -> Iterator[None]:
    """Keep another run out of a folder, which is made where it is not there yet.

    Args:
        folder: Where the run keeps what it makes.
        what: What the error calls a run.

    Raises:
        InvalidInputError: Another run is under way there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        lock = FolderLock(folder / "lock", shared=False)
    except StoreLockedError:
        raise InvalidInputError(f"Another {what} is under way in {folder}: wait, or choose another output.") from None
    try:
        yield
    finally:
        lock.release()
