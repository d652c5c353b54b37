"""What a bank reads from its ledger."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from hashlib import sha256
from typing import Any, TypeVar

import numpy as np

from cmt_memory.bank.database import Database
from cmt_memory.bank.filters import Condition, to_sql
from cmt_memory.bank.records import RETRIEVAL, DocumentInfo, PassageRow, Vector, VectorTable
from cmt_memory.bank.statements import read_meta
from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError, StoreCorruptError

T = TypeVar("T")

_CHUNK = 500
_WORDS = "words"
# Documents whose time has come are gone for every reader, before the next write removes them.
_LIVE = "(d.expires IS NULL OR d.expires > cmt_now())"
_DOCUMENT = "d.id, d.sha256, d.text, d.metadata"
LACKING = (
    "SELECT p.document, p.key, p.n_tokens FROM passages p JOIN documents d ON d.key = p.document LEFT JOIN payloads y "
    f"ON y.passage = p.key AND y.generation = ? WHERE y.passage IS NULL AND {_LIVE}"
)
_EXPIRED = "SELECT key FROM documents WHERE expires <= cmt_now()"


class Queries:
    """Every question to the ledger, in SQL whose values are always bound.

    Args:
        database: The open ledger file.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self.keep_text = False
        """Whether every document has a text, so that one without is damaged."""

    def _all(self, sql: str, values: Sequence[Any] = (), pool: str = "rows") -> list[tuple[Any, ...]]:
        with self._database.read(pool) as connection:
            return connection.execute(sql, values).fetchall()

    @property
    def _current(self) -> str:
        return f"generation = {self._database.generation}"

    def changes(self) -> int:
        """Number of commits so far, by any process."""
        return int(self._all("SELECT changes FROM counters")[0][0])

    def generation(self) -> int:
        """Which payloads count now."""
        return int(self._all("SELECT generation FROM counters")[0][0])

    def meta(self, key: str) -> Any:
        """A setting of the store, or None."""
        with self._database.read() as connection:
            return read_meta(connection, key)

    def asset(self, name: str) -> bytes | None:
        """Bytes kept under a name, or None.

        Raises:
            StoreCorruptError: They are not the bytes that were kept.
        """
        rows = self._all("SELECT sha256, data FROM assets WHERE name = ?", (name,))
        if rows and sha256(rows[0][1]).digest() != rows[0][0]:
            raise StoreCorruptError(f"the asset {name!r} of the store is damaged; restore the folder from a copy.")
        return bytes(rows[0][1]) if rows else None

    # -- documents ------------------------------------------------------------------------------------------

    def count_documents(self) -> int:
        """Number of documents."""
        return int(self._all(f"SELECT documents - (SELECT count(*) FROM ({_EXPIRED})) FROM counters")[0][0])

    def has_rows(self) -> bool:
        """Whether the ledger holds any document, an expired one included."""
        return bool(self._all("SELECT documents FROM counters")[0][0])

    def has_expired(self) -> bool:
        """Whether a document has expired that is still on disk."""
        return bool(self._all(f"{_EXPIRED} LIMIT 1"))

    def has_expiry(self) -> bool:
        """Whether any document has a time to live."""
        return bool(self._all("SELECT 1 FROM documents WHERE expires IS NOT NULL LIMIT 1"))

    def expired_passages(self) -> set[int]:
        """Keys of the passages whose document has expired and is still on disk."""
        return {row[0] for row in self._all(f"SELECT key FROM passages WHERE document IN ({_EXPIRED})")}

    def ids(self, limit: int | None = None, offset: int = 0, condition: Condition | None = None) -> list[str]:
        """Ids of the documents that pass a condition, in the order in which they were first added."""
        test, values = _test(condition)
        rows = self._all(
            f"SELECT d.id FROM documents d WHERE {_LIVE} AND {test} ORDER BY d.key LIMIT ? OFFSET ?",
            (*values, -1 if limit is None else limit, offset),
        )
        return [row[0] for row in rows]

    def known(self, ids: Sequence[str]) -> set[str]:
        """Those of the ids that there are."""
        return {row[0] for row in self._in(f"SELECT d.id FROM documents d WHERE {_LIVE} AND d.id IN (%s)", ids)}

    def documents(self, ids: Sequence[str]) -> dict[str, Document]:
        """Documents by id, without the unknown ones; texts are empty where none are kept.

        Raises:
            StoreCorruptError: A text is not what was kept.
        """
        rows = self._in(f"SELECT {_DOCUMENT} FROM documents d WHERE {_LIVE} AND d.id IN (%s)", ids)
        return {row[0]: self._document(*row) for row in rows}

    def matching(self, condition: Condition | None, limit: int | None, offset: int) -> list[Document]:
        """Documents whose metadata passes a filter, in the order in which they were first added.

        Raises:
            StoreCorruptError: A text is not what was kept.
        """
        test, values = _test(condition)
        rows = self._all(
            f"SELECT {_DOCUMENT} FROM documents d WHERE {_LIVE} AND {test} ORDER BY d.key LIMIT ? OFFSET ?",
            (*values, -1 if limit is None else limit, offset),
        )
        return [self._document(*row) for row in rows]

    def _document(self, id: str, digest: bytes, text: bytes, metadata: str) -> Document:
        return Document(self._checked(id, digest, text).decode(), _metadata(id, metadata), id)

    def contents(self, ids: Sequence[str]) -> dict[str, tuple[bytes, str]]:
        """The sha256 of the text and the metadata's canonical JSON, by id."""
        rows = self._in(f"SELECT d.id, d.sha256, d.metadata FROM documents d WHERE {_LIVE} AND d.id IN (%s)", ids)
        return {row[0]: (row[1], row[2]) for row in rows}

    def infos(self, ids: Sequence[str]) -> dict[str, DocumentInfo]:
        """Sizes and dates by id, without the unknown ones."""
        rows = self._in(
            "SELECT d.id, d.characters, d.bytes, count(p.key), sum(p.n_tokens), coalesce(sum(y.bytes), 0), "
            "d.created, d.updated, d.expires, d.metadata FROM documents d "
            "LEFT JOIN passages p ON p.document = d.key LEFT JOIN payloads y ON y.passage = p.key "
            f"AND y.{self._current} WHERE {_LIVE} AND d.id IN (%s) GROUP BY d.key",
            ids,
        )
        found: list[tuple[Any, ...]] = [(*row[:-1], _metadata(row[0], row[-1])) for row in rows]
        return {row[0]: DocumentInfo(*row) for row in found}

    # -- passages -------------------------------------------------------------------------------------------

    def passages(self, keys: Sequence[int]) -> dict[int, PassageRow]:
        """Passages by key, without those that are gone.

        Raises:
            StoreCorruptError: The text of a document is not what was kept.
        """
        found: dict[int, PassageRow] = {}
        with self._database.read() as connection:
            for _, some in chunks(keys):
                marks = ",".join("?" * len(some))
                rows = connection.execute(
                    'SELECT p.key, p.document, p.n, p.start, p."end", p.n_tokens, p.byte_start, p.byte_end '
                    f"FROM passages p WHERE p.key IN ({marks})",
                    some,
                ).fetchall()
                documents = connection.execute(
                    f"SELECT d.key, d.id, d.sha256, d.text, d.metadata FROM documents d WHERE {_LIVE} "
                    f"AND d.key IN (SELECT document FROM passages WHERE key IN ({marks}))",
                    some,
                )
                texts = {row[0]: (row[1], self._checked(*row[1:4]), row[4]) for row in documents}
                for key, document, n, start, end, n_tokens, *place in rows:
                    if document in texts:
                        id, text, metadata = texts[document]
                        piece = text[slice(*place)].decode()
                        found[key] = PassageRow(key, id, n, start, end, n_tokens, piece, _metadata(id, metadata))
        return found

    def names(self, keys: Sequence[int]) -> dict[int, tuple[str, int]]:
        """The document's id and the passage's number for passages, without those that are gone."""
        rows = self._in(
            "SELECT p.key, d.id, p.n FROM passages p JOIN documents d ON d.key = p.document WHERE p.key IN (%s)", keys
        )
        return {row[0]: (row[1], row[2]) for row in rows}

    def metadata_of(self, keys: Sequence[int], *, expired: bool = False) -> dict[int, dict[str, Any]]:
        """The document's metadata for passages, without those that are gone; the expired ones are, unless asked for."""
        rows = self._in(
            "SELECT p.key, d.id, d.metadata FROM passages p JOIN documents d ON d.key = p.document "
            f"WHERE {'1' if expired else _LIVE} AND p.key IN (%s)",
            keys,
        )
        return {row[0]: _metadata(row[1], row[2]) for row in rows}

    def passage_keys(self, passage_ids: Sequence[str]) -> list[int]:
        """Keys of passages ``"<document id>#<n>"``, in the order asked for.

        Raises:
            InvalidInputError: One is unknown.
        """
        names = [passage_id.rpartition("#") for passage_id in passage_ids]
        rows = self._in(
            "SELECT d.id, p.n, p.key FROM documents d JOIN passages p ON p.document = d.key "
            f"WHERE {_LIVE} AND d.id IN (%s)",
            list(dict.fromkeys(id for id, _, _ in names)),
        )
        found = {f"{id}#{n}": key for id, n, key in rows}
        unknown = [passage_id for passage_id in passage_ids if passage_id not in found]
        if unknown:
            raise InvalidInputError(f"unknown passages {unknown[:10]}; a passage is named '<document id>#<n>'.")
        return [found[passage_id] for passage_id in passage_ids]

    def is_passage(self, passage_id: str) -> bool:
        """Whether there is a passage of this id."""
        id, _, n = passage_id.rpartition("#")
        sql = (
            "SELECT 1 FROM documents d JOIN passages p ON p.document = d.key "
            f"WHERE {_LIVE} AND d.id = ? AND CAST(p.n AS TEXT) = ?"
        )
        return bool(self._all(sql, (id, n)))

    def passages_of(self, ids: Sequence[str]) -> dict[str, list[int]]:
        """Keys of the passages of documents, in their order in the text."""
        rows = self._in(
            "SELECT d.id, p.key FROM documents d JOIN passages p ON p.document = d.key "
            f"WHERE {_LIVE} AND d.id IN (%s) ORDER BY d.key, p.n",
            ids,
        )
        found: dict[str, list[int]] = {}
        for id, key in rows:
            found.setdefault(id, []).append(key)
        return found

    def count_passages(self) -> int:
        """Number of passages."""
        gone = f"SELECT count(*) FROM passages WHERE document IN ({_EXPIRED})"
        return int(self._all(f"SELECT passages - ({gone}) FROM counters")[0][0])

    def payloads(self, keys: Sequence[int]) -> dict[int, tuple[bytes, bytes | None]]:
        """The sha256 of each payload and the payload itself, None where it is in a file."""
        rows = self._in(f"SELECT passage, sha256, data FROM payloads WHERE {self._current} AND passage IN (%s)", keys)
        return {row[0]: (row[1], row[2]) for row in rows}

    def payload_digests(self, keys: Sequence[int]) -> dict[int, bytes]:
        """The sha256 of each payload."""
        rows = self._in(f"SELECT passage, sha256 FROM payloads WHERE {self._current} AND passage IN (%s)", keys)
        return {row[0]: row[1] for row in rows}

    def without_vector(self) -> list[int]:
        """Keys of the passages that no encoder has read yet."""
        return [row[0] for row in self._all("SELECT key FROM passages WHERE indexed IS NULL ORDER BY key")]

    def without_payload(self) -> list[int]:
        """Keys of the passages that are not compressed yet."""
        return [key for _, key, _ in self.lacking(self._database.generation)]

    def lacking(self, generation: int) -> list[tuple[int, int, int]]:
        """Document, key and tokens of each passage without a payload of a generation, documents together."""
        return [(row[0], row[1], row[2]) for row in self._all(f"{LACKING} ORDER BY p.document, p.n", (generation,))]

    def work_on(self, keys: Sequence[int]) -> list[tuple[int, int, int]]:
        """Document, key and tokens of passages, as `lacking` gives them."""
        rows = self._in("SELECT document, key, n_tokens FROM passages WHERE key IN (%s)", keys)
        return sorted((row[0], row[1], row[2]) for row in rows)

    def without_payload_in(self, ids: Sequence[str]) -> list[int]:
        """Keys of the passages of documents that are not compressed yet."""
        rows = self._in(
            "SELECT p.key FROM documents d JOIN passages p ON p.document = d.key LEFT JOIN payloads y "
            f"ON y.passage = p.key AND y.{self._current} WHERE y.passage IS NULL AND {_LIVE} AND d.id IN (%s)",
            ids,
        )
        return [row[0] for row in rows]

    # -- index ----------------------------------------------------------------------------------------------

    def count_vectors(self, table: VectorTable = RETRIEVAL) -> int:
        """Number of passages with a vector."""
        return int(self._all(f"SELECT count(indexed) FROM {table.flags}")[0][0])

    def parts(self, size: int, table: VectorTable = RETRIEVAL) -> list[int]:
        """Which ranges of ``size`` keys have a passage that the index has confirmed."""
        sql = f"SELECT min({table.key}) FROM {table.flags} WHERE indexed = 1 AND {table.key} >= ?"
        found = list[int]()
        while (first := self._all(sql, [size * (found[-1] + 1) if found else 0])[0][0]) is not None:
            found.append(first // size)
        return found

    def counts(self, size: int, table: VectorTable = RETRIEVAL) -> dict[int, int]:
        """Number of passages with a vector in each range of ``size`` keys that has any."""
        sql = f"SELECT count(indexed) FROM {table.flags} WHERE {table.key} >= ? AND {table.key} < ?"
        with self._database.read() as connection:
            (last,) = connection.execute(f"SELECT max({table.key}) FROM {table.flags}").fetchone()
            found = {
                part: int(connection.execute(sql, (part * size, (part + 1) * size)).fetchone()[0])
                for part in range(0 if last is None else last // size + 1)
            }
        return {part: count for part, count in found.items() if count}

    def to_index(self, table: VectorTable = RETRIEVAL) -> list[int]:
        """Keys that the index has not confirmed."""
        rows = self._all(f"SELECT {table.key} FROM {table.flags} WHERE indexed = 0 ORDER BY {table.key}")
        return [row[0] for row in rows]

    def with_vector(self, table: VectorTable = RETRIEVAL) -> list[int]:
        """Keys of the passages that belong into the index."""
        rows = self._all(f"SELECT {table.key} FROM {table.flags} WHERE indexed IS NOT NULL ORDER BY {table.key}")
        return [row[0] for row in rows]

    def without_memory_vector(self) -> list[int]:
        """Keys of the passages whose memory counts but has no vector of its own yet."""
        have = "SELECT passage FROM memory_vectors"
        rows = self._all(f"SELECT passage FROM payloads WHERE {self._current} AND passage NOT IN ({have})")
        return sorted(row[0] for row in rows)

    def stale(self, table: VectorTable = RETRIEVAL) -> list[int]:
        """Keys that the index may still hold though the ledger has dropped them."""
        return [row[0] for row in self._all(f"SELECT passage FROM {table.stale} ORDER BY passage")]

    def vectors(self, keys: Sequence[int], table: VectorTable = RETRIEVAL) -> tuple[list[int], Vector]:
        """The keys that have a vector and their vectors ``[n, dims]``."""
        rows = self._in(f"SELECT passage, vector FROM {table.name} WHERE passage IN (%s)", keys)
        return [row[0] for row in rows], stack([row[1] for row in rows])

    def matching_vectors(self, condition: Condition | None, table: VectorTable = RETRIEVAL) -> tuple[list[int], Vector]:
        """Keys and vectors of all passages whose document passes a filter."""
        sql, values = f"SELECT v.passage, v.vector FROM {table.name} v", list[Any]()
        if condition is not None:
            test, values = to_sql(condition, "p.document")
            sql += f" JOIN passages p ON p.key = v.passage WHERE {test}"
        rows = self._all(sql, values)
        return [row[0] for row in rows], stack([row[1] for row in rows])

    # -- words ----------------------------------------------------------------------------------------------

    def search_words(self, words: Sequence[str], limit: int, condition: Condition | None) -> list[tuple[int, float]]:
        """Passages with any of the words, best BM25 first, with that value (higher is better)."""
        sql = "SELECT lexicon.rowid, -lexicon.rank FROM lexicon"
        values: list[Any] = []
        test = ""
        if condition is not None:
            sql += " CROSS JOIN passages p ON p.key = lexicon.rowid"
            test, values = to_sql(condition, "p.document")
            test = f" AND {test}"
        gone = f"SELECT key FROM passages WHERE document IN ({_EXPIRED})"
        sql += f" WHERE lexicon MATCH ?{test} AND lexicon.rowid NOT IN ({gone}) ORDER BY lexicon.rank LIMIT ?"
        return [(row[0], row[1]) for row in self._all(sql, (_any_of(words), *values, limit), _WORDS)]

    def word_counts(self, words: Sequence[str], most: int | None = None) -> dict[str, int]:
        """In how many passages each word occurs; words in none are left out.

        Counting walks the passages: of a word in more than ``most``, the first that many are walked, and the rest is
        as frequent.
        """
        if most is None:
            sql = "SELECT term, doc FROM lexicon_terms WHERE term IN (%s)"
            return {row[0]: row[1] for row in self._in(sql, words, _WORDS)}
        sql = "SELECT count(*), max(rowid) FROM (SELECT rowid FROM lexicon WHERE lexicon MATCH ? LIMIT ?)"
        found: dict[str, int] = {}
        with self._database.read(_WORDS) as connection:
            (last,) = connection.execute("SELECT max(key) FROM passages").fetchone()
            for word in words:
                count, reached = connection.execute(sql, (_any_of([word]), most + 1)).fetchone()
                if count:
                    found[word] = count if count <= most else max(count, round(count * last / reached))
        return found

    def frequent_words(self, least: int) -> dict[str, int]:
        """The words in at least so many passages, with that number; walks the whole lexicon, until a close."""
        found: dict[str, int] = {}
        with self._database.read(_WORDS) as connection:
            for word, count in connection.execute("SELECT term, doc FROM lexicon_terms"):
                if count >= least:
                    found[word] = count
                self._database.check_open()
        return found

    # -- sizes ----------------------------------------------------------------------------------------------

    def totals(self) -> dict[str, int]:
        """Documents, passages, tokens, bytes of the texts and of the payloads."""
        gone = f"SELECT key FROM passages WHERE document IN ({_EXPIRED})"
        with self._database.read() as connection:
            documents, text_bytes = connection.execute(
                f"SELECT count(*), total(d.bytes) FROM documents d WHERE {_LIVE}"
            ).fetchone()
            passages, tokens = connection.execute(
                f"SELECT count(*), total(n_tokens) FROM passages WHERE document NOT IN ({_EXPIRED})"
            ).fetchone()
            (vector_bytes,) = connection.execute("SELECT total(length(vector)) FROM memory_vectors").fetchone()
            payloads, payload_bytes = connection.execute(
                f"SELECT count(*), total(bytes) FROM payloads WHERE {self._current} AND passage NOT IN ({gone})"
            ).fetchone()
        return {
            "documents": documents,
            "passages": passages,
            "memories": payloads,
            "waiting": passages - payloads,
            "tokens": int(tokens),
            "text_bytes": int(text_bytes),
            "payload_bytes": int(payload_bytes),
            "memory_vector_bytes": int(vector_bytes),
        }

    def _checked(self, id: str, digest: bytes, text: bytes | None) -> bytes:
        """A document's text as it was kept, empty where none was."""
        if self.keep_text if text is None else sha256(text).digest() != digest:
            raise StoreCorruptError(f"the text of the document {id!r} is damaged; delete it and add it again.")
        return text or b""

    def _in(self, sql: str, values: Sequence[Any], pool: str = "rows") -> Iterable[tuple[Any, ...]]:
        """Run a statement with ``IN (%s)`` for any number of values, all on the same commit."""
        if len(values) <= _CHUNK:
            return self._all(sql % ",".join("?" * len(values)), values, pool)
        rows: list[tuple[Any, ...]] = []
        with self._database.read(pool) as connection:
            for _, some in chunks(values):
                rows += connection.execute(sql % ",".join("?" * len(some)), some)
        return rows


def _any_of(words: Sequence[str]) -> str:
    """A query of the lexicon for passages with any of the words."""
    return " OR ".join('"' + word.replace('"', '""').replace("\0", " ") + '"' for word in words)


def _test(condition: Condition | None) -> tuple[str, list[Any]]:
    """SQL for whether a document `d` passes a condition, with its values."""
    return ("1", []) if condition is None else to_sql(condition, "d.key")


def _metadata(id: str, text: str) -> dict[str, Any]:
    try:
        metadata: dict[str, Any] = json.loads(text)
    except ValueError as error:
        raise StoreCorruptError(
            f"the metadata of the document {id!r} is damaged ({error}); delete it and add it again."
        ) from error
    return metadata


def chunks(values: Sequence[T]) -> Iterator[tuple[int, Sequence[T]]]:
    """The values, some hundreds at a time, each time with the number of those before."""
    for start in range(0, len(values), _CHUNK):
        yield start, values[start : start + _CHUNK]


def stack(blobs: Sequence[bytes]) -> Vector:
    """Vectors kept as blobs, as one matrix ``[n, dims]``."""
    return np.frombuffer(b"".join(blobs), dtype="<f4").reshape(len(blobs), -1 if blobs else 0)
