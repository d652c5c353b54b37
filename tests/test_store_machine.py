"""Any order of calls to a store, with kills and closes between any two steps, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.bank.filters import matches
from cmt_memory.errors import InvalidInputError, StoreClosedError
from cmt_memory.retrieval.selector import HybridSelector
from tests.bank.helpers import lexicon_is_sound
from tests.kills.worker import MODELS, DigestEncoder, made_by

IDS = ["a", "a#0", "../b", "'c\0"]
WORDS = ["red", "blue", "tea", "grün"]
ids = st.sampled_from(IDS)
texts = st.lists(st.sampled_from(WORDS), min_size=1, max_size=4).map(" ".join)
metadatas = st.dictionaries(
    st.sampled_from(["x", "y"]), st.sampled_from([1, 2, 1.5, True, "s", "2024-05-01", None, [1], 2**70]), max_size=2
)
operands = st.sampled_from([1, 1.5, 2, True, "s", "2024"])
conditions = st.one_of(
    operands,
    st.builds(lambda value: {"$ne": value}, operands),
    st.builds(lambda value: {"$gte": value}, st.sampled_from([1, 1.5, "2024"])),
    st.builds(lambda values: {"$in": values}, st.lists(operands, max_size=3)),
    st.builds(lambda values: {"$nin": values}, st.lists(operands, max_size=3)),
)
leaves = st.dictionaries(st.sampled_from(["x", "y"]), conditions, min_size=1, max_size=2)
filters = st.one_of(
    leaves,
    st.builds(lambda one, other: {"$or": [one, other]}, leaves, leaves),
    st.builds(lambda one: {"$not": one}, leaves),
)
ttls = st.sampled_from([None, None, 5, 50])
CHANNELS = [("dense",), ("bm25",), ("memory",), ("dense", "bm25", "memory")]


class Known(NamedTuple):
    text: str
    metadata: dict[str, Any]
    expires: float | None


class StoreMachine(RuleBasedStateMachine):
    """What a user may do, in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.known: dict[str, Known] = {}
        self.now, self.made_by = 1000.0, 0
        self.open()

    def open(self) -> None:
        self.store = self.opened()

    def opened(self, **settings: Any) -> CMTMemoryStore:
        model, channels = MODELS[made_by(self.folder)], ("dense", "bm25", "memory")
        return CMTMemoryStore(
            self.folder, model, encoder=DigestEncoder(), channels=channels, clock=lambda: self.now, **settings
        )

    def expiry(self, ttl: float | None) -> float | None:
        return None if ttl is None else self.now + ttl

    @rule(id=ids, text=texts, metadata=metadatas, ttl=ttls, again=st.booleans())
    def add(self, id: str, text: str, metadata: dict[str, Any], ttl: float | None, again: bool) -> None:
        """A new document, a changed one, or the same once more."""
        documents = [Document(text, metadata, id)] * (1 + again)
        assert self.store.add_documents(documents, ttl=ttl) == [id] * (1 + again)
        self.known[id] = Known(text, metadata, self.expiry(ttl))

    @rule(id=ids, text=st.none() | texts, metadata=st.none() | metadatas, ttl=ttls | st.just("keep"))
    def update(self, id: str, text: str | None, metadata: dict[str, Any] | None, ttl: Any) -> None:
        if id not in self.known:
            with pytest.raises(InvalidInputError):
                self.store.update(id, text=text, metadata=metadata, ttl=ttl)
            return
        self.store.update(id, text=text, metadata=metadata, ttl=ttl)
        before = self.known[id]
        self.known[id] = Known(
            before.text if text is None else text,
            before.metadata if metadata is None else metadata,
            before.expires if ttl == "keep" else self.expiry(ttl),
        )

    @rule(seconds=st.sampled_from([3, 30]))
    def wait(self, seconds: float) -> None:
        """Time goes on, and over some documents."""
        self.now += seconds
        self.known = {id: k for id, k in self.known.items() if k.expires is None or k.expires > self.now}

    @rule(interrupt=st.booleans())
    def recompress(self, interrupt: bool) -> None:
        """By the other model, or interrupted after the first document."""

        def stop(_: list[str]) -> None:
            if interrupt:
                raise KeyboardInterrupt

        try:
            self.store.recompress(MODELS[1 - self.made_by], on_progress=stop)
        except KeyboardInterrupt:
            return
        self.made_by = 1 - self.made_by

    @rule()
    def compact(self) -> None:
        self.store.compact()
        assert self.store.verify().ok

    @rule(some=st.lists(ids, min_size=1, max_size=3))
    def delete(self, some: list[str]) -> None:
        if set(some) <= self.known.keys():
            self.store.delete(some)
            for id in set(some):
                del self.known[id]
        else:
            with pytest.raises(InvalidInputError):
                self.store.delete(some)

    @rule(id=ids, text=texts, metadata=metadatas, delete=st.booleans())
    def kill_before_the_index(self, id: str, text: str, metadata: dict[str, Any], delete: bool) -> None:
        """The process ends when the ledger has the change and the index has not."""
        bank = self.store.bank
        indexes, bank._index, bank._memory_index = (bank._index, bank._memory_index), None, None
        if delete:
            self.delete([id])
        else:
            self.add(id, text, metadata, None, False)
        bank._index, bank._memory_index = indexes
        self.kill()

    @rule()
    def kill(self) -> None:
        """Go on with what is in the files at this moment."""
        old, self.folder = self.folder, Path(tempfile.mkdtemp())
        shutil.copytree(old, self.folder, dirs_exist_ok=True)
        self.store.close()
        shutil.rmtree(old)
        self.open()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        with pytest.raises(StoreClosedError):
            self.store.search("red")
        self.open()

    @rule(filter=st.none() | filters, word=st.sampled_from(WORDS), read_only=st.booleans())
    def search(self, filter: dict[str, Any] | None, word: str, read_only: bool) -> None:
        """Every channel finds what passes the filter, and nothing else."""
        accepted = {id for id, known in self.known.items() if matches(filter, known.metadata)}
        with_word = {id for id in accepted if word in self.known[id].text.split()}
        store = self.opened(read_only=True) if read_only else self.store
        for channels in CHANNELS:
            selector = HybridSelector(store.bank, store.encoder, channels, store._pooled_question)
            hits = selector.select(word, 9, filter=filter)
            expected = with_word if channels == ("bm25",) else accepted
            assert {hit.id for hit in hits} == expected, channels
            for hit in hits:
                assert (hit.text, hit.metadata) == self.known[hit.id][:2]
        if read_only:
            store.close()

    @invariant()
    def same_as_the_dict(self) -> None:
        assert len(self.store) == len(self.known)
        expected = [Document(*self.known[id][:2], id) for id in IDS if id in self.known]
        assert self.store.get(IDS) == expected
        for document in expected:
            names = self.store.bank.passage_ids([str(document.id)])
            [memory] = self.store.memories.load_memories(names)
            [made] = MODELS[self.made_by].compress([document.text])
            assert torch.allclose(memory.slots, made.slots, atol=1e-5)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            with lexicon_is_sound(self.store.bank):
                pass
            self.store.close()
            shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=15, stateful_step_count=14, deadline=None)
