"""Keeping the index equal to the ledger."""

from __future__ import annotations

import concurrent.futures.thread  # noqa: F401  # registers its own, see below
import logging
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from cmt_memory.bank.footprint import Footprint
from cmt_memory.bank.index import IndexBrokenError, VectorIndex
from cmt_memory.bank.ledger import Ledger
from cmt_memory.bank.lock import FolderLock
from cmt_memory.bank.queries import Queries, chunks
from cmt_memory.bank.records import Vector, VectorTable
from cmt_memory.errors import CMTError, StoreClosedError, StoreFullError, StoreLockedError
from cmt_memory.progress import Progress

logger = logging.getLogger(__name__)

_LONG = 5_000
_LONGEST_WAIT = 60.0
_loading = set[threading.Thread]()


class SyncedIndex:
    """The index, brought up to what the ledger says.

    Args:
        ledger: Keeps the marks of what the index holds.
        queries: Reads the same ledger.
        index: The index.
        lock: The folder's lock; a shared one is made exclusive for a rebuild.
        table: Which vectors of the ledger it holds.
    """

    def __init__(
        self, ledger: Ledger, queries: Queries, index: VectorIndex, lock: FolderLock, table: VectorTable
    ) -> None:
        self._ledger, self._queries, self._index, self._folder_lock = ledger, queries, index, lock
        self._table = table
        self._lock = threading.RLock()
        self._rebuilds = 0
        self._behind = False
        self._record: dict[str, Any] = {"closed": False, "files": {}}
        self._sealed: Footprint = {}
        self._unused: dict[int, int] | None = None

    def repair(self) -> None:
        """Put right what an interrupted process left: at opening, before anything else.

        An index that was closed in order, whose files are still those bytes, holds what the ledger says, and Chroma
        is not even loaded. While others share the folder, differences may be their unfinished work and are left to
        them. What cannot be put right is logged, and searches are exact until it is.
        """
        self._record = self._queries.meta(self._table.files) or self._record
        self._sealed = self._record["files"] if self._index.embedded and self._record["closed"] else {}
        stale, waiting = self._queries.stale(self._table), self._queries.to_index(self._table)
        try:
            if not self._index.is_as_left(self._record):
                self._try_rebuild("its files are not as they were left", self._rebuilds)
                return
            if self._sealed and not (stale or waiting):
                self._sealed = self._index.dated(self._sealed)
                self._note_files(self._sealed, closed=True)
                self._unused = self._expected()
                return
            if not self._index.is_sound(self._sealed):
                self._try_rebuild("its files are not as they were left", self._rebuilds)
                return
            self._note_files(self._index.outline(), closed=False)
            if not self._queries.count_vectors(self._table):
                if stale and not self._folder_lock.shared:  # what comes next may have another dimension
                    self._try_rebuild("all it held was dropped", self._rebuilds)
                    return
                if not stale:
                    return
            rebuilds = self._rebuilds
            self.sync()
            if self._index.counts() == self._expected():
                self._tidy()
                if (stale or waiting) and not self._folder_lock.shared and rebuilds == self._rebuilds:
                    logger.warning(
                        "an earlier process ended early: %d passages were added to the index and %d removed",
                        len(waiting),
                        len(stale),
                    )
                return
            self._behind = True
            if not self._folder_lock.make_exclusive():
                return
            found, expected = self._index.counts(), self._expected()
            if found != expected:
                self.rebuild(_mismatch(found, expected))
        except IndexBrokenError as error:
            self._try_rebuild(str(error), self._rebuilds)
        except StoreFullError as error:
            _search_without(error)
        finally:
            self._folder_lock.make_shared()

    def warm_up(self) -> None:
        """Load Chroma and the index in the background, which the first search then does not wait for all of."""

        def load() -> None:
            # The first search meets the same and says so; where the interpreter is ending there is none.
            with suppress(Exception):
                self._first_use()
            _loading.discard(threading.current_thread())

        if self._unused:
            thread = threading.Thread(target=load, name="cmt-memory-index")
            _loading.add(thread)
            thread.start()

    def sync(self) -> None:
        """Write what the index lacks, delete what the ledger has dropped, and note both in the ledger.

        Raises:
            StoreFullError: The disk has no room; the ledger holds everything, and searches are exact until there is.
        """
        with self._lock:
            stale, waiting = self._queries.stale(self._table), self._queries.to_index(self._table)
            if not stale and not waiting:
                return
            try:
                self._first_use()
                if stale:
                    self._index.delete(stale)
                self._write(waiting)
                self._ledger.mark_indexed(waiting, stale, self._table)
                self._note_files(self._index.outline(), closed=False)
            except IndexBrokenError as error:
                if not error.no_room:
                    self.rebuild(str(error))
                    return
                self._behind = True
                raise _full(error) from error
            except CMTError:
                self._behind = True
                raise
            if self._behind:
                self._catch_up()

    def rebuild(self, reason: str, level: int = logging.WARNING) -> None:
        """Drop the collection and write it anew from the ledger; a terminal sees a bar where it takes seconds.

        Raises:
            StoreLockedError: Others share the folder at the moment.
            StoreFullError: The disk has no room.
        """
        with self._lock:
            self._index.check_open()
            self._behind = True
            if not self._folder_lock.make_exclusive():
                raise StoreLockedError(
                    f"the index has to be rebuilt ({reason}), which needs the folder alone; close its other users. "
                    "Searches are exact until then."
                )
            try:
                started = time.monotonic()
                self._index.reset()
                self._unused = None
                self._ledger.mark_all_unindexed(self._table)
                waiting = self._queries.to_index(self._table)
                show = len(waiting) >= _LONG and sys.stderr.isatty()
                try:
                    with Progress("Rebuilding the index", len(waiting), unit="passages", show=show) as bar:
                        self._write(waiting, bar.advance)
                except IndexBrokenError as error:
                    if error.no_room:
                        raise _full(error) from error
                    raise IndexBrokenError(
                        f"the index cannot be rebuilt: {error}. All is kept, and searches are exact until it can."
                    ) from error
                self._ledger.mark_indexed(waiting, (), self._table)
                self._tidy()
                self._rebuilds += 1  # before the other: a search that began earlier is to see one of the two
                self._behind = False
                seconds = time.monotonic() - started
                logger.log(level, "rebuilt the index of %d passages in %.1f s: %s", len(waiting), seconds, reason)
            finally:
                self._folder_lock.make_shared()

    def query(self, vector: Vector, limit: int, where: dict[str, Any] | None) -> list[tuple[int, float]] | None:
        """As `VectorIndex.query`; an index that fails is rebuilt first.

        Returns:
            None while the index lacks what the ledger has, or was rebuilt meanwhile: the caller then searches the
            ledger itself.
        """
        if self._behind and not self._catch_up():
            return None
        for _ in range(2):
            rebuilds = self._rebuilds
            try:
                self._first_use()
                found = self._index.query(vector, limit, where, self._queries.parts(self._index.part, self._table))
                return found if rebuilds == self._rebuilds and not self._behind else None
            except IndexBrokenError as error:
                if not self._try_rebuild(str(error), rebuilds):
                    return None
        return None

    def reset(self) -> None:
        """Begin with an empty index where it only holds what the ledger has dropped: its dimension may change."""
        with self._lock:
            if self._queries.stale(self._table) and not self._queries.count_vectors(self._table):
                self.rebuild("all it held was replaced", level=logging.INFO)

    def compact(self) -> None:
        """Write the index anew where its files keep traces of what was deleted, or it is not what it should be.

        Raises:
            StoreLockedError: It has to be, and others share the folder.
        """
        with self._lock:
            if self._queries.meta(self._table.traces):
                self.rebuild("its files kept what was deleted", level=logging.INFO)
            elif self._queries.count_vectors(self._table):
                if not self._index.is_as_left(self._record):
                    self.rebuild("its files are not as they were left")
                elif any(self.compare()):
                    self.rebuild("it differed from the ledger")
            if self._unused is None:
                self._index.tidy()
                self._note_files(self._index.outline(), closed=False)

    def compare(self) -> tuple[list[int], list[int], list[int]]:
        """Keys that the index lacks, has beyond the ledger's, or has with another vector than the ledger."""
        with self._lock:
            expected = self._queries.with_vector(self._table)
            try:
                self._first_use()
                self.sync()
                # Others may be changing the ledger: what they add or delete meanwhile is no difference.
                expected = self._queries.with_vector(self._table)
                waiting, dropped = self._queries.to_index(self._table), self._queries.stale(self._table)
                found = set(self._index.keys()) if expected else set()
                differing: list[int] = []
                for _, some in chunks([key for key in expected if key in found]):
                    ours, theirs = self._queries.vectors(some, self._table), self._index.vectors(some)
                    differing += _differing(dict(zip(*ours, strict=True)), dict(zip(*theirs, strict=True)))
            except IndexBrokenError:
                return expected, [], []
            alive = set(self._queries.with_vector(self._table))
            missing = alive.intersection(expected) - found - set(waiting)
            return sorted(missing), sorted(found - alive.union(expected, dropped)), differing

    def close(self) -> None:
        """Close the index and note what its files look like; one that is behind is not closed in order.

        Of one that was not used, what was noted before stays: nobody was to change it.
        """
        with self._lock:
            self._index.close()
            if self._unused is not None and self._record["closed"]:
                return
            with suppress(CMTError):  # without the note, the next opening takes what is on disk for a kill's
                files = self._index.outline() if self._behind else self._index.seal(self._sealed)
                self._note_files(files, closed=not self._behind)

    def _first_use(self) -> None:
        """Load an index that was closed in order: Chroma may write its files anew at the first call.

        Raises:
            IndexBrokenError: Chroma failed, or somebody has changed the files since the opening.
        """
        if self._unused is None:
            return
        with self._lock:
            if self._unused is not None:
                if not self._index.is_sound(self._sealed):
                    raise IndexBrokenError("its files are not as they were left")
                with suppress(CMTError):  # without the note, what is on disk after a kill is taken for torn
                    self._note_files(self._index.outline(), closed=False)
                found = self._index.counts()
                if found != self._unused:
                    raise IndexBrokenError(_mismatch(found, self._unused))
                with suppress(CMTError):  # as above
                    self._tidy()
                self._unused = None

    def _try_rebuild(self, reason: str, rebuilds: int) -> bool:
        """Rebuild unless somebody has since ``rebuilds`` were counted; False where it is not possible now."""
        with self._lock:
            if rebuilds != self._rebuilds:
                return True
            try:
                self.rebuild(reason)
            except StoreClosedError:
                raise
            except CMTError as error:
                _search_without(error)
                return False
            return True

    def _catch_up(self) -> bool:
        """Whether the index holds all there is again."""
        with self._lock, suppress(CMTError):
            self._first_use()
            waiting = self._index.counts() != self._expected() or self._queries.to_index(self._table)
            self._behind = bool(waiting)  # the parts of what is not confirmed are not searched
        return not self._behind

    def _expected(self) -> dict[int, int]:
        """How many entries each part of the index should have."""
        return self._queries.counts(self._index.part, self._table)

    def _tidy(self) -> None:
        """Leave nothing in the files but what the index holds; where they cannot be written, at the next chance."""
        with suppress(CMTError):
            self._index.tidy()
        self._note_files(self._index.outline(), closed=False)

    def _write(self, keys: list[int], on_progress: Callable[[int], None] | None = None) -> None:
        for _, some in chunks(keys):
            found, vectors = self._queries.vectors(some, self._table)
            metadatas = self._queries.metadata_of(found, expired=True)
            alive = [place for place, key in enumerate(found) if key in metadatas]
            if alive:
                kept = [found[place] for place in alive]
                self._index.upsert(kept, np.ascontiguousarray(vectors[alive]), [metadatas[key] for key in kept])
            if on_progress is not None:
                on_progress(len(some))

    def _note_files(self, files: Footprint, *, closed: bool) -> None:
        record = {"closed": closed, "files": files}
        if record != self._record:
            self._ledger.set_meta(self._table.files, record)
            self._record = record


def _wait_for_loading() -> None:
    """Before a fork: a child could not use the half of Chroma that another thread has imported."""
    for thread in list(_loading):
        if thread.is_alive() and thread is not threading.current_thread():
            thread.join(_LONGEST_WAIT)


# What is registered last comes first: before `concurrent.futures` takes the lock that loading Chroma needs.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_wait_for_loading)


def _search_without(error: CMTError) -> None:
    logger.warning("searching without the index for now: %s", error)


def _mismatch(found: dict[int, int], expected: dict[int, int]) -> str:
    counts = sum(found.values()), sum(expected.values())
    if counts[0] == counts[1]:
        return "its passages were divided into other parts"
    return f"it held {counts[0]} passages and the ledger {counts[1]}"


def _full(error: IndexBrokenError) -> StoreFullError:
    return StoreFullError(
        f"the disk has no room for the index ({error}). What was added is kept and found; free some space, and the "
        "next change or opening brings the index up to it."
    )


def _differing(ours: dict[int, Vector], theirs: dict[int, Vector]) -> list[int]:
    """Keys whose vectors ``[dims]`` point another way; their lengths do not count, as for the cosine."""
    return [key for key, vector in ours.items() if key in theirs and not _parallel(vector, theirs[key])]


def _parallel(one: Vector, other: Vector) -> bool:
    if one.shape != other.shape or not np.isfinite(one).all():
        return False
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return abs(float(one @ other) - lengths) <= 1e-4 * lengths
