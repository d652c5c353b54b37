"""Is everything in a bank as it was written? Finds what is not, and says what to do about it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Literal

from cmt_memory.bank.filters import is_filterable, label_value
from cmt_memory.bank.ledger import Ledger
from cmt_memory.bank.queries import Queries, chunks
from cmt_memory.bank.sync import SyncedIndex
from cmt_memory.errors import CMTError, StoreClosedError, StoreCorruptError

Kind = Literal["ledger", "setting", "words", "text", "metadata", "memory", "file", "vector", "index"]

RESTORE = "restore the folder from a copy"
COMPACT = "run `cmt-memory store compact`"
RECOMPRESS = "run `cmt-memory store recompress`"
READD = "delete it and add it again"
AGAIN = "verify again when that is put right"
_AT_ONCE = 200
_CLEANING_SECONDS = 1.0
_SPANS = "SELECT document, n, byte_start, byte_end FROM passages WHERE document BETWEEN ? AND ? ORDER BY document, n"

Span = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is not as it was written.

    Args:
        kind: What is wrong: the ``ledger`` itself, a ``setting`` of the store, the lexicon (``words``), a
            document's ``text`` or ``metadata``, a ``memory``, a payload ``file`` that nothing refers to, a
            ``vector``, or the ``index``.
        document: Id of the document; None where it concerns none in particular.
        message: What was found.
        remedy: What to do.
    """

    kind: Kind
    document: str | None
    message: str
    remedy: str


@dataclass(slots=True)
class VerifyReport:
    """What `MemoryBank.verify` looked at and what it found.

    Args:
        documents: Documents looked at.
        passages: Passages looked at.
        memories: Memories read and compared with their sha256.
        seconds: How long it took.
        problems: Nothing, in a sound store.
    """

    documents: int = 0
    passages: int = 0
    memories: int = 0
    seconds: float = 0.0
    problems: list[Problem] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether nothing was found."""
        return not self.problems


class Verification:
    """One look at everything in a bank; reads every byte of it once.

    Args:
        ledger: The ledger.
        queries: Reads the same ledger.
        indexes: The open indexes; none for a reader, which leaves them alone.
        keep_text: Whether the bank keeps texts.
    """

    def __init__(self, ledger: Ledger, queries: Queries, indexes: Sequence[SyncedIndex], *, keep_text: bool) -> None:
        self._ledger, self._queries, self._indexes, self._keep_text = ledger, queries, indexes, keep_text
        self._report = VerifyReport()

    def run(self) -> VerifyReport:
        """Look at everything; what cannot be read at all is a problem too, not an error."""
        started = time.monotonic()
        checks: list[Callable[[], Iterator[Problem]]] = [
            self._pages, self._tables, self._words, self._settings, self._documents, self._memories, self._files,
            self._vectors,
        ]  # fmt: skip
        for check in checks:
            try:
                self._report.problems += check()
            except StoreClosedError:
                raise
            except CMTError as error:
                self._report.problems.append(Problem("ledger", None, str(error), RESTORE))
        self._report.seconds = time.monotonic() - started
        return self._report

    def _pages(self) -> Iterator[Problem]:
        with self._ledger.database.read() as connection:
            for (found,) in connection.execute("PRAGMA integrity_check"):
                if found != "ok":
                    yield Problem("ledger", None, f"SQLite: {found}", RESTORE)

    def _tables(self) -> Iterator[Problem]:
        with self._ledger.database.read() as connection:
            counted = tuple(
                connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("documents", "passages")
            )
            kept = connection.execute("SELECT documents, passages FROM counters").fetchone()
            if counted != kept:
                yield Problem("ledger", None, f"{counted} documents and passages are counted as {kept}", COMPACT)
            for table in ("vectors", "payloads", "memory_vectors"):
                (count,) = connection.execute(
                    f"SELECT count(*) FROM {table} WHERE passage NOT IN (SELECT key FROM passages)"
                ).fetchone()
                if count:
                    yield Problem("ledger", None, f"{count} {table} belong to no passage", COMPACT)
        self._report.documents, self._report.passages = counted

    def _words(self) -> Iterator[Problem]:
        """FTS5's own check of its index against the texts, which SQLite allows only to a writer."""
        if self._ledger.database.read_only:
            return
        try:
            with self._ledger.database.alone() as connection:
                connection.execute("INSERT INTO lexicon (lexicon, rank) VALUES ('integrity-check', 1)")
        except CMTError as error:
            yield Problem("words", None, f"the words of BM25 are not those of the texts: {error}", COMPACT)

    def _settings(self) -> Iterator[Problem]:
        with self._ledger.database.read() as connection:
            rows = connection.execute("SELECT name, sha256, data FROM assets").fetchall()
        for name, digest, data in rows:
            if sha256(data).digest() != digest:
                yield Problem("setting", None, f"the asset {name!r} is not what was kept", RESTORE)

    def _documents(self) -> Iterator[Problem]:
        last = 0
        while True:
            with self._ledger.database.read() as connection:
                rows = connection.execute(
                    "SELECT key, id, sha256, text, metadata_sha256, metadata FROM documents WHERE key > ? "
                    "ORDER BY key LIMIT ?",
                    (last, _AT_ONCE),
                ).fetchall()
                labels: dict[int, dict[str, object]] = {}
                spans: dict[int, list[Span]] = {}
                if rows:
                    between = (rows[0][0], rows[-1][0])
                    for key, name, value in connection.execute(
                        "SELECT document, key, value FROM labels WHERE document BETWEEN ? AND ?", between
                    ):
                        labels.setdefault(key, {})[name] = value
                    for key, *span in connection.execute(_SPANS, between):
                        spans.setdefault(key, []).append((span[0], span[1], span[2]))
            for key, id, digest, text, metadata_digest, metadata in rows:
                if self._keep_text and (text is None or sha256(text).digest() != digest):
                    yield Problem("text", id, "the text is not what was added", READD)
                elif fault := _incomplete(spans.get(key, []), text):
                    yield Problem("ledger", id, fault, READD)
                if sha256(str(metadata).encode()).digest() != metadata_digest:
                    yield Problem("metadata", id, "the metadata is not what was given", "set it with `update`")
                elif labels.get(key, {}) != _labels(metadata):
                    yield Problem("metadata", id, "filters see other metadata", "set it with `update`")
            if len(rows) < _AT_ONCE:
                return
            last = rows[-1][0]

    def _memories(self) -> Iterator[Problem]:
        remedy = RECOMPRESS if self._keep_text else READD
        for key, fault in check_memories(self._ledger, self._queries):
            self._report.memories += 1
            if fault:
                for id, n in self._queries.names([key]).values():
                    yield Problem("memory", id, f"the memory of its passage {n} {fault}", remedy)

    def _files(self) -> Iterator[Problem]:
        left = self._orphans()
        if left:  # who has just replaced or deleted a memory is about to remove its file
            time.sleep(_CLEANING_SECONDS)
            left = sorted(set(left).intersection(self._orphans()))
        for path in left:
            yield Problem("file", None, f"{path.name} in payloads/ belongs to no memory", COMPACT)

    def _orphans(self) -> list[Path]:
        """Files that nothing refers to; a writer holds the others up, whose files are there before their commit."""
        database = self._ledger.database
        with database.read() if database.read_only else database.alone() as connection:
            if not database.read_only:
                connection.execute("BEGIN IMMEDIATE")
            try:
                used = {row[0] for row in connection.execute("SELECT sha256 FROM payloads WHERE data IS NULL")}
                return self._ledger.files.orphans(used)
            finally:
                connection.rollback()

    def _vectors(self) -> Iterator[Problem]:
        with self._ledger.database.read() as connection:
            lost = connection.execute(
                "SELECT DISTINCT d.id FROM passages p JOIN documents d ON d.key = p.document "
                "WHERE p.indexed IS NOT NULL AND p.key NOT IN (SELECT passage FROM vectors)"
            ).fetchall()
        for (id,) in lost:
            yield Problem("vector", id, "it has lost its retrieval vector", READD)
        for index in self._indexes:
            try:
                yield from self._compared(index)
            except (StoreClosedError, StoreCorruptError):
                raise
            except CMTError as error:
                yield Problem("index", None, f"it cannot be compared with the ledger: {error}", AGAIN)

    def _compared(self, index: SyncedIndex) -> Iterator[Problem]:
        missing, surplus, differing = index.compare()
        names = self._queries.names([*missing, *differing])
        for keys, what in ((missing, "is missing in the index"), (differing, "is another one in the index")):
            for key in keys:
                if key in names:
                    id, n = names[key]
                    yield Problem("index", id, f"the vector of its passage {n} {what}", COMPACT)
        if surplus:
            yield Problem("index", None, f"the index holds {len(surplus)} passages that there are not", COMPACT)


def check_memories(ledger: Ledger, queries: Queries) -> Iterator[tuple[int, str | None]]:
    """Read every memory that counts: the passage's key, and what is wrong with it if anything is."""
    with ledger.database.read() as connection:
        keys = [row[0] for row in connection.execute("SELECT passage FROM payloads ORDER BY passage")]
    for _, some in chunks(list(dict.fromkeys(keys))):
        for key, (digest, data) in queries.payloads(some).items():
            fault = None
            try:
                if sha256(ledger.files.read(digest) if data is None else data).digest() != digest:
                    fault = "is damaged"
            except FileNotFoundError:
                fault = "has lost its file"
            except OSError as error:
                fault = f"is in a file that cannot be read ({error.strerror})"
            # A memory that was replaced or deleted while it was read is sound.
            yield key, fault if fault and queries.payload_digests([key]).get(key) == digest else None


def _incomplete(spans: Sequence[Span], text: bytes | None) -> str | None:
    """What is wrong with a document's passages (number, first byte, end): only blanks may be in none of them."""
    if not spans:
        return "it has no passages, so it cannot be found"
    covered = 0
    for place, (n, start, end) in enumerate(spans):
        if n != place or (text is not None and text[covered:start].decode(errors="replace").strip()):
            return "some of its passages are missing"
        covered = max(covered, end)
    rest = b"" if text is None else text[covered:]
    return "some of its passages are missing" if rest.decode(errors="replace").strip() else None


def _labels(metadata: str) -> dict[str, object]:
    given = json.loads(metadata)
    return {key: label_value(value) for key, value in given.items() if is_filterable(value)}
