"""Memories by another model: made beside those that count, until all are there and take their place at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cmt_memory.bank.ledger import Ledger
from cmt_memory.bank.lock import FolderLock
from cmt_memory.bank.queries import LACKING, Queries
from cmt_memory.bank.statements import MAKER, check_maker, read_maker, set_asset, set_meta
from cmt_memory.errors import FingerprintMismatchError, StoreLockedError

_OLD = "old_memories"
_AT_ONCE = 1000


class NextMemories:
    """The generation after the one that counts. Nothing reads it before `adopt`.

    Args:
        ledger: The ledger.
        queries: Reads the same ledger.
        lock: The folder's lock.
    """

    def __init__(self, ledger: Ledger, queries: Queries, lock: FolderLock) -> None:
        self._ledger, self._queries, self._lock = ledger, queries, lock
        self._number = ledger.database.generation + 1
        self._maker: dict[str, Any] = {}

    def begin(self, maker: Mapping[str, Any]) -> None:
        """Go on with what the same maker began, else begin anew.

        Args:
            maker: JSON values that say what makes these memories, such as the model's fingerprint.
        """
        self._maker = dict(maker)
        while not self._is_ours():
            self._remove("generation >= ?", self._number)

    def abandon(self) -> None:
        """Delete what an interrupted maker left."""
        if self._queries.meta(MAKER) is not None:
            self._ledger.set_meta(MAKER, None)
        self._remove("generation >= ?", self._number)

    def lacking(self) -> list[tuple[int, int, int]]:
        """Document, key and tokens of each passage that has none of these memories yet, documents together."""
        return self._queries.lacking(self._number)

    def put(self, payloads: Sequence[tuple[int, bytes]]) -> None:
        """Keep memories, by passage key; passages that are gone meanwhile are passed over.

        Raises:
            FingerprintMismatchError: Another process makes memories by another model now, or has made them.
        """
        self._ledger.set_payloads(payloads, self._number, maker=self._maker)

    def adopt(self, meta: Mapping[str, Any], assets: Mapping[str, bytes]) -> bool:
        """Let these memories count from now on, with the settings and assets of their maker, in one transaction.

        Returns:
            Whether they do; not where passages were added meanwhile, which then are `lacking`.

        Raises:
            StoreLockedError: Others share the folder, with the model of before.
            FingerprintMismatchError: Another process was faster, or makes memories by another model now.
        """
        if not self._lock.make_exclusive():
            raise StoreLockedError(
                "the new memories are ready, but others have the store open with the model of before; close them and "
                "call recompress again, which only has to take them over."
            )
        try:
            database = self._ledger.database
            with database.write() as connection:
                (current,) = connection.execute("SELECT generation FROM counters").fetchone()
                if current != self._number - 1:
                    raise FingerprintMismatchError("another process has made the memories anew; open the store again.")
                check_maker(connection, self._maker)
                if connection.execute(f"{LACKING} LIMIT 1", (self._number,)).fetchone():
                    return False
                connection.execute("UPDATE counters SET generation = ?", (self._number,))
                connection.execute("INSERT OR IGNORE INTO stale_memory_vectors SELECT passage FROM memory_vectors")
                connection.execute("DELETE FROM memory_vectors")
                for key, value in {**meta, MAKER: None, _OLD: True}.items():
                    set_meta(connection, key, value)
                for name, data in assets.items():
                    set_asset(connection, name, data)
            database.generation = self._number
        finally:
            self._lock.make_shared()
        self.remove_old()
        return True

    def remove_old(self) -> None:
        """Delete the memories that no longer count, where an adoption left some."""
        if self._queries.meta(_OLD):
            self._remove("generation < ?", self._ledger.database.generation)
            self._ledger.set_meta(_OLD, None)

    def _is_ours(self) -> bool:
        """Whether these memories are our maker's, and they are from now on if there are none of any other."""
        with self._ledger.database.write() as connection:
            if read_maker(connection) == self._maker:
                return True
            others = "SELECT 1 FROM payloads WHERE generation >= ? LIMIT 1"
            ours = connection.execute(others, (self._number,)).fetchone() is None
            set_meta(connection, MAKER, self._maker if ours else None)
            return ours

    def _remove(self, which: str, number: int) -> None:
        """Delete payloads of other generations, some at a time, so that no other writer waits long."""
        while self._ledger.remove_payloads(which, number, _AT_ONCE):
            pass
