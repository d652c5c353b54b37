"""CMTMemoryStore: bank, model and selector as the one object a user holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from cmt_memory.adapters import Adapters
from cmt_memory.answering import Answering
from cmt_memory.asynchronous import AsyncTwins
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.contents import id_list
from cmt_memory.documents import LONGEST_TTL, Document, coerce_documents
from cmt_memory.errors import InvalidInputError
from cmt_memory.ingestion import OnProgress
from cmt_memory.model.modeling import CMTModel
from cmt_memory.opening import load_model, settle_encoder, settle_model
from cmt_memory.recompression import recompress
from cmt_memory.retrieval.selector import HybridSelector

if TYPE_CHECKING:
    from chromadb.api import ClientAPI


class CMTMemoryStore(Answering, AsyncTwins, Adapters):
    """Documents in, answers out of a frozen LM, nothing in the prompt.

    A folder that keeps every document's text, retrieval vector and memory. It is a context manager. Every method
    has an async twin, `a` + its name, that never blocks the event loop (but the `as_…` ones, which only wrap it).

    Args:
        path: the store's folder; made if missing.
        model: a `CMTModel`, a bundled or saved one's name or folder, or any LM's hub id or folder. What memories
            depend on (ratio, latent, PCA, prompt head) is taken from an existing store.
        encoder: the retrieval encoder; `"auto"` takes the store's own, else the best one at hand; see
            `cmt_memory.retrieval.encoders.resolve_encoder`. None searches by words alone.
        client: a Chroma client that holds the index in place of the folder, for several processes.
        read_only: read beside a process that writes.
        keep_text: keep the texts; without them there is no `mode="text"`, no BM25 and no recompressing.
        channels: how to search: any of `"dense"`, `"bm25"` and `"memory"`. The last compares the question's own
            memory with those of the passages; it costs an LM pass for each question and a vector of `latent` numbers
            for each passage, twice (`stats` shows the bytes).
        passage_tokens: the longest passage that becomes one memory, in the LM's tokens; at most half of its
            positions.
        passage_overlap: tokens that neighbouring passages share.
        slot_dtype: `"int8"`, `"float16"` or `"native"`; lossless memories (ratio 1, `latent="full"`) are always kept
            in the LM's own dtype.
        lazy: keep new documents searchable at once but uncompressed, until they are first used for an answer or
            `compress_pending` is called; answers are the same. Needs `keep_text`.
        clock: what tells the time for `ttl`, in seconds since 1970.

    Raises:
        StoreLockedError: another process has the store open for writing.
        FingerprintMismatchError: the store was made with another LM, tokenizer or compressor.
        StoreCorruptError: the ledger cannot be read.

    Examples:
        >>> from cmt_memory import CMTMemoryStore
        >>> with CMTMemoryStore("mem", model="cmt-tiny") as store:
        ...     ids = store.add_documents(["Mara's locker code is 4471.", "The shop opens at 9:30."])
        ...     answer = store.ask("What is Mara's locker code?", k=1)
        >>> answer.hits[0].text, answer.grounded, answer.usage.memory_slots > 0
        ("Mara's locker code is 4471.", True, True)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        model: str | CMTModel = "cmt-tiny",
        *,
        encoder: Any = "auto",
        client: ClientAPI | None = None,
        read_only: bool = False,
        keep_text: bool = True,
        channels: Sequence[str] = ("dense", "bm25"),
        passage_tokens: int = 512,
        passage_overlap: int = 64,
        slot_dtype: Literal["int8", "float16", "native"] = "int8",
        lazy: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        if not isinstance(path, str | os.PathLike) or not str(path):
            raise InvalidInputError(f"path must name the store's folder, not {path!r}.")
        self.path = Path(path)
        self._clock = clock
        given = model if isinstance(model, CMTModel) else load_model(model)
        own_vectors = not isinstance(channels, str) and "memory" in channels
        bank = MemoryBank(
            path, read_only=read_only, keep_text=keep_text, client=client, clock=clock, memory_index=own_vectors
        )
        try:
            settings = {
                "passage_tokens": passage_tokens,
                "passage_overlap": passage_overlap,
                "slot_dtype": slot_dtype,
                "lazy": lazy,
                "index_memories": own_vectors,
            }
            super().__init__(bank, settle_model(bank, given), settle_encoder(bank, encoder), settings)
            self.selector = HybridSelector(
                self.bank, self.encoder, channels=tuple(channels), compress=self._pooled_question
            )
            if lazy and not self.bank.keep_text:
                raise InvalidInputError(
                    "lazy=True compresses from the kept text, so it does not go with keep_text=False."
                )
            self.bank.warm_up()
            self.selector.warm_up()
        except BaseException:
            bank.close()
            raise

    @classmethod
    def open_recompressed(
        cls,
        path: str | os.PathLike[str],
        model: str | CMTModel,
        *,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        **options: Any,
    ) -> CMTMemoryStore:
        """Make the memories of a store anew by another model and open it with that, as `recompress` does.

        The model of before need not be there any more.

        Args:
            path: the store's folder.
            model: the other model.
            show_progress: draw a progress bar.
            on_progress: called after each commit with the ids of its documents.
            options: of the store, such as `slot_dtype` and `encoder`.

        Raises:
            InvalidInputError: there is no store, or it keeps no text.
            StoreLockedError: the store is open for writing.
        """
        given = model if isinstance(model, CMTModel) else load_model(model)
        MemoryBank(path, read_only=True).close()
        bank = MemoryBank(path, client=options.get("client"))
        try:
            settings = {name: options[name] for name in ("slot_dtype",) if name in options}
            recompress(bank, given, settings=settings, show_progress=show_progress, on_progress=on_progress)
        finally:
            bank.close()
        return cls(path, given, **options)

    # -- documents ---------------------------------------------------------------------------------------------

    def add_documents(
        self,
        documents: Any,
        *,
        metadatas: Sequence[dict[str, Any] | None] | None = None,
        ids: Sequence[str | None] | None = None,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
        ttl: float | None = None,
    ) -> list[str]:
        """Compress documents and keep them; what is there already costs no LM pass.

        An id that is not given is the hash of text and metadata, so adding the same document twice is one memory.
        A changed text under the same id replaces the old one. Long documents become several passages, committed
        together. An interrupted call keeps what was committed: call again with the same documents to go on.

        Args:
            documents: strings, `Document`s, dicts, or the documents of a framework; one or many.
            metadatas: metadata for each document, over its own.
            ids: ids for each document, in place of its own.
            show_progress: draw a progress bar.
            on_progress: called with the ids of each commit.
            ttl: seconds after which these documents are gone, counted from now; they are not found from then on, and
                the next write, opening or `compact` removes them from the disk. Adding a document again sets it
                anew; None keeps it until it is deleted.

        Returns:
            One id a document, in order.

        Raises:
            InvalidInputError: something about a document cannot be used (empty, not text, an id given twice);
                nothing was changed.
            StoreFullError: the disk has no room; what `on_progress` was called with is kept.

        Examples:
            >>> from cmt_memory import CMTMemoryStore, Document
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)  # searched by words alone
            >>> store.add_documents([Document("The shop opens at 9:30.", {"by": "Tom"}, id="hours")])
            ['hours']
            >>> store.add_documents(["The shop opens at 10:00."], ids=["hours"], ttl=3600)  # in its place, for an hour
            ['hours']
            >>> [document.text for document in store.get("hours")]
            ['The shop opens at 10:00.']
        """
        coerced = coerce_documents(documents, metadatas=metadatas, ids=ids)
        self.bank.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        expires = self._expires(ttl)
        with self._add_lock:
            self._ingestion.add(
                coerced.documents, expires=expires, show_progress=show_progress, on_progress=on_progress
            )
        return coerced.ids

    def update(
        self,
        id: str,
        *,
        text: str | None = None,
        metadata: dict[str, Any] | None = None,
        ttl: float | Literal["keep"] | None = "keep",
    ) -> None:
        """Change a document; what is not given stays as it is. Only another text costs an LM pass.

        Args:
            id: the document.
            text: in place of its text.
            metadata: in place of all its metadata.
            ttl: seconds after which it is gone, counted from now; None to keep it until it is deleted.

        Raises:
            InvalidInputError: the id is unknown, was deleted meanwhile, or a value cannot be used; nothing was
                changed.

        Examples:
            >>> from cmt_memory import CMTMemoryStore
            >>> store = CMTMemoryStore("mem", model="cmt-tiny", encoder=None)
            >>> [id] = store.add_documents(["The shop opens at 9:30."])
            >>> store.update(id, metadata={"year": 2024})
            >>> store.documents({"year": 2024})[0].id == id
            True
        """
        self.bank.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        with self._add_lock:
            found = {info.id: info for info in self.bank.infos(id_list(id))}.get(id)
            if found is None:
                raise InvalidInputError(f"There is no document {id!r} to update; add_documents makes one.")
            expires = found.expires if ttl == "keep" else self._expires(ttl)
            kept = found.metadata if metadata is None else metadata
            given = {"text": "-" if text is None else text, "metadata": kept}
            [document] = coerce_documents([given], ids=[id]).documents
            if text is not None:
                self._ingestion.add([document], expires=expires, show_progress=False, on_progress=None, known=True)
            elif metadata is not None:
                self.bank.set_metadata(id, document.metadata, expires)
            elif ttl != "keep":
                self.bank.set_expiry([id], expires)

    def _expires(self, ttl: float | None) -> float | None:
        if ttl is None:
            return None
        if isinstance(ttl, bool) or not isinstance(ttl, int | float) or not 0 < ttl <= LONGEST_TTL:
            raise InvalidInputError(
                f"ttl is {ttl!r}; expected a number of seconds above 0 and at most {LONGEST_TTL:,}, or None for ever."
            )
        return self._clock() + ttl

    def get(self, ids: str | Sequence[str]) -> list[Document]:
        """Documents by id, in the order asked for; unknown ids are left out."""
        return self.bank.get(id_list(ids))

    def delete(self, ids: str | Sequence[str], *, missing_ok: bool = False) -> None:
        """Delete documents and their memories.

        Args:
            ids: one id or several.
            missing_ok: pass over ids that are unknown, also those that somebody else deletes meanwhile.

        Raises:
            InvalidInputError: an id is unknown; nothing was deleted.
        """
        self.bank.delete(id_list(ids), missing_ok=missing_ok)

    def __enter__(self) -> CMTMemoryStore:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
