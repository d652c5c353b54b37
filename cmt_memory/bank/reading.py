"""What can be asked of a bank, by writers and readers alike."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cmt_memory.bank.exact import ExactSearch, cosine
from cmt_memory.bank.filters import ID, Condition, holds, names_ids, to_chroma
from cmt_memory.bank.ledger import REPLACED, Ledger
from cmt_memory.bank.queries import Queries
from cmt_memory.bank.records import MEMORY, RETRIEVAL, DocumentInfo, PassageRow, Vector
from cmt_memory.bank.sync import SyncedIndex
from cmt_memory.bank.verification import Verification, VerifyReport, check_memories
from cmt_memory.documents import Document, metadata_json
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError, StoreCorruptError

if TYPE_CHECKING:
    from cmt_memory.model.memory import Memory

Change = Literal["new", "same", "metadata", "text"]

INDEX_FOLDER = "chroma"
MEMORY_FOLDER = "chroma-memory"
_OVERFETCH = 4


class BankReader:
    """Documents, passages, memories and searches of an open bank.

    Args:
        path: Folder of the bank.
        ledger: Its ledger.
    """

    def __init__(self, path: Path, ledger: Ledger) -> None:
        self.path = path
        self.keep_text = True
        self._ledger = ledger
        self._index: SyncedIndex | None = None
        self._queries = Queries(ledger.database)
        self._memory_index: SyncedIndex | None = None
        self._exact = ExactSearch(self._queries, RETRIEVAL)
        self._exact_memories = ExactSearch(self._queries, MEMORY)

    # -- documents ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of documents."""
        return self._queries.count_documents()

    def ids(self, limit: int | None = None, offset: int = 0, condition: Condition | None = None) -> list[str]:
        """Ids of the documents that pass a condition, in the order in which they were first added."""
        return self._queries.ids(limit, offset, condition)

    def contains(self, ids: Iterable[str]) -> set[str]:
        """Those of the ids that are in the bank."""
        return self._queries.known(list(ids))

    def get(self, ids: Iterable[str]) -> list[Document]:
        """Documents in the order asked for; unknown ids are left out, as Chroma and LangChain do.

        The text is empty in a bank that keeps none.
        """
        wanted = list(ids)
        found = self._queries.documents(wanted)
        return [found[id] for id in wanted if id in found]

    def matching(self, condition: Condition | None, limit: int | None = None, offset: int = 0) -> list[Document]:
        """Documents whose metadata passes what ``filters.parse`` made of a filter, in the order of first adding."""
        return self._queries.matching(condition, limit, offset)

    def infos(self, ids: Iterable[str]) -> list[DocumentInfo]:
        """Sizes, dates and metadata without the text, in the order asked for; unknown ids are left out."""
        wanted = list(ids)
        found = self._queries.infos(wanted)
        return [found[id] for id in wanted if id in found]

    def compare(self, documents: Sequence[Document]) -> list[Change]:
        """What putting each document would change: ``new``, ``same``, only the ``metadata``, or the ``text``.

        Works without kept texts too.
        """
        known = self._queries.contents([str(document.id) for document in documents])
        return [_change(document, known.get(str(document.id))) for document in documents]

    # -- passages and memories ------------------------------------------------------------------------------

    def passages(self, keys: Sequence[int]) -> dict[int, PassageRow]:
        """Passages by key, without those that are gone."""
        return self._queries.passages(keys)

    def passage_ids(self, ids: Sequence[str]) -> list[str]:
        """Ids of all passages of documents, in order.

        Raises:
            InvalidInputError: Some ids are unknown.
        """
        self._check_known(ids)
        found = self._queries.passages_of(ids)
        return [f"{id}#{n}" for id in ids for n in range(len(found[id]))]

    def is_passage(self, id: str) -> bool:
        """Whether an id names a passage, ``"<document id>#<n>"``, that there is."""
        return self._queries.is_passage(id)

    def passages_by_id(self, passage_ids: Sequence[str]) -> list[PassageRow]:
        """Passages in the order asked for.

        Raises:
            InvalidInputError: One is unknown.
        """
        keys = self._queries.passage_keys(passage_ids)
        rows = self._queries.passages(keys)
        for passage_id, key in zip(passage_ids, keys, strict=True):
            if key not in rows:
                raise InvalidInputError(f"the passage {passage_id!r} was deleted while it was read.")
        return [rows[key] for key in keys]

    def vectors(self, passage_ids: Sequence[str]) -> Vector:
        """The retrieval vectors ``[n, dims]`` of passages, in the order asked for.

        Raises:
            InvalidInputError: A passage is unknown or has none.
        """
        keys = self._queries.passage_keys(passage_ids)
        found, matrix = self._queries.vectors(list(dict.fromkeys(keys)))
        places = {key: place for place, key in enumerate(found)}
        missing = [id for id, key in zip(passage_ids, keys, strict=True) if key not in places]
        if missing:
            raise InvalidInputError(f"the passages {missing[:10]} have no retrieval vector; the store has no encoder.")
        return matrix[[places[key] for key in keys]]

    def text_digests(self, ids: Sequence[str]) -> dict[str, str]:
        """The sha256 of the text of each document there is, by id; without kept texts too."""
        return {id: digest.hex() for id, (digest, _) in self._queries.contents(list(ids)).items()}

    def payloads(self, passage_ids: Sequence[str]) -> list[Memory]:
        """The memories of passages, in the order asked for.

        Raises:
            InvalidInputError: A passage is unknown or not compressed yet.
            FingerprintMismatchError: The memories were made anew by another model since the bank was opened.
            StoreCorruptError: A memory is not what was stored; the message names the passage.
        """
        from cmt_memory.bank.codec import decode_memory

        keys = self._queries.passage_keys(passage_ids)
        stored = self._queries.payloads(keys)
        memories: dict[int, Memory] = {}
        for passage_id, key in zip(passage_ids, keys, strict=True):
            if key not in stored:
                self._check_generation()
                raise InvalidInputError(f"the passage {passage_id!r} is not compressed yet.")
            if key not in memories:
                payload = self._payload(passage_id, key, *stored[key])
                if payload is None:
                    return self.payloads(passage_ids)
                memories[key] = decode_memory(payload)
        return [memories[key] for key in keys]

    def payload_digests(self, passage_ids: Sequence[str]) -> list[str]:
        """The sha256 of each passage's memory, in the order asked for, without reading it.

        Raises:
            InvalidInputError: A passage is unknown or not compressed yet.
            FingerprintMismatchError: The memories were made anew by another model since the bank was opened.
        """
        keys = self._queries.passage_keys(passage_ids)
        stored = self._queries.payload_digests(keys)
        for passage_id, key in zip(passage_ids, keys, strict=True):
            if key not in stored:
                self._check_generation()
                raise InvalidInputError(f"the passage {passage_id!r} is not compressed yet.")
        return [stored[key].hex() for key in keys]

    def uncompressed(self, passage_ids: Sequence[str] | None = None) -> list[int]:
        """Keys of the passages that have no memory yet, among those named or all.

        Raises:
            InvalidInputError: A passage is unknown.
            FingerprintMismatchError: The memories were made anew by another model since the bank was opened.
        """
        if passage_ids is None:
            waiting = self._queries.without_payload()
        else:
            keys = list(dict.fromkeys(self._queries.passage_keys(passage_ids)))
            done = self._queries.payload_digests(keys)
            waiting = [key for key in keys if key not in done]
        if waiting:
            self._check_generation()
        return waiting

    def lacking(self) -> list[tuple[int, int, int]]:
        """Document, key and tokens of each passage that has no memory yet, documents together."""
        return self._queries.lacking(self.generation)

    def faulty(self) -> list[tuple[int, int, int]]:
        """Document, key and tokens of each passage whose memory is damaged; reads all of them."""
        keys = [key for key, fault in check_memories(self._ledger, self._queries) if fault]
        return self._queries.work_on(keys)

    @property
    def generation(self) -> int:
        """How often another model had made the memories anew when the bank was opened, or here since."""
        return self._ledger.database.generation

    def uncompressed_in(self, ids: Sequence[str]) -> list[int]:
        """Keys of the passages of documents, by document id, that have no memory yet."""
        return self._queries.without_payload_in(ids)

    def passage_keys(self, passage_ids: Sequence[str]) -> list[int]:
        """Keys of passages by id, in the order asked for.

        Raises:
            InvalidInputError: One is unknown.
        """
        return self._queries.passage_keys(passage_ids)

    def has_expiry(self) -> bool:
        """Whether any document has a time to live."""
        return self._queries.has_expiry()

    # -- search ---------------------------------------------------------------------------------------------

    def search_vectors(self, vector: Vector, k: int, condition: Condition | None = None) -> list[tuple[int, float]]:
        """The nearest passages with their cosine, nearest first.

        Args:
            vector: ``[dims]`` float32, normalised.
            k: Most passages to return.
            condition: What ``filters.parse`` made of a filter.

        Returns:
            Passage keys and cosines; fewer than ``k`` only where no more pass the filter.

        Raises:
            InvalidInputError: The vector holds NaN.
        """
        return self._search(self._index, self._exact, vector, k, condition)

    def search_memories(self, vector: Vector, k: int, condition: Condition | None = None) -> list[tuple[int, float]]:
        """As `search_vectors`, over the memories' own vectors."""
        return self._search(self._memory_index, self._exact_memories, vector, k, condition)

    def _search(
        self, index: SyncedIndex | None, exact: ExactSearch, vector: Vector, k: int, condition: Condition | None
    ) -> list[tuple[int, float]]:
        check_finite(vector, "the question's vector")
        size = self.count_passages()
        k = min(k, size)
        if index is None or not k:
            return exact.search(vector, k, condition) if k else []
        where = None if condition is None else to_chroma(condition)
        for limit in (k + _OVERFETCH, _OVERFETCH * k, _OVERFETCH**3 * k):
            limit = min(limit, size + _OVERFETCH)
            found = index.query(vector, limit, where)
            if found is None:
                break
            alive = self._labels([key for key, _ in found], condition)
            kept = [
                (key, cosine)
                for key, cosine in found
                if key in alive and (condition is None or holds(condition, alive[key]))
            ]
            if len(kept) >= k:
                return kept[:k]
            if len(found) < limit:
                break
        return exact.search(vector, k, condition)

    def _labels(self, keys: Sequence[int], condition: Condition | None) -> dict[int, dict[str, Any]]:
        """What conditions are evaluated on, for passages that are there."""
        alive = self._queries.metadata_of(keys)
        if condition is None or not names_ids(condition):
            return alive
        names = self._queries.names(list(alive))
        return {key: {**metadata, ID: names[key][0]} for key, metadata in alive.items() if key in names}

    def search_words(self, words: Sequence[str], k: int, condition: Condition | None = None) -> list[tuple[int, float]]:
        """Passages with any of the words, best first, with their BM25 value (higher is better).

        Args:
            words: Words as the lexicon's tokenizer makes them.
            k: Most passages to return.
            condition: What ``filters.parse`` made of a filter.
        """
        return self._queries.search_words(words, min(k, self.count_passages()), condition) if words else []

    def word_counts(self, words: Sequence[str], most: int | None = None) -> dict[str, int]:
        """In how many passages each word occurs; words in none are left out.

        Args:
            words: Words as the lexicon's tokenizer makes them.
            most: Estimate the count of a word that is in more passages than this from the first that many.
        """
        return self._queries.word_counts(words, most)

    def frequent_words(self, least: int) -> dict[str, int]:
        """The words in at least so many passages, with that number; seconds in a large bank.

        Raises:
            StoreClosedError: The bank was closed, also meanwhile.
        """
        return self._queries.frequent_words(least)

    def count_passages(self) -> int:
        """Number of passages."""
        return self._queries.count_passages()

    def count_unindexed_memories(self) -> int:
        """Number of memories that have no vector of their own."""
        return len(self._queries.without_memory_vector())

    def cosines(self, vector: Vector, keys: Sequence[int]) -> dict[int, float]:
        """Cosine of a question's vector with the vectors of passages, computed from the ledger."""
        if not keys:
            return {}
        found, matrix = self._queries.vectors(keys)
        return dict(zip(found, cosine(matrix, vector).tolist(), strict=True)) if found else {}

    # -- settings and sizes ---------------------------------------------------------------------------------

    @property
    def encoder(self) -> dict[str, Any] | None:
        """``id`` and ``dimension`` of the retrieval encoder the vectors were made with, or None."""
        encoder: dict[str, Any] | None = self.meta("encoder")
        return encoder

    def meta(self, key: str) -> Any:
        """A JSON setting of the store, or None."""
        return self._queries.meta(key)

    def asset(self, name: str) -> bytes | None:
        """Bytes that belong to the store, or None."""
        return self._queries.asset(name)

    def changes(self) -> int:
        """Number of commits so far, by any process: equal numbers mean an equal bank."""
        return self._queries.changes()

    def stats(self) -> dict[str, Any]:
        """Counts and sizes.

        Returns:
            ``documents``, ``passages``, ``memories`` (passages that are compressed), ``waiting`` (those that
            are not yet), ``tokens``, ``text_bytes`` (UTF-8), ``payload_bytes``, ``memory_vector_bytes`` (of
            the memories' own vectors, in the ledger), ``disk_bytes`` by part (``ledger``, ``payloads``,
            ``index``, ``memory_index``, ``total``), ``bytes_per_document`` and ``bytes_over_text`` (bytes on
            disk per byte of text), both None for an empty bank.
        """
        totals = self._queries.totals()
        disk = {
            "ledger": sum(_size(path) for path in self.path.glob("ledger.sqlite3*")),
            "payloads": _size(self.path / "payloads"),
            "index": _size(self.path / INDEX_FOLDER),
            "memory_index": _size(self.path / MEMORY_FOLDER),
        }
        disk["total"] = sum(disk.values())
        documents, text = totals["documents"], totals["text_bytes"]
        return {
            **totals,
            "disk_bytes": disk,
            "bytes_per_document": disk["total"] / documents if documents else None,
            "bytes_over_text": disk["total"] / text if text else None,
        }

    def verify(self) -> VerifyReport:
        """Read everything and compare it with its digests, and the index with the ledger.

        A reader leaves the index and FTS5's check of the words out.
        """
        self._queries.generation()
        indexes = [index for index in (self._index, self._memory_index) if index is not None]
        return Verification(self._ledger, self._queries, indexes, keep_text=self.keep_text).run()

    def _check_known(self, ids: Sequence[str]) -> None:
        known = self._queries.known(ids)
        unknown = [id for id in ids if id not in known]
        if unknown:
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            raise InvalidInputError(f"unknown ids {unknown[:10]}{more}; nothing was changed.")

    def _check_generation(self) -> None:
        if self._queries.generation() != self.generation:
            raise FingerprintMismatchError(REPLACED)

    def _payload(self, passage_id: str, key: int, digest: bytes, data: bytes | None) -> bytes | bytearray | None:
        """The payload as it was kept; None where another thread or process has replaced or deleted it since."""
        fault = ""
        try:
            payload = self._ledger.files.read(digest) if data is None else data
            if sha256(payload).digest() == digest:
                return payload
        except OSError as error:
            if self._queries.payload_digests([key]).get(key) != digest:
                return None
            fault = f": its file cannot be read, {error.strerror}"
        raise StoreCorruptError(
            f"the memory of the passage {passage_id!r} is damaged{fault}; make it anew with `cmt-memory store "
            "recompress`, or delete its document and add it again."
        )


def check_finite(vectors: Vector, whose: str) -> None:
    """Refuse vectors with NaN or infinite values, to which nothing is near."""
    if not np.isfinite(vectors).all():
        raise InvalidInputError(f"{whose} has a vector with NaN or infinite values; use another encoder.")


def _change(document: Document, known: tuple[bytes, str] | None) -> Change:
    if known is None:
        return "new"
    if known[0] != sha256(document.text.encode()).digest():
        return "text"
    return "same" if known[1] == metadata_json(document.metadata) else "metadata"


def _size(path: Path) -> int:
    """Bytes of a file, or of all files under a folder."""
    try:
        return sum(_size(file) for file in path.iterdir()) if path.is_dir() else path.stat().st_size
    except FileNotFoundError:  # others may be writing
        return 0
