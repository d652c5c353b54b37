"""Keeping the index equal to the ledger."""

from __future__ import annotations

import logging
import threading
import time
from typing import Any

import numpy as np

from cmt_memory.bank.index import IndexBrokenError, VectorIndex
from cmt_memory.bank.ledger import Ledger
from cmt_memory.bank.lock import FolderLock
from cmt_memory.bank.queries import Queries, chunks
from cmt_memory.bank.records import Vector, VectorTable
from cmt_memory.errors import CMTError, StoreLockedError

logger = logging.getLogger(__name__)


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
        self._rebuilds = 0  # odd while one is under way, which begins when nobody is asking the index
        self._asking = 0
        self._idle = threading.Condition()

    def repair(self) -> None:
        """Put right what an interrupted process left: at opening, before anything else.

        While others share the folder, differences may be their unfinished work and are left to them.
        """
        stale, waiting = self._queries.stale(self._table), self._queries.to_index(self._table)
        if not stale and not self._queries.count_vectors(self._table):
            return
        try:
            self.sync()
            if self._index.count() == self._queries.count_vectors(self._table):
                if (stale or waiting) and not self._folder_lock.shared:
                    logger.warning(
                        "an earlier process ended early: %d passages were added to the index and %d removed",
                        len(waiting),
                        len(stale),
                    )
                return
            if not self._folder_lock.make_exclusive():
                return
            found, expected = self._index.count(), self._queries.count_vectors(self._table)
            if found != expected:
                self.rebuild(f"it held {found} passages and the ledger {expected}")
        except IndexBrokenError as error:
            self.rebuild(str(error))
        finally:
            self._folder_lock.make_shared()

    def sync(self) -> None:
        """Write what the index lacks, delete what the ledger has dropped, and note both in the ledger."""
        with self._lock:
            stale, waiting = self._queries.stale(self._table), self._queries.to_index(self._table)
            if not stale and not waiting:
                return
            try:
                if stale:
                    self._index.delete(stale)
                self._write(waiting)
            except IndexBrokenError as error:
                self.rebuild(str(error))
                return
            self._ledger.mark_indexed(waiting, stale, self._table)

    def rebuild(self, reason: str, level: int = logging.WARNING) -> None:
        """Drop the collection and write it anew from the ledger.

        Raises:
            StoreLockedError: Others share the folder at the moment.
        """
        with self._lock:
            if not self._folder_lock.make_exclusive():
                raise StoreLockedError(
                    f"the index has to be rebuilt ({reason}), which needs the folder alone; close its other users."
                )
            with self._idle:
                self._rebuilds += 1
                self._idle.wait_for(lambda: not self._asking)
            try:
                started = time.monotonic()
                self._index.reset()
                self._ledger.mark_all_unindexed(self._table)
                waiting = self._queries.to_index(self._table)
                try:
                    self._write(waiting)
                except IndexBrokenError as error:
                    raise CMTError(f"the index cannot be rebuilt: {error}") from error
                self._ledger.mark_indexed(waiting, (), self._table)
                seconds = time.monotonic() - started
                logger.log(level, "rebuilt the index of %d passages in %.1f s: %s", len(waiting), seconds, reason)
            finally:
                self._rebuilds += 1
                self._folder_lock.make_shared()

    def query(self, vector: Vector, limit: int, where: dict[str, Any] | None) -> list[tuple[int, float]] | None:
        """As :meth:`VectorIndex.query`, or None while the index is rebuilt; one that fails is rebuilt."""
        with self._idle:
            rebuilds = self._rebuilds
            if rebuilds % 2:
                return None
            self._asking += 1
        try:
            try:
                found = self._index.query(vector, limit, where)
            finally:
                with self._idle:
                    self._asking -= 1
                    self._idle.notify_all()
        except IndexBrokenError as error:
            with self._lock:  # no second try before: Chroma would make an empty collection and find nothing in it
                if rebuilds == self._rebuilds:
                    self.rebuild(str(error))
                return self._index.query(vector, limit, where)
        return found

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
            elif self._queries.count_vectors(self._table) and any(self.compare()):
                self.rebuild("it differed from the ledger")

    def compare(self) -> tuple[list[int], list[int], list[int]]:
        """Keys that the index lacks, has beyond the ledger's, or has with another vector than the ledger."""
        with self._lock:
            self.sync()
            expected = self._queries.with_vector(self._table)
            try:
                found = set(self._index.keys()) if expected else set()
                differing: list[int] = []
                for _, some in chunks([key for key in expected if key in found]):
                    ours, theirs = self._queries.vectors(some, self._table), self._index.vectors(some)
                    differing += _differing(dict(zip(*ours, strict=True)), dict(zip(*theirs, strict=True)))
            except IndexBrokenError:
                return expected, [], []
            return [key for key in expected if key not in found], sorted(found - set(expected)), differing

    def _write(self, keys: list[int]) -> None:
        for _, some in chunks(keys):
            found, vectors = self._queries.vectors(some, self._table)
            metadatas = self._queries.metadata_of(found, expired=True)
            alive = [place for place, key in enumerate(found) if key in metadatas]
            if alive:
                kept = [found[place] for place in alive]
                self._index.upsert(kept, np.ascontiguousarray(vectors[alive]), [metadatas[key] for key in kept])


def _differing(ours: dict[int, Vector], theirs: dict[int, Vector]) -> list[int]:
    """Keys whose vectors ``[dims]`` point another way; their lengths do not count, as for the cosine."""
    return [key for key, vector in ours.items() if key in theirs and not _parallel(vector, theirs[key])]


def _parallel(one: Vector, other: Vector) -> bool:
    if one.shape != other.shape or not np.isfinite(one).all():
        return False
    lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
    return abs(float(one @ other) - lengths) <= 1e-4 * lengths
