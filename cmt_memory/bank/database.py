"""The SQLite file of a bank: schema, connections and transactions."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path

from cmt_memory.errors import CMTError, InvalidInputError, StoreClosedError, StoreCorruptError, StoreFullError

FORMAT = 2
TOKENIZER = "unicode61 remove_diacritics 2"
_BUSY_SECONDS = 60.0
_CACHE_BYTES = 128 * 1024 * 1024
"""Most that a connection keeps of the file: the words of a million passages and their lengths."""
_WAL_BYTES = 4 * 1024 * 1024
# What SQLite reports for quotas, file size limits and a full disk under its shared memory.
_NO_ROOM = (sqlite3.SQLITE_IOERR_WRITE, sqlite3.SQLITE_IOERR_SHMSIZE)

# `counters` spares every question a walk through a table, and `changes` counts commits, so that whoever caches
# can see that something changed. A payload counts while its `generation` is that of `counters`; the next one is made
# beside it and takes its place at once. `indexed` is NULL for a passage without a vector, 0 until the index holds it, 1
# from then on. Rows that scans touch stay small: texts, vectors and payloads are apart from or behind them.
# AUTOINCREMENT never reuses a key, so that a key left behind in the index cannot come to mean another passage.
_SCHEMA = f"""
CREATE TABLE store_meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE counters (changes INTEGER NOT NULL, documents INTEGER NOT NULL, passages INTEGER NOT NULL,
  generation INTEGER NOT NULL);
INSERT INTO counters VALUES (0, 0, 0, 0);
CREATE TABLE assets (name TEXT PRIMARY KEY, sha256 BLOB NOT NULL, data BLOB NOT NULL);
CREATE TABLE documents (
  key INTEGER PRIMARY KEY AUTOINCREMENT,
  id TEXT NOT NULL UNIQUE,
  sha256 BLOB NOT NULL,
  characters INTEGER NOT NULL,
  bytes INTEGER NOT NULL,
  created REAL NOT NULL,
  updated REAL NOT NULL,
  expires REAL,
  metadata TEXT NOT NULL,
  metadata_sha256 BLOB NOT NULL,
  text BLOB
);
CREATE INDEX documents_expiring ON documents (expires) WHERE expires IS NOT NULL;
CREATE TABLE labels (
  document INTEGER NOT NULL, key TEXT NOT NULL, value NOT NULL, PRIMARY KEY (document, key)
) WITHOUT ROWID;
CREATE TABLE passages (
  key INTEGER PRIMARY KEY AUTOINCREMENT,
  document INTEGER NOT NULL REFERENCES documents (key),
  n INTEGER NOT NULL,
  start INTEGER NOT NULL,
  "end" INTEGER NOT NULL,
  byte_start INTEGER NOT NULL,
  byte_end INTEGER NOT NULL,
  n_tokens INTEGER NOT NULL,
  indexed INTEGER,
  UNIQUE (document, n)
);
CREATE INDEX passages_to_encode ON passages (key) WHERE indexed IS NULL;
CREATE INDEX passages_to_index ON passages (key) WHERE indexed = 0;
CREATE TRIGGER one_document_more AFTER INSERT ON documents BEGIN UPDATE counters SET documents = documents + 1; END;
CREATE TRIGGER one_document_less AFTER DELETE ON documents BEGIN UPDATE counters SET documents = documents - 1; END;
CREATE TRIGGER one_passage_more AFTER INSERT ON passages BEGIN UPDATE counters SET passages = passages + 1; END;
CREATE TRIGGER one_passage_less AFTER DELETE ON passages BEGIN UPDATE counters SET passages = passages - 1; END;
CREATE TABLE vectors (passage INTEGER PRIMARY KEY, vector BLOB NOT NULL);
CREATE TABLE payloads (
  passage INTEGER NOT NULL, generation INTEGER NOT NULL, sha256 BLOB NOT NULL, bytes INTEGER NOT NULL, data BLOB,
  PRIMARY KEY (passage, generation)
);
CREATE INDEX payload_files ON payloads (sha256) WHERE data IS NULL;
CREATE TABLE stale (passage INTEGER PRIMARY KEY);
CREATE TABLE memory_vectors (passage INTEGER PRIMARY KEY, indexed INTEGER NOT NULL, vector BLOB NOT NULL);
CREATE INDEX memory_vectors_to_index ON memory_vectors (passage) WHERE indexed = 0;
CREATE TABLE stale_memory_vectors (passage INTEGER PRIMARY KEY);
CREATE VIEW passage_texts AS
  SELECT p.key AS key,
         CAST(substr(d.text, p.byte_start + 1, p.byte_end - p.byte_start) AS TEXT) AS text
  FROM passages p JOIN documents d ON d.key = p.document WHERE d.text IS NOT NULL;
CREATE VIRTUAL TABLE lexicon USING fts5 (
  text, content = 'passage_texts', content_rowid = 'key', tokenize = '{TOKENIZER}'
);
CREATE VIRTUAL TABLE lexicon_terms USING fts5vocab ('lexicon', 'row');
PRAGMA user_version = {FORMAT};
"""


class Database:
    """Connections to one ledger file: one that writes, and as many as there are readers at once.

    Readers see the last commit and never wait for a writer (WAL). A commit returns after fsync.

    Args:
        path: The SQLite file; its folder exists.
        read_only: Open without any right to change it.
        clock: What tells the time, in seconds since 1970; SQL asks it as ``cmt_now()``.
    """

    def __init__(self, path: Path, *, read_only: bool = False, clock: Callable[[], float] = time.time) -> None:
        if read_only and not path.exists():
            raise InvalidInputError(f"{path.parent} holds no store; give the folder of one, or open it for writing.")
        _check_length(path)
        self.path = path
        self.read_only = read_only
        self.clock = clock
        self.generation = 0
        """Which payloads count, as it was when the ledger was opened."""
        self._pid = os.getpid()
        self._closed = False
        self._pools: dict[str, list[sqlite3.Connection]] = defaultdict(list)
        self._pool_lock = threading.Lock()
        self._write_lock = threading.RLock()
        self._writer: sqlite3.Connection | None = None
        try:
            self._writer = None if read_only else self._connect()
            self._check_format()
        except sqlite3.DatabaseError as error:
            self.close()
            raise _explain(error, path) from error
        except CMTError:
            self.close()
            raise

    @contextmanager
    def read(self, pool: str = "rows") -> Iterator[sqlite3.Connection]:
        """Lend a connection on which every statement sees one and the same commit.

        Args:
            pool: Connections that read the same parts of the file, and so keep them in memory, have a name in common.
        """
        self.check_open()
        with self._pool_lock:
            connection = self._pools[pool].pop() if self._pools[pool] else None
        try:
            connection = connection or self._connect()
            connection.execute("BEGIN")
            yield connection
        except sqlite3.DatabaseError as error:
            raise _explain(error, self.path) from error
        finally:
            if connection is not None:
                self._take_back(connection, pool)

    def _take_back(self, connection: sqlite3.Connection, pool: str) -> None:
        if connection.in_transaction:
            connection.rollback()
        with self._pool_lock:
            if not self._closed:
                self._pools[pool].append(connection)
                return
        connection.close()

    @contextmanager
    def write(self) -> Iterator[sqlite3.Connection]:
        """Lend the writing connection inside a transaction that commits at the end or changes nothing."""
        with self.alone() as writer:
            writer.execute("BEGIN IMMEDIATE")
            try:
                yield writer
                writer.execute("UPDATE counters SET changes = changes + 1")
                writer.execute("COMMIT")
            except BaseException:
                if writer.in_transaction:
                    writer.execute("ROLLBACK")
                raise

    @contextmanager
    def alone(self) -> Iterator[sqlite3.Connection]:
        """Lend the writing connection outside a transaction, for what SQLite allows only there."""
        self.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        with self._write_lock:
            self.check_open()
            if self._writer is None:
                raise InvalidInputError("the store was opened read_only; open it without read_only to change it.")
            try:
                yield self._writer
            except sqlite3.DatabaseError as error:
                raise _explain(error, self.path) from error

    def close(self) -> None:
        """Close every connection; those that are lent are closed when they come back."""
        if os.getpid() != self._pid:
            return
        with self._write_lock, self._pool_lock:
            if self._closed:
                return
            self._closed = True
            for connection in [*chain(*self._pools.values()), *([self._writer] if self._writer else [])]:
                connection.close()
            self._pools.clear()

    def check_open(self) -> None:
        """Raise ``StoreClosedError`` where the ledger is closed, or was opened before a fork."""
        if self._closed:
            raise StoreClosedError("the store was closed; open it again to use it.")
        if os.getpid() != self._pid:
            raise StoreClosedError("the store was opened before this process was forked; open it again in the child.")

    def _connect(self) -> sqlite3.Connection:
        mode = "ro" if self.read_only else "rwc"
        uri = f"{self.path.absolute().as_uri()}?mode={mode}"
        wal = self.path.with_name(self.path.name + "-wal")
        if self.read_only and not wal.exists() and not os.access(self.path.parent, os.W_OK):
            uri += "&immutable=1"  # SQLite cannot make its shared-memory file there, and nobody can be writing
        connection = sqlite3.connect(
            uri, uri=True, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            if not self.read_only:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute("PRAGMA secure_delete = ON")
                connection.execute(f"PRAGMA journal_size_limit = {_WAL_BYTES}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_BYTES // 1024}")
            connection.create_function("cmt_now", 0, lambda: float(self.clock()))
        except BaseException:
            connection.close()
            raise
        return connection

    def _check_format(self) -> None:
        if self._writer is not None and not _count_tables(self._writer):
            with self.write() as connection:
                if not _count_tables(connection):
                    for statement in _SCHEMA.split(";\n"):
                        if statement.strip():
                            connection.execute(statement)
                    if sqlite3.sqlite_version_info >= (3, 42):
                        connection.execute("INSERT INTO lexicon (lexicon, rank) VALUES ('secure-delete', 1)")
        with self.read() as connection:
            (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found != FORMAT:
            raise StoreCorruptError(
                f"{self.path} has ledger format {found}; this version of cmt-memory reads format {FORMAT}."
            )
        with self.read() as connection:
            (self.generation,) = connection.execute("SELECT generation FROM counters").fetchone()


def _count_tables(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])


def _check_length(path: Path) -> None:
    """Refuse a file that was cut off, which SQLite itself notices only when it comes to what is missing."""
    wal = path.with_name(path.name + "-wal")
    if not path.exists() or (wal.exists() and wal.stat().st_size):  # what is missing may be in the WAL
        return
    with path.open("rb") as file:
        header = file.read(100)
        size = file.seek(0, os.SEEK_END)
    page = int.from_bytes(header[16:18], "big")
    expected = (65_536 if page == 1 else page) * int.from_bytes(header[28:32], "big")
    if header.startswith(b"SQLite format 3\0") and size < expected:
        raise StoreCorruptError(f"{path} has {size} of its {expected} bytes; restore the folder from a copy.")


def _explain(error: sqlite3.DatabaseError, path: Path) -> CMTError:
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    if code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
        return StoreCorruptError(f"{path} is damaged: {error}; restore the folder from a copy.")
    if code & 0xFF == sqlite3.SQLITE_FULL or code in _NO_ROOM:
        return StoreFullError(f"{path}: {error}; nothing was changed. Free some space and try again.")
    if code & 0xFF == sqlite3.SQLITE_CANTOPEN:
        return InvalidInputError(f"{path} cannot be opened: {error}; check the rights to the folder and its files.")
    return CMTError(f"{path}: {error}; nothing was changed.")
