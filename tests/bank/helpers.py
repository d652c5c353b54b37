"""Documents with random vectors and memories, as the store would hand them to the bank."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.codec import encode_memory
from cmt_memory.bank.records import StoredDocument, StoredPassage

DIMS = 8


def vector(seed: int, dims: int = DIMS) -> np.ndarray:
    values = np.random.default_rng(seed).standard_normal(dims).astype(np.float32)
    return values / np.linalg.norm(values)


def slots(seed: int, count: int = 2, dims: int = 16) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed))


def stored(
    id: str, text: str, metadata: dict[str, Any] | None = None, *, pieces: int = 1, seed: int = 0, big: bool = False
) -> StoredDocument:
    """A document cut into equal pieces; a ``big`` memory does not fit into the ledger."""
    size = 20_000 if big else 16
    cuts = [len(text) * n // pieces for n in range(pieces + 1)]
    passages = [
        StoredPassage(
            start,
            end,
            end - start,
            encode_memory(slots(seed + n, dims=size), torch.arange(2.0), end - start, "native"),
            vector(seed + n),
        )
        for n, (start, end) in enumerate(pairwise(cuts))
    ]
    return StoredDocument(id, text, metadata or {}, passages)


@contextmanager
def lexicon_is_sound(bank: MemoryBank) -> Iterator[None]:
    """FTS5's own check of its index against the texts, after the block."""
    yield
    with bank._ledger.database.write() as connection:
        connection.execute("INSERT INTO lexicon (lexicon, rank) VALUES ('integrity-check', 1)")
