"""What can be looked up in a store without a question: ids, passages, vectors, and what has changed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cmt_memory.bank.filters import parse
from cmt_memory.documents import MemoryHit
from cmt_memory.errors import InvalidInputError

if TYPE_CHECKING:
    from cmt_memory.bank.bank import MemoryBank
    from cmt_memory.bank.records import Vector
    from cmt_memory.retrieval.selector import HybridSelector


class Lookup:
    """The part of a `CMTMemoryStore` that is asked by id or by vector."""

    bank: MemoryBank
    selector: HybridSelector

    @property
    def read_only(self) -> bool:
        """Whether the store was opened beside a process that writes, so that it cannot be changed here."""
        return self.bank.read_only

    def ids(self, filter: dict[str, Any] | None = None, limit: int | None = None, offset: int = 0) -> list[str]:
        """Ids of documents, in the order in which they were first added.

        Args:
            filter: a condition on metadata, as in `search`; all documents without one.
            limit: how many at most.
            offset: how many to leave out before those.

        Raises:
            InvalidInputError: a filter that means nothing, or a negative number.
        """
        for name, value in (("limit", limit), ("offset", offset)):
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
                raise InvalidInputError(f"{name} is {value!r}; expected a whole number of at least 0.")
        return self.bank.ids(limit, offset, parse(filter))

    def passages(self, ids: str | Sequence[str]) -> list[MemoryHit]:
        """Passages by their id, and all passages of documents by theirs, in the order given; each has the score 1.

        Raises:
            InvalidInputError: an id is unknown.
        """
        names: dict[str, None] = {}
        for id in id_list(ids):
            names |= dict.fromkeys([id] if self.bank.is_passage(id) else self.bank.passage_ids([id]))
        return [
            MemoryHit(row.document, name, (row.start, row.end), 1.0, {}, row.text, row.metadata)
            for name, row in zip(names, self.bank.passages_by_id(list(names)), strict=True)
        ]

    def search_by_vector(
        self,
        vector: Sequence[float] | Vector,
        k: int = 4,
        filter: dict[str, Any] | None = None,
        min_score: float | None = None,
    ) -> list[MemoryHit]:
        """The passages nearest to a vector of the store's encoder, nearest first; the other channels are left out.

        Args:
            vector: as many numbers as the encoder gives.
            k: how many at most.
            filter: see `search`.
            min_score: leave out hits with a lower `score`.

        Raises:
            InvalidInputError: the store has no encoder, the vector has another dimension, or an argument as in
                `search`.
        """
        return self.selector.select_by_vector(vector, k, filter=filter, min_score=min_score)

    def vectors(self, passages: str | Sequence[str]) -> Vector:
        """The retrieval vectors `[n, dimension]` of passages, of length 1, in the order given.

        Raises:
            InvalidInputError: a passage is unknown, or the store has no encoder.
        """
        return self.bank.vectors(id_list(passages))

    def versions(self, ids: str | Sequence[str]) -> list[str | None]:
        """What tells whether a text has changed: a digest for each document or passage, None for an unknown one.

        An id with the same version names the same text, so what was made of it (an answer, a choice) still holds.
        """
        given = id_list(ids)
        documents = [id.rpartition("#")[0] if self.bank.is_passage(id) else id for id in given]
        digests = self.bank.text_digests(documents)
        return [digests.get(id) for id in documents]

    def changes(self) -> int:
        """Number of commits so far, by any process: equal numbers mean an equal store."""
        return self.bank.changes()


def id_list(ids: str | Sequence[str]) -> list[str]:
    """One id or several as a list.

    Raises:
        InvalidInputError: they are not strings, or hold lone surrogates.
    """
    given = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Sequence) else [ids]
    if not all(isinstance(id, str) for id in given):
        raise InvalidInputError(f"ids must be strings, not {given!r}.")
    if any("\ud800" <= character <= "\udfff" for id in given for character in id):
        raise InvalidInputError(f"ids have no lone surrogates, and these have: {given!r}.")
    return given
