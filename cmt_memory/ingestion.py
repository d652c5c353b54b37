"""From documents to what a bank keeps: passages, memories and vectors, a commit at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
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

OnProgress = Callable[[list[str]], None]


class Ingestion:
    """Puts documents into a bank.

    Args:
        bank: where they go.
        model: what compresses them.
        encoder: what makes their retrieval vectors, or None.
        passage_tokens: the longest passage, in the LM's tokens; at most half of the LM's positions are used.
        passage_overlap: tokens that neighbouring passages share.
        slot_dtype: how slots are kept; lossless memories always keep the LM's own dtype.
        commit_tokens: documents are committed together until they have this many tokens.
    """

    def __init__(
        self,
        bank: MemoryBank,
        model: CMTModel,
        encoder: Encoder | None,
        *,
        passage_tokens: int,
        passage_overlap: int,
        slot_dtype: SlotDtype,
        commit_tokens: int = COMMIT_TOKENS,
    ) -> None:
        if slot_dtype not in ("int8", "float16", "native"):
            raise InvalidInputError(f"slot_dtype must be int8, float16 or native, not {slot_dtype!r}.")
        self.slot_dtype: Literal["int8", "float16", "native"] = "native" if model.is_exact else slot_dtype
        self.commit_tokens = commit_tokens
        self._bank, self._model, self._encoder = bank, model, encoder
        split_passages("", model.lm.tokenizer, passage_tokens, passage_overlap)
        most = (model.lm.max_positions or 2 * passage_tokens) // 2 - len(model.lm.prompt.head_ids)
        self.passage_tokens = min(passage_tokens, most)
        self.passage_overlap = passage_overlap if passage_tokens <= most else min(passage_overlap, most // 8)

    def add(self, documents: Sequence[Document], *, show_progress: bool, on_progress: OnProgress | None) -> None:
        """Keep documents with ids; see `CMTMemoryStore.add_documents`."""
        kept: list[Document] = []
        renamed: list[Document] = []
        todo: list[tuple[Document, list[StoredPassage]]] = []
        for document, change in zip(documents, self._bank.compare(documents), strict=True):
            if change in ("new", "text"):
                todo.append((document, self._split(document)))
            else:
                (kept if change == "same" else renamed).append(document)
        self._check_disk(sum(passage.n_tokens for _, passages in todo for passage in passages))
        for document in renamed:
            self._bank.set_metadata(str(document.id), document.metadata)
        if on_progress is not None and (kept or renamed):
            on_progress([str(document.id) for document in kept + renamed])
        total = sum(passage.n_tokens for _, passages in todo for passage in passages)
        with Progress("Compressing", total, unit="tokens", show=show_progress) as bar:
            for batch in self._commits(todo):
                self._bank.put(self._compress(batch))
                bar.advance(sum(passage.n_tokens for _, passages in batch for passage in passages))
                if on_progress is not None:
                    on_progress([str(document.id) for document, _ in batch])

    def _split(self, document: Document) -> list[StoredPassage]:
        found = split_passages(document.text, self._model.lm.tokenizer, self.passage_tokens, self.passage_overlap)
        return [StoredPassage(start, end, n_tokens) for start, end, n_tokens in found]

    def _commits(
        self, documents: Sequence[tuple[Document, list[StoredPassage]]]
    ) -> Iterator[list[tuple[Document, list[StoredPassage]]]]:
        """Documents with their passages, as many at a time as one commit takes."""
        batch: list[tuple[Document, list[StoredPassage]]] = []
        tokens = 0
        for document, passages in documents:
            batch.append((document, passages))
            tokens += sum(passage.n_tokens for passage in passages)
            if tokens >= self.commit_tokens:
                yield batch
                batch, tokens = [], 0
        if batch:
            yield batch

    def _compress(self, batch: Sequence[tuple[Document, list[StoredPassage]]]) -> list[StoredDocument]:
        texts = [document.text[passage.start : passage.end] for document, passages in batch for passage in passages]
        flat = [passage for _, passages in batch for passage in passages]
        for passage, memory in zip(flat, self._model.compress(texts), strict=True):
            passage.payload = encode_memory(memory.slots, memory.positions, memory.n_tokens, self.slot_dtype)
        if self._encoder is not None:
            for passage, vector in zip(flat, self._encoder.encode_documents(texts), strict=True):
                passage.vector = vector
        return [StoredDocument(str(d.id), d.text, d.metadata, passages) for d, passages in batch]

    def free_bytes(self) -> int:
        """Room on the bank's disk."""
        return shutil.disk_usage(self._bank.path).free

    def _check_disk(self, tokens: int) -> None:
        bytes_per_number = {"int8": 1, "float16": 2}.get(self.slot_dtype, self._model.lm.dtype.itemsize)
        needed = _FREE_DISK_FACTOR * tokens * self._model.slot_width * bytes_per_number // self._model.config.ratio
        free = self.free_bytes()
        if needed > free:
            raise StoreFullError(
                f"{tokens} tokens of documents need about {needed / 1e6:.0f} MB of memories, but {self._bank.path} has "
                f"{free / 1e6:.0f} MB free; free some space, or use a higher ratio or a smaller latent."
            )
