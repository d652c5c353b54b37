"""What the ledger's transactions are made of."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Any

from cmt_memory.bank.filters import is_filterable, label_value
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError, StoreCorruptError

MAKER = "next_memories"
"""Setting that says what makes the memories of the next generation."""
FORGET_TEXTS = (
    "INSERT INTO lexicon (lexicon, rowid, text) SELECT 'delete', key, text FROM passage_texts "
    "WHERE key IN (SELECT key FROM passages WHERE document = ?)"
)
"""Takes a document's passages out of the lexicon."""


def read_maker(connection: sqlite3.Connection) -> Any:
    """What makes the memories of the next generation, or None."""
    return read_meta(connection, MAKER)


def check_maker(connection: sqlite3.Connection, maker: dict[str, Any]) -> None:
    """Refuse to mix the memories of two makers.

    Raises:
        FingerprintMismatchError: Another makes the next ones.
    """
    if read_maker(connection) != maker:
        raise FingerprintMismatchError(
            "another process makes the memories anew too, by another model; call recompress again when it has ended."
        )


def read_meta(connection: sqlite3.Connection, key: str) -> Any:
    """A JSON setting, or None.

    Raises:
        StoreCorruptError: It is not what was kept.
    """
    row = connection.execute("SELECT value FROM store_meta WHERE key = ?", (key,)).fetchone()
    try:
        return row and json.loads(row[0])
    except ValueError as error:
        raise StoreCorruptError(
            f"the setting {key!r} of the store is damaged ({error}); restore the folder from a copy."
        ) from error


def set_meta(connection: sqlite3.Connection, key: str, value: Any) -> None:
    """Keep a JSON setting."""
    connection.execute("REPLACE INTO store_meta VALUES (?, ?)", (key, json.dumps(value, sort_keys=True)))


def set_asset(connection: sqlite3.Connection, name: str, data: bytes) -> None:
    """Keep bytes with their sha256."""
    connection.execute("REPLACE INTO assets VALUES (?, ?, ?)", (name, sha256(data).digest(), data))


def current_generation(connection: sqlite3.Connection) -> int:
    """Which payloads count."""
    return int(connection.execute("SELECT generation FROM counters").fetchone()[0])


def document_keys(connection: sqlite3.Connection, ids: Sequence[str], *, missing_ok: bool = False) -> list[int]:
    """Keys of the documents with these ids.

    Raises:
        InvalidInputError: Somebody was faster to delete one, which ends the transaction unless that is ok.
    """
    rows = [connection.execute("SELECT key FROM documents WHERE id = ?", (id,)).fetchone() for id in ids]
    unknown = [id for id, row in zip(ids, rows, strict=True) if row is None]
    if unknown and not missing_ok:
        raise InvalidInputError(f"unknown ids {unknown[:10]}; nothing was changed.")
    return [row[0] for row in rows if row is not None]


def remove_documents(connection: sqlite3.Connection, keys: Iterable[int]) -> set[bytes]:
    """Take documents out of every table; returns the payload files they used."""
    dropped = set[bytes]()
    for key in keys:
        dropped |= remove_passages(connection, key)
        connection.execute("DELETE FROM documents WHERE key = ?", (key,))
    return dropped


def remove_expired(connection: sqlite3.Connection) -> set[bytes]:
    """Take the documents whose time has come out of every table; returns the payload files they used."""
    rows = connection.execute("SELECT key FROM documents WHERE expires <= cmt_now()").fetchall()
    return remove_documents(connection, [row[0] for row in rows])


def mark_stale(connection: sqlite3.Connection, document: int) -> None:
    """Note that the indexes may hold a document's passages that they are to drop."""
    own = "SELECT key FROM passages WHERE document = ?"
    connection.execute(f"INSERT OR IGNORE INTO stale {own} AND indexed IS NOT NULL", (document,))
    connection.execute(
        f"INSERT OR IGNORE INTO stale_memory_vectors SELECT passage FROM memory_vectors WHERE passage IN ({own})",
        (document,),
    )


def remove_passages(connection: sqlite3.Connection, document: int) -> set[bytes]:
    """Take a document's passages out of every table; returns the payload files they used."""
    own = "passage IN (SELECT key FROM passages WHERE document = ?)"
    dropped = payload_files(connection, own, (document,))
    connection.execute(FORGET_TEXTS, (document,))
    mark_stale(connection, document)
    for table in ("vectors", "payloads", "memory_vectors"):
        connection.execute(f"DELETE FROM {table} WHERE {own}", (document,))
    connection.execute("DELETE FROM passages WHERE document = ?", (document,))
    connection.execute("DELETE FROM labels WHERE document = ?", (document,))
    return dropped


def payload_files(connection: sqlite3.Connection, where: str, values: tuple[Any, ...]) -> set[bytes]:
    """The sha256 of payloads in files, by an SQL condition."""
    rows = connection.execute(f"SELECT sha256 FROM payloads WHERE data IS NULL AND {where}", values)
    return {row[0] for row in rows}


def insert_labels(connection: sqlite3.Connection, document: int, metadata: dict[str, Any]) -> None:
    """Keep what filters see of a document's metadata."""
    connection.executemany(
        "INSERT INTO labels VALUES (?, ?, ?)",
        [(document, key, label_value(value)) for key, value in metadata.items() if is_filterable(value)],
    )
