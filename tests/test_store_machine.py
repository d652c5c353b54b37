"""Any order of calls to a store, with kills and closes between any two steps, against a dict."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.bank.filters import matches
from cmt_memory.errors import InvalidInputError, StoreClosedError
from cmt_memory.retrieval.selector import HybridSelector
from tests.bank.helpers import lexicon_is_sound
from tests.kills.worker import MODEL, DigestEncoder

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
CHANNELS = [("dense",), ("bm25",), ("dense", "bm25")]


class StoreMachine(RuleBasedStateMachine):
    """What a user may do, in any order."""

    @initialize()
    def start(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.known: dict[str, tuple[str, dict[str, Any]]] = {}
        self.open()

    def open(self) -> None:
        self.store = CMTMemoryStore(self.folder, MODEL, encoder=DigestEncoder())

    @rule(id=ids, text=texts, metadata=metadatas, again=st.booleans())
    def add(self, id: str, text: str, metadata: dict[str, Any], again: bool) -> None:
        """A new document, a changed one, or the same once more."""
        assert self.store.add_documents([Document(text, metadata, id)] * (1 + again)) == [id] * (1 + again)
        self.known[id] = (text, metadata)

    @rule(id=ids, metadata=metadatas)
    def change_metadata(self, id: str, metadata: dict[str, Any]) -> None:
        if id in self.known:
            self.add(id, self.known[id][0], metadata, False)

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
        index, self.store.bank._index = self.store.bank._index, None
        if delete:
            self.delete([id])
        else:
            self.add(id, text, metadata, False)
        self.store.bank._index = index
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
        accepted = {id for id, (_, metadata) in self.known.items() if matches(filter, metadata)}
        with_word = {id for id in accepted if word in self.known[id][0].split()}
        store = self.store
        if read_only:
            store = CMTMemoryStore(self.folder, MODEL, encoder=DigestEncoder(), read_only=True)
        for channels in CHANNELS:
            hits = HybridSelector(store.bank, store.encoder, channels).select(word, 9, filter=filter)
            expected = with_word if channels == ("bm25",) else accepted
            assert {hit.id for hit in hits} == expected, channels
            for hit in hits:
                assert (hit.text, hit.metadata) == self.known[hit.id]
        if read_only:
            store.close()

    @invariant()
    def same_as_the_dict(self) -> None:
        assert len(self.store) == len(self.known)
        expected = [Document(*self.known[id], id) for id in IDS if id in self.known]
        assert self.store.get(IDS) == expected
        for document in expected:
            names = self.store.bank.passage_ids([str(document.id)])
            [memory], [expected_memory] = self.store.memories.load_memories(names), MODEL.compress([document.text])
            assert memory.slots.equal(expected_memory.slots)

    def teardown(self) -> None:
        if hasattr(self, "store"):
            with lexicon_is_sound(self.store.bank):
                pass
            self.store.close()
            shutil.rmtree(self.folder)


TestStoreMachine = StoreMachine.TestCase
TestStoreMachine.settings = settings(max_examples=15, stateful_step_count=14, deadline=None)
