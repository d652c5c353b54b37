"""From documents to what a bank keeps: passages, memories and vectors, a commit at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from typing import Literal

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.codec import SlotDtype, encode_memory
from cmt_memory.bank.passages import split_passages
from cmt_memory.bank.records import StoredDocument, StoredPassage
from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError, StoreFullError
from cmt_memory.model.modeling import CMTModel
from cmt_memory.progress import Progress
from cmt_memory.retrieval.encoders import Encoder

COMMIT_TOKENS = 8_192
_FREE_DISK_FACTOR = 2
_WAITING_AT_ONCE = 16

OnProgress = Callable[[list[str]], None]
Batch = list[tuple[Document, list[StoredPassage]]]


class Ingestion:
    """Puts documents into a bank.

    Args:
        bank: where they go.
        model: what compresses them.
        encoder: what makes their retrieval vectors, or None.
        passage_tokens: the longest passage, in the LM's tokens; at most half of the LM's positions are used.
        passage_overlap: tokens that neighbouring passages share.
        slot_dtype: how slots are kept; lossless memories always keep the LM's own dtype.
        lazy: leave new passages without a memory, for `compress_waiting`.
        index_memories: give new memories a vector of their own, for the channel `"memory"`.
        commit_tokens: documents are committed together until they have this many tokens.
    """

    def __init__(
        self,
        bank: MemoryBank,
        model: CMTModel,
        encoder: Encoder | None,
        *,
        passage_tokens: int = 512,
        passage_overlap: int = 64,
        slot_dtype: SlotDtype = "int8",
        lazy: bool = False,
        index_memories: bool = False,
        commit_tokens: int = COMMIT_TOKENS,
    ) -> None:
        if slot_dtype not in ("int8", "float16", "native"):
            raise InvalidInputError(f"slot_dtype must be int8, float16 or native, not {slot_dtype!r}.")
        self.slot_dtype: Literal["int8", "float16", "native"] = "native" if model.is_exact else slot_dtype
        self.lazy, self.index_memories = lazy, index_memories
        self.commit_tokens = commit_tokens
        self._bank, self._model, self._encoder = bank, model, encoder
        self.generation = bank.generation
        """The bank's generation of memories that the model's belong to."""
        split_passages("", model.lm.tokenizer, passage_tokens, passage_overlap)
        most = (model.lm.max_positions or 2 * passage_tokens) // 2 - len(model.lm.prompt.head_ids)
        self.passage_tokens = min(passage_tokens, most)
        self.passage_overlap = passage_overlap if passage_tokens <= most else min(passage_overlap, most // 8)

    def add(
        self,
        documents: Sequence[Document],
        *,
        expires: float | None,
        show_progress: bool,
        on_progress: OnProgress | None,
        known: bool = False,
    ) -> None:
        """Keep documents with ids; see `CMTMemoryStore.add_documents`. `known`: only those that there are already."""
        kept: list[Document] = []
        renamed: list[Document] = []
        todo: list[tuple[Document, list[StoredPassage]]] = []
        for document, change in zip(documents, self._bank.compare(documents), strict=True):
            if change in ("new", "text"):
                todo.append((document, self._split(document)))
            else:
                (kept if change == "same" else renamed).append(document)
        total = sum(passage.n_tokens for _, passages in todo for passage in passages)
        self.check_disk(total)
        for document in renamed:
            self._bank.set_metadata(str(document.id), document.metadata, expires)
        if kept and (expires is not None or self._bank.has_expiry()):
            self._bank.set_expiry([str(document.id) for document in kept], expires)
        if not self.lazy:
            there = [str(document.id) for document in kept + renamed]
            self.compress_waiting(self._bank.uncompressed_in(there), show_progress=show_progress, on_progress=None)
        if on_progress is not None and (kept or renamed):
            on_progress([str(document.id) for document in kept + renamed])
        with (
            Progress("Compressing", total, unit="tokens", show=show_progress) as bar,
            closing(self._kept(todo, expires, known)) as commits,
        ):
            for batch in commits:
                bar.advance(sum(passage.n_tokens for _, passages in batch for passage in passages))
                if on_progress is not None:
                    on_progress([str(document.id) for document, _ in batch])

    def _split(self, document: Document) -> list[StoredPassage]:
        found = split_passages(document.text, self._model.lm.tokenizer, self.passage_tokens, self.passage_overlap)
        return [StoredPassage(start, end, n_tokens) for start, end, n_tokens in found]

    def _kept(self, todo: Batch, expires: float | None, known: bool) -> Generator[Batch, None, None]:
        """Keep documents a commit at a time, while the LM is at the next, and yield what is on disk.

        What was being written when an error or Ctrl-C came is yielded before that goes on.
        """
        with ThreadPoolExecutor(1, thread_name_prefix="cmt-memory-commit") as writer:
            under_way: tuple[Future[None], Batch] | None = None
            try:
                for batch in self._commits(todo):
                    if not self.lazy:
                        self._compress(batch)
                    if under_way is not None:
                        under_way[0].result()
                        kept, under_way = under_way[1], None
                        yield kept
                    under_way = writer.submit(self._commit, batch, expires, known), batch
            finally:
                if under_way is not None:
                    under_way[0].result()
                    yield under_way[1]

    def _commits(self, documents: Batch) -> Iterator[Batch]:
        """Documents with their passages, as many at a time as one commit takes."""
        batch: Batch = []
        tokens = 0
        for document, passages in documents:
            batch.append((document, passages))
            tokens += sum(passage.n_tokens for passage in passages)
            if tokens >= self.commit_tokens:
                yield batch
                batch, tokens = [], 0
        if batch:
            yield batch

    def _compress(self, batch: Batch) -> None:
        texts = [document.text[passage.start : passage.end] for document, passages in batch for passage in passages]
        flat = [passage for _, passages in batch for passage in passages]
        for passage, payload in zip(flat, self.encode(texts), strict=True):
            passage.payload = payload

    def _commit(self, batch: Batch, expires: float | None, known: bool) -> None:
        """Make the retrieval vectors of documents and keep them."""
        flat = [(document, passage) for document, passages in batch for passage in passages]
        if self._encoder is not None:
            texts = [document.text[passage.start : passage.end] for document, passage in flat]
            for (_, passage), vector in zip(flat, self._encoder.encode_documents(texts), strict=True):
                passage.vector = vector
        documents = [StoredDocument(str(d.id), d.text, d.metadata, passages, expires) for d, passages in batch]
        self._bank.put(documents, self.generation, known=known)
        if self.index_memories and not self.lazy:
            names = self._bank.passage_ids([document.id for document in documents])
            self._bank.index_memories(self._bank.passage_keys(names))

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The memories of passages, as the bank keeps them."""
        return [
            encode_memory(memory.slots, memory.positions, memory.n_tokens, self.slot_dtype)
            for memory in self._model.compress(texts)
        ]

    def compress_waiting(self, keys: Sequence[int], *, show_progress: bool, on_progress: OnProgress | None) -> None:
        """Make the memories of passages that have none, by key, a commit at a time.

        Args:
            keys: passages; those that are gone meanwhile are passed over.
            show_progress: draw a progress bar.
            on_progress: called after each commit with the ids of its documents.
        """
        with Progress("Compressing", len(keys), unit="passages", show=show_progress) as bar:
            for start in range(0, len(keys), _WAITING_AT_ONCE):
                some = keys[start : start + _WAITING_AT_ONCE]
                rows = self._bank.passages(some)
                if rows:
                    texts = [row.text for row in rows.values()]
                    self._bank.set_payloads(list(zip(rows, self.encode(texts), strict=True)), self.generation)
                    if self.index_memories:
                        self._bank.index_memories(list(rows))
                bar.advance(len(some))
                if rows and on_progress is not None:
                    on_progress(list(dict.fromkeys(row.document for row in rows.values())))

    def free_bytes(self) -> int:
        """Room on the bank's disk."""
        return shutil.disk_usage(self._bank.path).free

    def check_disk(self, tokens: int) -> None:
        """Refuse what would not fit on the disk, with a margin.

        Raises:
            StoreFullError: the memories of so many tokens need more than is free.
        """
        bytes_per_number = {"int8": 1, "float16": 2}.get(self.slot_dtype, self._model.lm.dtype.itemsize)
        needed = _FREE_DISK_FACTOR * tokens * self._model.slot_width * bytes_per_number // self._model.config.ratio
        free = self.free_bytes()
        if needed > free:
            raise StoreFullError(
                f"{tokens} tokens of documents need about {needed / 1e6:.0f} MB of memories, but {self._bank.path} has "
                f"{free / 1e6:.0f} MB free; free some space, or use a higher ratio or a smaller latent."
            )
