"""The bank: ledger, index and codec as one thing that knows no language model."""

from __future__ import annotations

import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cmt_memory.bank.generations import NextMemories
from cmt_memory.bank.index import VectorIndex
from cmt_memory.bank.ledger import Expires, Ledger
from cmt_memory.bank.lock import FolderLock
from cmt_memory.bank.queries import chunks
from cmt_memory.bank.reading import INDEX_FOLDER, MEMORY_FOLDER, BankReader, check_finite
from cmt_memory.bank.records import MEMORY, RETRIEVAL, StoredDocument, Vector, VectorTable
from cmt_memory.bank.sync import SyncedIndex
from cmt_memory.errors import InvalidInputError, StoreLockedError

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


class MemoryBank(BankReader):
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
        clock: What tells the time, in seconds since 1970, for documents that expire.
        memory_index: Open the index of the memories' own vectors too, see `index_memories`.

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
        clock: Callable[[], float] = time.time,
        memory_index: bool = False,
    ) -> None:
        folder = Path(path)
        self.read_only = read_only
        self.shared = client is not None
        self._pid = os.getpid()
        with ExitStack() as opened:
            if not read_only:
                try:
                    folder.mkdir(parents=True, exist_ok=True)
                    self._lock = FolderLock(folder / "lock", shared=self.shared)
                except OSError as error:
                    raise InvalidInputError(
                        f"{folder} cannot be written: {error.strerror}; give a folder that can, or read_only=True."
                    ) from error
                opened.callback(self._lock.release)
            ledger = Ledger(folder, read_only=read_only, clock=clock)
            opened.callback(ledger.database.close)
            super().__init__(folder, ledger)
            self.keep_text = self._queries.keep_text = self._settle_keep_text(keep_text)
            if not read_only:
                self._settle_server()
                self._index = self._open_index(opened, INDEX_FOLDER, "", client, RETRIEVAL)
                if memory_index:
                    self._memory_index = self._open_index(opened, MEMORY_FOLDER, "-memory", client, MEMORY)
                self._remove_expired()
                self.next_memories().remove_old()
            self._opened = opened.pop_all()

    def warm_up(self) -> None:
        """Load the indexes in the background, so that the first search need not."""
        for index in (self._index, self._memory_index):
            if index is not None:
                index.warm_up()

    # -- changes --------------------------------------------------------------------------------------------

    def put(self, documents: Sequence[StoredDocument], generation: int | None = None, *, known: bool = False) -> None:
        """Keep documents, each in place of the one with its id, in one transaction.

        When this returns, the documents are on disk and can be searched.

        Args:
            documents: The documents with their passages.
            generation: The bank's `generation` when their memories were made; the present one, unless given.
            known: Only in place of documents that there are.

        Raises:
            FingerprintMismatchError: That generation is over; nothing was changed.
            InvalidInputError: A document has no passages, a vector has not the bank's dimension or holds NaN, or
                ``known`` and a document is gone; nothing was changed.
            StoreFullError: The disk has no room; the message says whether the documents are kept.
        """
        self._check_vectors(documents)
        self._ledger.put(documents, keep_text=self.keep_text, generation=generation, known=known)
        self._sync()

    def set_metadata(self, id: str, metadata: dict[str, Any], expires: Expires = "keep") -> None:
        """Replace a document's metadata; its memories stay as they are.

        Args:
            id: The document.
            metadata: In place of all it had.
            expires: When it expires, in seconds since 1970; None for never.

        Raises:
            InvalidInputError: The id is unknown.
        """
        self._check_known([id])
        self._ledger.set_metadata(id, metadata, expires)
        self._remove_expired()
        self._sync()

    def set_expiry(self, ids: Sequence[str], expires: float | None) -> None:
        """Say when documents expire, in seconds since 1970; None for never.

        Raises:
            InvalidInputError: An id is unknown; nothing was changed.
        """
        self._ledger.set_expiry(ids, expires)
        self._remove_expired()

    def delete(self, ids: Iterable[str], *, missing_ok: bool = False) -> None:
        """Delete documents with everything that belongs to them.

        Args:
            ids: Which documents.
            missing_ok: Pass over ids that are unknown, also those that somebody else deletes meanwhile.

        Raises:
            InvalidInputError: Some ids are unknown; the message lists them and nothing was deleted.
        """
        distinct = list(dict.fromkeys(ids))
        if missing_ok:
            known = self._queries.known(distinct)
            distinct = [id for id in distinct if id in known]
            if not distinct:
                return
        else:
            self._check_known(distinct)
        self._ledger.delete(distinct, missing_ok=missing_ok)
        self._sync()

    def set_payloads(self, payloads: Sequence[tuple[int, bytes]], generation: int | None = None) -> None:
        """Give passages, by key, their memory or another one; those that are gone meanwhile are passed over.

        Raises:
            FingerprintMismatchError: The ``generation`` that the memories were made for is over.
        """
        self._ledger.set_payloads(payloads, self.generation if generation is None else generation)

    def index_memories(
        self, keys: Sequence[int] | None = None, on_progress: Callable[[int], None] | None = None
    ) -> None:
        """Give memories a vector of their own, made from what is kept, and write it into its index.

        Does nothing where all have one; after an interruption, calling it again goes on where it stopped.

        Args:
            keys: Passages whose memories are new or changed; all that have no such vector, unless given.
            on_progress: Called with the number of passages done at once.

        Raises:
            StoreCorruptError: A memory is damaged.
        """
        from cmt_memory.bank.codec import decode_memory

        generation = self.generation
        if self._memory_index is not None and not self._queries.count_vectors(MEMORY):
            self._memory_index.reset()
        for _, some in chunks(self._queries.without_memory_vector() if keys is None else list(keys)):
            names, stored = self._queries.names(some), self._queries.payloads(some)
            payloads = {
                key: self._payload("#".join(map(str, names[key])), key, *stored[key])
                for key in some
                if key in stored and key in names
            }
            vectors = [
                (key, decode_memory(payload).pooled.numpy()) for key, payload in payloads.items() if payload is not None
            ]
            self._ledger.set_memory_vectors(vectors, generation)
            if on_progress is not None:
                on_progress(len(some))
        if self._memory_index is not None:
            self._memory_index.sync()

    def next_memories(self) -> NextMemories:
        """Where another model's memories are made before they take the place of these."""
        return NextMemories(self._ledger, self._queries, self._lock)

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
            id: Name of the encoder, kept as `encoder`.
            dimension: Numbers per vector.
            encode: Texts to vectors ``[n, dimension]``.
            on_progress: Called with the passages done and the passages to do.

        Raises:
            InvalidInputError: There are passages to encode and the bank keeps no text.
            StoreLockedError: Others share the folder, with the encoder of before.
        """
        encoder = {"id": id, "dimension": dimension}
        if self.encoder is None and not self.count_passages():
            self._ledger.settle_meta("encoder", encoder)
        changed = self.encoder != encoder
        if not self.keep_text and (self.count_passages() if changed else self._queries.without_vector()):
            raise InvalidInputError("this store keeps no text, so its vectors cannot be made by another encoder.")
        if changed:
            if not self._lock.make_exclusive():
                raise StoreLockedError(
                    f"others have the store open with another encoder than {id}; close them, or open it with theirs."
                )
            try:
                self._ledger.forget_vectors(encoder)
            finally:
                self._lock.make_shared()
        missing = self._queries.without_vector()
        for done, some in chunks(missing):
            rows = self._queries.passages(some)
            if rows:
                vectors = np.asarray(encode([row.text for row in rows.values()]), np.float32)
                check_finite(vectors, f"the encoder {id}")
                self._ledger.set_vectors(list(zip(rows, vectors, strict=True)))
            if on_progress is not None:
                on_progress(done + len(some), len(missing))
        self._sync()

    # -- settings, sizes, end -------------------------------------------------------------------------------

    def set_meta(self, key: str, value: Any) -> None:
        """Keep a JSON setting of the store."""
        self._ledger.set_meta(key, value)

    def settle_maker(self, key: str, value: Any, asset: bytes, *, anew: bool) -> Any:
        """Keep what makes the memories of a bank that has none, a setting and its asset, in one transaction.

        Who has the bank open with another one is told so instead of given the new memories.

        Args:
            key: Name of both.
            value: A JSON value.
            asset: Bytes.
            anew: Replace what there is; else what there is stays.

        Returns:
            The setting there is now.
        """
        return self._ledger.settle_maker(key, value, asset, anew=anew)

    def set_asset(self, name: str, data: bytes) -> None:
        """Keep bytes that belong to the store, such as the PCA."""
        self._ledger.set_asset(name, data)

    def compact(self) -> None:
        """Give the space of deleted documents back; afterwards no file of the folder holds their text or vectors.

        Also puts right what can be made anew from the rest: index, lexicon, counts, left-over files. With
        ``client=`` the index's files are the server's, and what it deleted stays in them as long as it likes.

        Raises:
            StoreLockedError: Another process reads what was deleted, or shares an index that has to be written
                anew; compact again when it has ended.
            InvalidInputError: The bank is open read only.
        """
        if self.read_only:
            raise InvalidInputError("the store was opened read_only; open it without read_only to change it.")
        self._remove_expired()
        for index in (self._index, self._memory_index):
            if index is not None:
                index.compact()
        if self.shared:  # these are of a time without the server
            for folder in (INDEX_FOLDER, MEMORY_FOLDER):
                shutil.rmtree(self.path / folder, ignore_errors=True)
        elif self._memory_index is None and (self.path / MEMORY_FOLDER).exists():
            shutil.rmtree(self.path / MEMORY_FOLDER)
            self._ledger.mark_all_unindexed(MEMORY)
            self._ledger.set_meta(MEMORY.files, None)
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
                    check_finite(passage.vector, f"the document {document.id!r}")
            if not document.passages:
                raise InvalidInputError(f"the document {document.id!r} has no passages.")

    def _settle_keep_text(self, keep_text: bool) -> bool:
        """What the bank was made with; a new one is made with what is asked for."""
        stored = self._queries.meta("keep_text")
        if stored is None and not self.read_only:
            stored = self._ledger.settle_meta("keep_text", keep_text)
        elif not self.read_only and not self.shared and not self._queries.has_rows():
            self._ledger.set_meta("keep_text", keep_text)
            return keep_text
        if stored and not keep_text:
            raise InvalidInputError(f"{self.path} keeps texts; keep_text=False is for a new store.")
        return bool(stored)

    def _settle_server(self) -> None:
        """Give the collection another name where it is a server's that is not kept up from now on."""
        served = self._queries.meta("served") is not None
        if self.shared and not served:
            self._ledger.set_meta("served", True)
        elif served and not self.shared:
            self._ledger.leave_server(_new_name())

    def _collection_name(self) -> str:
        name: str | None = self._queries.meta("collection")
        if name is None:
            name = str(self._ledger.settle_meta("collection", _new_name()))
        return name

    def _remove_expired(self) -> None:
        if self._queries.has_expired():
            self._ledger.remove_expired()
            self._sync()

    def _open_index(
        self, opened: ExitStack, folder: str, suffix: str, client: ClientAPI | None, table: VectorTable
    ) -> SyncedIndex:
        index = VectorIndex(self.path / folder, self._collection_name() + suffix, client)
        synced = SyncedIndex(self._ledger, self._queries, index, self._lock, table)
        opened.callback(synced.close)
        synced.repair()
        return synced

    def _sync(self) -> None:
        for index in (self._index, self._memory_index):
            if index is not None:
                index.sync()


def _new_name() -> str:
    return f"cmt-{uuid.uuid4().hex}"
