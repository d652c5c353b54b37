"""Exact search over the ledger's vectors: for readers, and where the index cannot answer a filter."""

from __future__ import annotations

import threading

import numpy as np

from cmt_memory.bank.filters import Condition
from cmt_memory.bank.queries import Queries
from cmt_memory.bank.records import Vector, VectorTable


class ExactSearch:
    """Cosine with every vector.

    Without a filter all vectors are kept in memory (4 bytes a number) until the ledger changes.

    Args:
        queries: The ledger.
        table: Which of its vectors.
    """

    def __init__(self, queries: Queries, table: VectorTable) -> None:
        self._queries, self._table = queries, table
        self._lock = threading.Lock()
        self._cached: tuple[int, list[int], Vector] | None = None

    def search(self, vector: Vector, k: int, condition: Condition | None) -> list[tuple[int, float]]:
        """The ``k`` nearest passages that pass a filter, nearest first, with their cosine."""
        keys, matrix = self._all() if condition is None else self._queries.matching_vectors(condition, self._table)
        if not keys:
            return []
        values = cosine(matrix, vector)
        if expired := self._queries.expired_passages():
            alive = [place for place, key in enumerate(keys) if key not in expired]
            keys, values = [keys[place] for place in alive], values[alive]
            if not keys:
                return []
        best = np.argpartition(-values, k - 1)[:k] if k < len(keys) else np.arange(len(keys))
        best = best[np.argsort(-values[best], kind="stable")]
        return [(keys[place], float(values[place])) for place in best]

    def _all(self) -> tuple[list[int], Vector]:
        with self._lock:
            changes = self._queries.changes()
            if self._cached is None or self._cached[0] != changes:
                self._cached = (changes, *self._queries.matching_vectors(None, self._table))
            return self._cached[1:]


def cosine(matrix: Vector, vector: Vector) -> Vector:
    """Cosine of each row of ``[n, dims]`` with ``[dims]``; 0 where one of them is zero."""
    norms = np.sqrt(np.einsum("nd,nd->n", matrix, matrix)) * np.float32(np.linalg.norm(vector))
    products = matrix @ vector.astype(np.float32, copy=False)
    result: Vector = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return result
