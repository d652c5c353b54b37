"""What keeps a store in order: sizes, verification, compaction, and memories made later or anew."""

from __future__ import annotations

import logging
import threading
from typing import Any

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.records import Vector
from cmt_memory.bank.verification import VerifyReport
from cmt_memory.errors import FingerprintMismatchError
from cmt_memory.generation.generator import CMTGenerator
from cmt_memory.ingestion import Ingestion, OnProgress
from cmt_memory.memories import Memories
from cmt_memory.model.modeling import CMTModel
from cmt_memory.opening import load_model
from cmt_memory.recompression import recompress
from cmt_memory.retrieval.encoders import Encoder

logger = logging.getLogger(__name__)


class Upkeep:
    """The part of a `CMTMemoryStore` that looks after what it holds.

    Args:
        bank: the open bank.
        model: the model, as the bank's memories need it.
        encoder: the retrieval encoder.
        settings: `Ingestion`'s settings.
    """

    def __init__(self, bank: MemoryBank, model: CMTModel, encoder: Encoder | None, settings: dict[str, Any]) -> None:
        self.bank, self.encoder = bank, encoder
        self._settings = settings
        self._add_lock = threading.Lock()
        self._recompress_lock = threading.Lock()
        self._use(model)

    def _use(self, model: CMTModel) -> None:
        """Compress and answer with a model from now on."""
        self._ingestion = Ingestion(self.bank, model, self.encoder, **self._settings)
        self.memories = Memories(self.bank, self._ingestion)
        self.generator = CMTGenerator(model, source=self.memories)
        self.model = model
        if self._ingestion.index_memories:
            self._index_memories()

    def _index_memories(self) -> None:
        if not self.bank.read_only:
            self.bank.index_memories()
        elif missing := self.bank.count_unindexed_memories():
            logger.warning(
                "%s: the channel 'memory' does not find %d memories; open it for writing once with this channel",
                self.bank.path,
                missing,
            )

    def _pooled_question(self, question: str) -> Vector:
        """The vector ``[d]`` of a question's memory, for the channel `"memory"`; one LM pass."""
        [memory] = self.model.compress([question])
        vector: Vector = memory.pooled.numpy()
        return vector

    def stats(self) -> dict[str, Any]:
        """Counts and sizes; see `MemoryBank.stats`, and what memories are made with."""
        config = self.model.config
        return self.bank.stats() | {
            "model": config.lm,
            **config.slot_counts(),
            "latent": config.latent,
            "slot_dtype": self._ingestion.slot_dtype,
            "encoder": self.encoder.id if self.encoder is not None else None,
        }

    def verify(self) -> VerifyReport:
        """Read everything on disk and compare it with its digests, and the index with the ledger.

        Returns:
            What was looked at, and each problem with the document it concerns and what to do about it.
        """
        return self.bank.verify()

    def compact(self) -> None:
        """Give the space of deleted and expired documents back; afterwards no file holds their text or vectors.

        Raises:
            StoreLockedError: another process reads what was deleted, or shares an index that has to be written anew.
        """
        self.bank.compact()

    def compress_pending(self, *, show_progress: bool = False, on_progress: OnProgress | None = None) -> None:
        """Compress what `lazy=True` left waiting; questions and changes may go on beside it.

        An interrupted call keeps what was committed: call again to go on.

        Args:
            show_progress: draw a progress bar.
            on_progress: called after each commit with the ids of documents that it made memories for.
        """
        ingestion = self._ingestion
        try:
            waiting = self.bank.uncompressed()
            ingestion.compress_waiting(waiting, show_progress=show_progress, on_progress=on_progress)
        except FingerprintMismatchError:
            with self._add_lock:
                replaced = self._ingestion is not ingestion
            if not replaced:  # then not by a `recompress` of this store, which leaves nothing waiting
                raise

    def recompress(
        self,
        model: str | CMTModel | None = None,
        *,
        show_progress: bool = False,
        on_progress: OnProgress | None = None,
    ) -> None:
        """Make every memory anew from the kept text, by another model; the store answers with it afterwards.

        The old memories are used until all new ones are there, and are then replaced at once. An interrupted call
        keeps what was committed: call again with the same model to go on. Passages stay cut as they are, and what
        waits for its memory gets one. With the store's own model, only memories that are damaged or missing are
        made anew, and what an interrupted call with another has made is removed. A store whose own model is gone is
        opened by `CMTMemoryStore.open_recompressed`.

        Args:
            model: another LM, or the same with another ratio or latent; the store's own, unless given.
            show_progress: draw a progress bar.
            on_progress: called after each commit with the ids of its documents.

        Raises:
            InvalidInputError: the store keeps no text or is read only, or a passage is longer than the LM can read.
            StoreFullError: the disk has no room for both.
            StoreCorruptError: a kept text is damaged.
            StoreLockedError: others share the store, with the model of before.
            FingerprintMismatchError: another process makes them anew by another model at the same time.
        """
        self.bank.check_open()  # before the lock: in a forked child somebody else may hold it for ever
        given = self.model if model is None else model if isinstance(model, CMTModel) else load_model(model)
        with self._recompress_lock:
            recompress(
                self.bank,
                given,
                settings=self._settings,
                show_progress=show_progress,
                on_progress=on_progress,
                lock=self._add_lock,
                on_adopted=lambda: self._use(given),
            )
            if self._ingestion.index_memories:
                self._index_memories()

    def __len__(self) -> int:
        """Number of documents."""
        return len(self.bank)

    def close(self) -> None:
        """Close the store; closing twice is fine, using it afterwards raises `StoreClosedError`."""
        self.bank.close()
