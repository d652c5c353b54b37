"""What a store holds, for those who look at it from outside: listings, passages by id, vectors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.filters import parse
from cmt_memory.bank.records import Vector
from cmt_memory.documents import Document, MemoryHit
from cmt_memory.errors import InvalidInputError
from cmt_memory.retrieval.encoders import Encoder


class Contents:
    """The part of a `CMTMemoryStore` that shows what is in it."""

    bank: MemoryBank
    encoder: Encoder | None

    @property
    def keep_text(self) -> bool:
        """Whether the store keeps texts."""
        return self.bank.keep_text

    def documents(
        self, filter: dict[str, Any] | None = None, *, limit: int | None = None, offset: int = 0
    ) -> list[Document]:
        """Documents in the order in which they were first added.

        Args:
            filter: a condition on metadata, as `search` takes it; None lists all.
            limit: how many at most.
            offset: how many to pass over first.

        Raises:
            InvalidInputError: a filter that means nothing, or a negative number.
        """
        _check_page(limit, offset)
        return self.bank.matching(parse(filter), limit, offset)

    @property
    def read_only(self) -> bool:
        """Whether the store was opened beside a process that writes, so that it cannot be changed here."""
        return self.bank.read_only

    def document_ids(
        self, filter: dict[str, Any] | None = None, *, limit: int | None = None, offset: int = 0
    ) -> list[str]:
        """Ids of documents, in the order in which they were first added.

        Args:
            filter: a condition on metadata, as in `search`; all documents without one.
            limit: how many at most.
            offset: how many to leave out before those.

        Raises:
            InvalidInputError: a filter that means nothing, or a negative number.
        """
        _check_page(limit, offset)
        return self.bank.ids(limit, offset, parse(filter))

    def passages(self, ids: str | Sequence[str]) -> list[MemoryHit]:
        """Passages by their id, and documents by theirs with all of their passages, in the order asked for.

        Nothing was searched for, so their `score` is 1 and `scores` is empty.

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

    def vectors(self, passages: str | Sequence[str]) -> Vector:
        """The retrieval vectors ``[n, d]`` of passages, by passage id, in the order asked for.

        Raises:
            InvalidInputError: a passage is unknown, or the store has no encoder.
        """
        return self.bank.vectors(id_list(passages))

    def embed(self, questions: str | Sequence[str]) -> Vector:
        """Questions as the retrieval encoder sees them, ``[n, d]`` of length 1; `search` takes one as `vector`.

        Raises:
            InvalidInputError: the store has no encoder.
        """
        if self.encoder is None:
            raise InvalidInputError("The store has no retrieval encoder (encoder=None), so it makes no vectors.")
        given = [questions] if isinstance(questions, str) else list(questions)
        made = [self.encoder.encode_query(question) for question in given]
        return np.stack(made) if made else np.zeros((0, self.encoder.dimension), np.float32)

    def versions(self, ids: str | Sequence[str]) -> list[str | None]:
        """What tells whether a text has changed: a digest for each document or passage, None for an unknown one.

        An id with the same version names the same text, so what was made of it (an answer, a choice) still holds.
        """
        given = id_list(ids)
        documents = [id.rpartition("#")[0] if self.bank.is_passage(id) else id for id in given]
        digests = self.bank.text_digests(documents)
        return [digests.get(id) for id in documents]

    def changes(self) -> int:
        """Number of commits so far, by any process.

        While it and `len(store)` stay, the store holds the same: a document whose time to live ends goes without a
        commit.
        """
        return self.bank.changes()


def _check_page(limit: int | None, offset: int) -> None:
    for name, value in (("limit", limit), ("offset", offset)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 0):
            raise InvalidInputError(f"{name} is {value!r}; expected a whole number of at least 0.")


def id_list(ids: str | Sequence[str]) -> list[str]:
    """Ids as a list, checked."""
    given = [ids] if isinstance(ids, str) else list(ids) if isinstance(ids, Sequence) else [ids]
    if not all(isinstance(id, str) for id in given):
        raise InvalidInputError(f"ids must be strings, not {given!r}.")
    if any("\ud800" <= character <= "\udfff" for id in given for character in id):
        raise InvalidInputError(f"ids have no lone surrogates, and these have: {given!r}.")
    return given
