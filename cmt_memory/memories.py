"""Memories for the generator: those the bank keeps, and those that wait, made at their first use."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import TypeVar

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.codec import decode_memory
from cmt_memory.bank.ledger import REPLACED
from cmt_memory.errors import FingerprintMismatchError
from cmt_memory.ingestion import Ingestion
from cmt_memory.model.memory import Memory

_BORROWED = 64

T = TypeVar("T")


class Memories:
    """What a generator loads hits from.

    A writer keeps a memory that it had to make; a reader makes it for itself and holds the last few.

    Args:
        bank: where memories are kept.
        ingestion: what makes them.
    """

    def __init__(self, bank: MemoryBank, ingestion: Ingestion) -> None:
        self._bank, self._ingestion = bank, ingestion
        self._lock = threading.Lock()
        self._made: OrderedDict[int, bytes] = OrderedDict()

    def memory_keys(self, passages: Sequence[str]) -> list[str]:
        """Content digests of the memories of passages, by passage id; what waits is compressed now.

        Raises:
            InvalidInputError: a passage is unknown.
            FingerprintMismatchError: another model's memories have taken the place of these.
        """
        return self._read(passages, self._bank.payload_digests, lambda payload: sha256(payload).hexdigest())

    def load_memories(self, passages: Sequence[str]) -> list[Memory]:
        """The memories themselves, in the order asked for.

        Raises:
            InvalidInputError: a passage is unknown.
            StoreCorruptError: a memory is not what was stored.
            FingerprintMismatchError: another model's memories have taken the place of these.
        """
        return self._read(passages, self._bank.payloads, decode_memory)

    def _read(
        self, passages: Sequence[str], of_bank: Callable[[Sequence[str]], list[T]], of_made: Callable[[bytes], T]
    ) -> list[T]:
        """What the bank says of passages, and of those whose memory only a reader has, what that says."""
        made = self._make(passages)
        if not made:
            found = of_bank(passages)
            if self._bank.generation != self._ingestion.generation:
                raise FingerprintMismatchError(REPLACED)
            return found
        keys = self._bank.passage_keys(passages)
        kept = iter(of_bank([passage for passage, key in zip(passages, keys, strict=True) if key not in made]))
        return [of_made(made[key]) if key in made else next(kept) for key in keys]

    def _make(self, passages: Sequence[str]) -> dict[int, bytes]:
        """Compress what waits of these passages; returns what only a reader has, by passage key."""
        if not self._bank.uncompressed(passages):
            return {}
        with self._lock:
            waiting = self._bank.uncompressed(passages)
            if not self._bank.read_only:
                self._ingestion.compress_waiting(waiting, show_progress=False, on_progress=None)
                return {}
            rows = self._bank.passages([key for key in waiting if key not in self._made])
            if rows:
                texts = [row.text for row in rows.values()]
                self._made.update(zip(rows, self._ingestion.encode(texts), strict=True))
            made = {key: self._made[key] for key in waiting if key in self._made}
            for key in made:
                self._made.move_to_end(key)
            while len(self._made) > max(_BORROWED, len(made)):
                self._made.popitem(last=False)
            return made
