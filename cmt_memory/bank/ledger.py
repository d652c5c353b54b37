"""The ledger: every document, passage, vector and payload of a bank, in one SQLite file. It is the truth.

This module changes it, ``queries`` reads it.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np

from cmt_memory.bank.database import Database
from cmt_memory.bank.payloads import PayloadFiles
from cmt_memory.bank.records import StoredDocument, StoredPassage, Vector, VectorTable
from cmt_memory.bank.statements import (
    FORGET_TEXTS,
    check_maker,
    current_generation,
    document_keys,
    insert_labels,
    mark_stale,
    payload_files,
    read_meta,
    remove_documents,
    remove_expired,
    remove_passages,
    set_asset,
    set_meta,
)
from cmt_memory.documents import metadata_json
from cmt_memory.errors import FingerprintMismatchError, StoreCorruptError, StoreLockedError

_INLINE_BYTES = 64 * 1024

REPLACED = (
    "the store's memories were made anew by another model since it was opened here; open it again, with that model."
)

Expires = float | Literal["keep"] | None


class Ledger:
    """Every change of the ledger, each in one transaction; `Queries` reads.

    Inside the bank a passage is named by its key, an integer that is never used twice.

    Args:
        folder: Folder of the bank.
        read_only: Open without any right to change it.
        clock: What tells the time, in seconds since 1970.
    """

    def __init__(self, folder: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> None:
        path = folder / "ledger.sqlite3"
        if (folder / "chroma").exists() and not (path.exists() and path.stat().st_size):
            raise StoreCorruptError(
                f"{path} is missing or empty, though {folder} has an index; restore the folder from a copy, or "
                "delete it to begin anew."
            )
        self.database = Database(path, read_only=read_only, clock=clock)
        self.files = PayloadFiles(folder / "payloads")

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON value under a name."""
        with self.database.write() as connection:
            set_meta(connection, key, value)

    def settle_meta(self, key: str, value: Any) -> Any:
        """Keep a setting unless there is one; returns the one there is then."""
        with self.database.write() as connection:
            found = read_meta(connection, key)
            if found is None:
                set_meta(connection, key, value)
        return value if found is None else found

    def leave_server(self, collection: str) -> None:
        """Note that no server holds the index any more, under which name a later one finds nothing of it."""
        with self.database.write() as connection:
            set_meta(connection, "collection", collection)
            connection.execute("DELETE FROM store_meta WHERE key = 'served'")

    def settle_maker(self, key: str, value: Any, asset: bytes, *, anew: bool) -> Any:
        """Keep what makes the memories, a setting and an asset of one name, unless there is one or ``anew``.

        Another one begins another generation, so that nobody who has the store open reads its memories as those of
        the one before.
        """
        with self.database.write() as connection:
            found = read_meta(connection, key)
            if found is not None and not anew:
                return found
            if found not in (None, value):
                connection.execute("UPDATE counters SET generation = generation + 1")
            set_meta(connection, key, value)
            set_asset(connection, key, asset)
            generation = current_generation(connection)
        self.database.generation = generation
        return value

    def set_asset(self, name: str, data: bytes) -> None:
        """Keep bytes that belong to the store, such as the PCA."""
        with self.database.write() as connection:
            set_asset(connection, name, data)

    def put(
        self,
        documents: Iterable[StoredDocument],
        *,
        keep_text: bool,
        generation: int | None = None,
        known: bool = False,
    ) -> None:
        """Keep documents, each in place of the one with its id; all of them or, on an error, none.

        Args:
            documents: The documents.
            keep_text: Whether to keep their texts.
            generation: Which generation their payloads belong to; the one that counts, unless given.
            known: Only in place of documents that there are.

        Raises:
            FingerprintMismatchError: That generation is over; nothing was changed.
            InvalidInputError: ``known``, and one is gone; nothing was changed.
        """
        now = self.database.clock()
        with self.database.write() as connection:
            if generation is not None and generation != current_generation(connection):
                raise FingerprintMismatchError(REPLACED)
            dropped = remove_expired(connection)
            for document in documents:
                if known:
                    document_keys(connection, [document.id])
                metadata = metadata_json(document.metadata)
                encoded = document.text.encode()
                row = connection.execute("SELECT key FROM documents WHERE id = ?", (document.id,)).fetchone()
                values = (
                    sha256(encoded).digest(),
                    len(document.text),
                    len(encoded),
                    now,
                    document.expires,
                    metadata,
                    sha256(metadata.encode()).digest(),
                    encoded if keep_text else None,
                )
                if row is None:
                    cursor = connection.execute(
                        "INSERT INTO documents (id, created, sha256, characters, bytes, updated, expires, metadata, "
                        "metadata_sha256, text) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        (document.id, now, *values),
                    )
                    key = int(cursor.lastrowid or 0)
                else:
                    key = row[0]
                    dropped |= remove_passages(connection, key)
                    connection.execute(
                        "UPDATE documents SET sha256 = ?, characters = ?, bytes = ?, updated = ?, expires = ?, "
                        "metadata = ?, metadata_sha256 = ?, text = ? WHERE key = ?",
                        (*values, key),
                    )
                insert_labels(connection, key, document.metadata)
                self._insert_passages(connection, key, document, keep_text)
        self._remove_files(dropped)

    def set_metadata(self, id: str, metadata: dict[str, Any], expires: Expires) -> None:
        """Replace a document's metadata; its passages get new keys, so that the index takes them in anew."""
        canonical = metadata_json(metadata)
        with self.database.write() as connection:
            [key] = document_keys(connection, [id])
            connection.execute(
                "UPDATE documents SET metadata = ?, metadata_sha256 = ?, updated = ? WHERE key = ?",
                (canonical, sha256(canonical.encode()).digest(), self.database.clock(), key),
            )
            if expires != "keep":
                connection.execute("UPDATE documents SET expires = ? WHERE key = ?", (expires, key))
            connection.execute("DELETE FROM labels WHERE document = ?", (key,))
            insert_labels(connection, key, metadata)
            (last,) = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'passages'").fetchone()
            old = [row[0] for row in connection.execute("SELECT key FROM passages WHERE document = ?", (key,))]
            moves = [(last + number, passage) for number, passage in enumerate(old, 1)]
            connection.execute(FORGET_TEXTS, (key,))
            mark_stale(connection, key)
            connection.executemany(
                "UPDATE passages SET key = ?, indexed = CASE WHEN indexed IS NOT NULL THEN 0 END WHERE key = ?",
                moves,
            )
            connection.executemany("UPDATE memory_vectors SET passage = ?, indexed = 0 WHERE passage = ?", moves)
            for table in ("vectors", "payloads"):
                connection.executemany(f"UPDATE {table} SET passage = ? WHERE passage = ?", moves)
            connection.execute("UPDATE sqlite_sequence SET seq = ? WHERE name = 'passages'", (last + len(moves),))
            connection.execute(
                "INSERT INTO lexicon (rowid, text) SELECT key, text FROM passage_texts "
                "WHERE key IN (SELECT key FROM passages WHERE document = ?)",
                (key,),
            )

    def set_expiry(self, ids: Sequence[str], expires: float | None) -> None:
        """Say when documents expire, in seconds since 1970; None for never."""
        with self.database.write() as connection:
            for key in document_keys(connection, ids):
                connection.execute("UPDATE documents SET expires = ? WHERE key = ?", (expires, key))

    def delete(self, ids: Sequence[str], *, missing_ok: bool = False) -> None:
        """Delete documents with all that belongs to them; their index entries count as stale from now on."""
        with self.database.write() as connection:
            keys = document_keys(connection, ids, missing_ok=missing_ok)
            dropped = remove_documents(connection, keys) | remove_expired(connection)
        self._remove_files(dropped)

    def remove_expired(self) -> None:
        """Delete the documents whose time has come."""
        with self.database.write() as connection:
            dropped = remove_expired(connection)
        self._remove_files(dropped)

    def set_payloads(
        self, payloads: Sequence[tuple[int, bytes]], generation: int, *, maker: dict[str, Any] | None = None
    ) -> None:
        """Keep the payloads of passages, by key, in place of those they have; passages that are gone stay gone.

        Args:
            payloads: Passage keys and what ``encode_memory`` made.
            generation: Which generation they belong to: the one that counts, or the next.
            maker: What makes the next one.

        Raises:
            FingerprintMismatchError: That generation is over, or has another maker.
        """
        dropped = set[bytes]()
        with self.database.write() as connection:
            if generation < current_generation(connection):
                raise FingerprintMismatchError(REPLACED)
            if maker is not None:
                check_maker(connection, maker)
            for key, payload in payloads:
                if connection.execute("SELECT 1 FROM passages WHERE key = ?", (key,)).fetchone():
                    dropped |= payload_files(connection, "passage = ? AND generation = ?", (key, generation))
                    self._insert_payload(connection, key, generation, payload)
        self._remove_files(dropped)

    def remove_payloads(self, which: str, generation: int, most: int) -> int:
        """Delete payloads by an SQL condition on their generation, and return how many those were."""
        with self.database.write() as connection:
            found = connection.execute(
                f"SELECT rowid, data IS NULL, sha256 FROM payloads WHERE {which} LIMIT ?", (generation, most)
            ).fetchall()
            connection.executemany("DELETE FROM payloads WHERE rowid = ?", [(row[0],) for row in found])
        self._remove_files({row[2] for row in found if row[1]})
        return len(found)

    def forget_vectors(self, encoder: dict[str, Any]) -> None:
        """Drop every vector and note the encoder that is to make the new ones."""
        with self.database.write() as connection:
            connection.execute("INSERT OR IGNORE INTO stale SELECT key FROM passages WHERE indexed IS NOT NULL")
            connection.execute("DELETE FROM vectors")
            connection.execute("UPDATE passages SET indexed = NULL")
            set_meta(connection, "encoder", encoder)

    def set_vectors(self, vectors: Sequence[tuple[int, Vector]]) -> None:
        """Keep the retrieval vectors of passages, by key; they count as not indexed."""
        with self.database.write() as connection:
            connection.executemany(
                "REPLACE INTO vectors VALUES (?, ?)", [(key, _vector_blob(vector)) for key, vector in vectors]
            )
            connection.executemany("UPDATE passages SET indexed = 0 WHERE key = ?", [(key,) for key, _ in vectors])

    def compact(self) -> None:
        """Give deleted space back to the disk; afterwards no file holds what was deleted.

        Raises:
            StoreLockedError: Another process is reading an older state; what it reads is on the disk until it ends.
        """
        with self.database.write() as connection:
            for table in ("vectors", "payloads", "memory_vectors"):
                connection.execute(f"DELETE FROM {table} WHERE passage NOT IN (SELECT key FROM passages)")
            for table in ("documents", "passages"):
                connection.execute(f"UPDATE counters SET {table} = (SELECT count(*) FROM {table})")
        with self.database.alone() as connection:
            try:
                connection.execute("INSERT INTO lexicon (lexicon, rank) VALUES ('integrity-check', 1)")
                connection.execute("INSERT INTO lexicon (lexicon) VALUES ('optimize')")
            except sqlite3.DatabaseError:
                connection.execute("INSERT INTO lexicon (lexicon) VALUES ('rebuild')")
            connection.execute("VACUUM")
            (busy, *_) = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        with self.database.write() as connection:
            rows = connection.execute("SELECT sha256 FROM payloads WHERE data IS NULL")
            for path in self.files.orphans({row[0] for row in rows}):
                path.unlink(missing_ok=True)
        if busy:
            raise StoreLockedError(
                f"{self.database.path.parent} was compacted, but another process is still reading what was deleted; "
                "compact again when it has ended."
            )

    def set_memory_vectors(self, vectors: Sequence[tuple[int, Vector]], generation: int) -> None:
        """Keep the vectors of memories, by passage key; those whose memory no longer counts are passed over."""
        kept = "SELECT 1 FROM payloads WHERE passage = ? AND generation = ?"
        with self.database.write() as connection:
            if generation == current_generation(connection):
                connection.executemany(
                    f"REPLACE INTO memory_vectors SELECT ?, 0, ? WHERE EXISTS ({kept})",
                    [(key, _vector_blob(vector), key, generation) for key, vector in vectors],
                )

    def mark_indexed(self, keys: Iterable[int], stale: Sequence[int], table: VectorTable) -> None:
        """Note that the index holds ``keys`` and no longer holds ``stale``, of which its files may keep traces."""
        with self.database.write() as connection:
            if stale:
                set_meta(connection, table.traces, True)
            done = [(key,) for key in keys]
            connection.executemany(f"UPDATE {table.flags} SET indexed = 1 WHERE {table.key} = ?", done)
            connection.executemany(f"DELETE FROM {table.stale} WHERE passage = ?", [(key,) for key in stale])

    def mark_all_unindexed(self, table: VectorTable) -> None:
        """Note that the index is empty, and so are its files."""
        with self.database.write() as connection:
            set_meta(connection, table.traces, False)
            connection.execute(f"UPDATE {table.flags} SET indexed = 0 WHERE indexed IS NOT NULL")
            connection.execute(f"DELETE FROM {table.stale}")

    def _insert_passages(
        self, connection: sqlite3.Connection, document: int, stored: StoredDocument, keep_text: bool
    ) -> None:
        bytes_at = _byte_offsets(stored.text, stored.passages)
        for n, passage in enumerate(stored.passages):
            cursor = connection.execute(
                'INSERT INTO passages (document, n, start, "end", byte_start, byte_end, n_tokens, indexed) '
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    document,
                    n,
                    passage.start,
                    passage.end,
                    bytes_at[passage.start],
                    bytes_at[passage.end],
                    passage.n_tokens,
                    None if passage.vector is None else 0,
                ),
            )
            key = int(cursor.lastrowid or 0)
            if passage.vector is not None:
                connection.execute("INSERT INTO vectors VALUES (?, ?)", (key, _vector_blob(passage.vector)))
            if passage.payload is not None:
                self._insert_payload(connection, key, current_generation(connection), passage.payload)
            if keep_text:
                text = stored.text[passage.start : passage.end]
                connection.execute("INSERT INTO lexicon (rowid, text) VALUES (?, ?)", (key, text))

    def _insert_payload(self, connection: sqlite3.Connection, key: int, generation: int, payload: bytes) -> None:
        inline = len(payload) <= _INLINE_BYTES
        digest = sha256(payload).digest() if inline else self.files.write(payload)
        connection.execute(
            "REPLACE INTO payloads VALUES (?, ?, ?, ?, ?)",
            (key, generation, digest, len(payload), payload if inline else None),
        )

    def _remove_files(self, digests: set[bytes]) -> None:
        """Delete payload files that nothing refers to any more, while no other writer can start to."""
        if not digests:
            return
        with self.database.write() as connection:
            for digest in digests:
                if not payload_files(connection, "sha256 = ?", (digest,)):
                    self.files.remove(digest)


def _byte_offsets(text: str, passages: Sequence[StoredPassage]) -> dict[int, int]:
    """Offsets in UTF-8 for the characters where passages begin and end."""
    offsets, position, total = {}, 0, 0
    for place in sorted({place for passage in passages for place in (passage.start, passage.end)}):
        total += len(text[position:place].encode())
        offsets[place], position = total, place
    return offsets


def _vector_blob(vector: Vector) -> bytes:
    return np.ascontiguousarray(vector, dtype="<f4").tobytes()
