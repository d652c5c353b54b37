"""The bank: ledger, index and codec as one thing that knows no language model."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cmt_memory.bank.exact import ExactSearch, cosine
from cmt_memory.bank.filters import Condition, holds, to_chroma
from cmt_memory.bank.index import VectorIndex
from cmt_memory.bank.ledger import Ledger
from cmt_memory.bank.lock import FolderLock
from cmt_memory.bank.queries import Queries, chunks
from cmt_memory.bank.records import DocumentInfo, PassageRow, StoredDocument, Vector
from cmt_memory.bank.sync import SyncedIndex
from cmt_memory.documents import Document, metadata_json
from cmt_memory.errors import InvalidInputError, StoreCorruptError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI

    from cmt_memory.model.memory import Memory

Change = Literal["new", "same", "metadata", "text"]

_OVERFETCH = 4


class MemoryBank:
    """Documents, passages, vectors and memories in a folder.

    Every change is in the ledger before the index hears of it, and opening puts right what an interrupted
    process left. All methods may be called from several threads.

    Args:
        path: Folder of the bank; made if missing.
        read_only: Read beside a process that writes; the index is left alone and searches are exact.
        keep_text: Keep the texts, for BM25, for hits with text and for recompressing. Decided when the bank
            is made.
        client: A Chroma client that holds the index in place of ``path/chroma``, so that several processes of
            one machine can write.

    Raises:
        StoreLockedError: The folder is open for writing elsewhere.
        StoreCorruptError: The ledger cannot be read.
        InvalidInputError: The folder cannot be written, ``read_only`` and there is no bank, or
            ``keep_text=False`` and the bank keeps texts.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        keep_text: bool = True,
        client: ClientAPI | None = None,
    ) -> None:
        self.path = Path(path)
        self.read_only = read_only
        self.shared = client is not None
        self._pid = os.getpid()
        self._index: SyncedIndex | None = None
        with ExitStack() as opened:
            if not read_only:
                try:
                    self.path.mkdir(parents=True, exist_ok=True)
                    lock = FolderLock(self.path / "lock", shared=self.shared)
                except OSError as error:
                    raise InvalidInputError(
                        f"{self.path} cannot be written: {error.strerror}; give a folder that can, or read_only=True."
                    ) from error
                opened.callback(lock.release)
            self._ledger = Ledger(self.path, read_only=read_only)
            opened.callback(self._ledger.database.close)
            self._queries = Queries(self._ledger.database)
            self._exact = ExactSearch(self._queries)
            self.keep_text = self._settle_keep_text(keep_text)
            if not read_only:
                index = VectorIndex(self.path / "chroma", self._collection_name(), client)
                self._index = SyncedIndex(self._ledger, self._queries, index, lock)
                opened.callback(self._index.close)
                self._index.repair()
            self._opened = opened.pop_all()

    # -- changes --------------------------------------------------------------------------------------------

    def put(self, documents: Sequence[StoredDocument]) -> None:
        """Keep documents, each in place of the one with its id, in one transaction.

        When this returns, the documents are on disk and can be searched.

        Raises:
            InvalidInputError: A document has no passages, or a vector has not the bank's dimension or holds NaN;
                nothing was changed.
            StoreFullError: The disk has no room; the message says whether the documents are kept.
        """
        self._check_vectors(documents)
        self._ledger.put(documents, keep_text=self.keep_text)
        self._sync()

    def set_metadata(self, id: str, metadata: dict[str, Any]) -> None:
        """Replace a document's metadata; its memories stay as they are.

        Raises:
            InvalidInputError: The id is unknown.
        """
        self._check_known([id])
        self._ledger.set_metadata(id, metadata)
        self._sync()

    def delete(self, ids: Iterable[str]) -> None:
        """Delete documents with everything that belongs to them.

        Raises:
            InvalidInputError: Some ids are unknown; the message lists them and nothing was deleted.
        """
        distinct = list(dict.fromkeys(ids))
        self._check_known(distinct)
        self._ledger.delete(distinct)
        self._sync()

    def set_payloads(self, payloads: Sequence[tuple[str, bytes]]) -> None:
        """Give passages, by passage id, their memory or another one."""
        keys = self._queries.passage_keys([passage_id for passage_id, _ in payloads])
        self._ledger.set_payloads([(key, payload) for key, (_, payload) in zip(keys, payloads, strict=True)])

    def replace_encoder(
        self,
        id: str,
        dimension: int,
        encode: Callable[[list[str]], Vector],
        on_progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Make an encoder the bank's own: every passage without a vector by it gets one.

        Does nothing where all have one; after an interruption, calling it again goes on where it stopped.

        Args:
            id: Name of the encoder, kept as :attr:`encoder`.
            dimension: Numbers per vector.
            encode: Texts to vectors ``[n, dimension]``.
            on_progress: Called with the passages done and the passages to do.

        Raises:
            InvalidInputError: There are passages to encode and the bank keeps no text.
        """
        encoder = {"id": id, "dimension": dimension}
        changed = self.encoder != encoder
        if not self.keep_text and (self.count_passages() if changed else self._queries.without_vector()):
            raise InvalidInputError("this store keeps no text, so its vectors cannot be made by another encoder.")
        if changed:
            self._ledger.forget_vectors(encoder)
        missing = self._queries.without_vector()
        for done, some in chunks(missing):
            rows = self._queries.passages(some)
            vectors = np.asarray(encode([rows[key].text for key in some]), np.float32)
            _check_finite(vectors, f"the encoder {id}")
            self._ledger.set_vectors(list(zip(some, vectors, strict=True)))
            if on_progress is not None:
                on_progress(done + len(some), len(missing))
        self._sync()

    # -- documents ------------------------------------------------------------------------------------------

    def __len__(self) -> int:
        """Number of documents."""
        return self._queries.count_documents()

    def ids(self, limit: int | None = None, offset: int = 0) -> list[str]:
        """Ids of the documents in the order in which they were first added."""
        return self._queries.ids(limit, offset)

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
        return [rows[key] for key in keys]

    def payloads(self, passage_ids: Sequence[str]) -> list[Memory]:
        """The memories of passages, in the order asked for.

        Raises:
            InvalidInputError: A passage is unknown or not compressed yet.
            StoreCorruptError: A memory is not what was stored; the message names the passage.
        """
        from cmt_memory.bank.codec import decode_memory

        keys = self._queries.passage_keys(passage_ids)
        stored = self._queries.payloads(keys)
        memories: dict[int, Memory] = {}
        for passage_id, key in zip(passage_ids, keys, strict=True):
            if key not in stored:
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
        """
        keys = self._queries.passage_keys(passage_ids)
        stored = self._queries.payload_digests(keys)
        for passage_id, key in zip(passage_ids, keys, strict=True):
            if key not in stored:
                raise InvalidInputError(f"the passage {passage_id!r} is not compressed yet.")
        return [stored[key].hex() for key in keys]

    def uncompressed(self) -> list[str]:
        """Ids of the passages that have no memory yet."""
        rows = self._queries.passages(self._queries.without_payload())
        return [f"{row.document}#{row.n}" for row in rows.values()]

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
        _check_finite(vector, "the question's vector")
        size = self.count_passages()
        k = min(k, size)
        if self._index is None or not k:
            return self._exact.search(vector, k, condition) if k else []
        where = None if condition is None else to_chroma(condition)
        for limit in (k + _OVERFETCH, _OVERFETCH * k, _OVERFETCH**3 * k):
            limit = min(limit, size + _OVERFETCH)
            found = self._index.query(vector, limit, where)
            if found is None:
                break
            alive = self._queries.metadata_of([key for key, _ in found])
            kept = [
                (key, cosine)
                for key, cosine in found
                if key in alive and (condition is None or holds(condition, alive[key]))
            ]
            if len(kept) >= k:
                return kept[:k]
            if len(found) < limit:
                break
        return self._exact.search(vector, k, condition)

    def search_words(self, words: Sequence[str], k: int, condition: Condition | None = None) -> list[tuple[int, float]]:
        """Passages with any of the words, best first, with their BM25 value (higher is better).

        Args:
            words: Words as the lexicon's tokenizer makes them.
            k: Most passages to return.
            condition: What ``filters.parse`` made of a filter.
        """
        return self._queries.search_words(words, min(k, self.count_passages()), condition) if words else []

    def word_counts(self, words: Sequence[str]) -> dict[str, int]:
        """In how many passages each word occurs; words in none are left out."""
        return self._queries.word_counts(words)

    def count_passages(self) -> int:
        """Number of passages."""
        return self._queries.count_passages()

    def cosines(self, vector: Vector, keys: Sequence[int]) -> dict[int, float]:
        """Cosine of a question's vector with the vectors of passages, computed from the ledger."""
        if not keys:
            return {}
        found, matrix = self._queries.vectors(keys)
        return dict(zip(found, cosine(matrix, vector).tolist(), strict=True)) if found else {}

    # -- settings, sizes, end -------------------------------------------------------------------------------

    @property
    def encoder(self) -> dict[str, Any] | None:
        """``id`` and ``dimension`` of the retrieval encoder the vectors were made with, or None."""
        encoder: dict[str, Any] | None = self.meta("encoder")
        return encoder

    def meta(self, key: str) -> Any:
        """A JSON setting of the store, or None."""
        return self._queries.meta(key)

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON setting of the store."""
        self._ledger.set_meta(key, value)

    def settle_meta(self, key: str, value: Any, asset: bytes, *, anew: bool) -> Any:
        """Keep a setting and the asset that belongs to it, in one transaction.

        Args:
            key: Name of both.
            value: A JSON value.
            asset: Bytes.
            anew: Replace what there is; else what there is stays.

        Returns:
            The setting there is now.
        """
        return self._ledger.settle_meta(key, value, asset, anew=anew)

    def asset(self, name: str) -> bytes | None:
        """Bytes that belong to the store, or None."""
        return self._queries.asset(name)

    def set_asset(self, name: str, data: bytes) -> None:
        """Keep bytes that belong to the store, such as the PCA."""
        self._ledger.set_asset(name, data)

    def changes(self) -> int:
        """Number of commits so far, by any process: equal numbers mean an equal bank."""
        return self._queries.changes()

    def stats(self) -> dict[str, Any]:
        """Counts and sizes.

        Returns:
            ``documents``, ``passages``, ``memories`` (passages that are compressed), ``tokens``,
            ``text_bytes`` (UTF-8), ``payload_bytes``, ``disk_bytes`` by part (``ledger``, ``payloads``,
            ``index``, ``total``), ``bytes_per_document`` and ``bytes_over_text`` (bytes on disk per byte of
            text), both None for an empty bank.
        """
        totals = self._queries.totals()
        disk = {
            "ledger": sum(_size(path) for path in self.path.glob("ledger.sqlite3*")),
            "payloads": _size(self.path / "payloads"),
            "index": _size(self.path / "chroma"),
        }
        disk["total"] = sum(disk.values())
        documents, text = totals["documents"], totals["text_bytes"]
        return {
            **totals,
            "disk_bytes": disk,
            "bytes_per_document": disk["total"] / documents if documents else None,
            "bytes_over_text": disk["total"] / text if text else None,
        }

    def compact(self) -> None:
        """Give the space of deleted documents back; afterwards no file holds their text."""
        self._ledger.compact()

    def close(self) -> None:
        """Close files and let go of the folder; closing twice is fine, and in a forked child nothing happens.

        Everything else raises ``StoreClosedError`` from then on.
        """
        if os.getpid() == self._pid:
            self._opened.close()

    def check_open(self) -> None:
        """Raise ``StoreClosedError`` where the bank was closed, or opened before this process was forked."""
        self._ledger.database.check_open()

    def _check_known(self, ids: Sequence[str]) -> None:
        known = self._queries.known(ids)
        unknown = [id for id in ids if id not in known]
        if unknown:
            more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
            raise InvalidInputError(f"unknown ids {unknown[:10]}{more}; nothing was changed.")

    def _check_vectors(self, documents: Sequence[StoredDocument]) -> None:
        encoder = self.encoder
        sizes = {
            passage.vector.shape
            for document in documents
            for passage in document.passages
            if passage.vector is not None
        }
        expected = {(encoder["dimension"],)} if encoder else sizes
        if len(sizes) > 1 or not sizes <= expected:
            raise InvalidInputError(f"vectors of the shapes {sorted(sizes)}; expected {sorted(expected)}.")
        for document in documents:
            for passage in document.passages:
                if passage.vector is not None:
                    _check_finite(passage.vector, f"the document {document.id!r}")
            if not document.passages:
                raise InvalidInputError(f"the document {document.id!r} has no passages.")

    def _settle_keep_text(self, keep_text: bool) -> bool:
        """What the bank was made with; a new one is made with what is asked for."""
        stored = self._queries.meta("keep_text")
        if stored is None and not self.read_only:
            stored = self._ledger.settle_meta("keep_text", keep_text)
        elif not self.read_only and not self.shared and not self._queries.count_documents():
            self._ledger.set_meta("keep_text", keep_text)
            return keep_text
        if stored and not keep_text:
            raise InvalidInputError(f"{self.path} keeps texts; keep_text=False is for a new store.")
        return bool(stored)

    def _collection_name(self) -> str:
        name: str | None = self._queries.meta("collection")
        if name is None:
            name = str(self._ledger.settle_meta("collection", f"cmt-{uuid.uuid4().hex}"))
        return name

    def _sync(self) -> None:
        if self._index is not None:
            self._index.sync()

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
            f"the memory of the passage {passage_id!r} is damaged{fault}; delete its document and add it again."
        )


def _check_finite(vectors: Vector, whose: str) -> None:
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
    if path.is_dir():
        return sum(_size(file) for file in path.iterdir())
    try:
        return path.stat().st_size
    except FileNotFoundError:  # others may be writing
        return 0
