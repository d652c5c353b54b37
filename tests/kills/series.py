"""Kills, one after the other on the same store, each followed by the check of everything that was acknowledged."""

from __future__ import annotations

import json
import logging
import multiprocessing
import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from cmt_memory import CMTMemoryStore
from cmt_memory.bank.bank import MemoryBank
from tests.bank.helpers import lexicon_is_sound
from tests.kills.worker import MODELS, WORK, digests, document, made_by, open_store, work

Digests = list[str]


@dataclass
class Series:
    """A store, what is known of it, and what the kills met.

    Args:
        path: the store's folder.
        seed: makes the kills' moments and the work repeatable, up to the machine's speed.
    """

    path: Path
    seed: int
    versions: dict[str, int] = field(default_factory=dict)
    digests: dict[str, Digests] = field(default_factory=dict)
    phases: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    repairs: int = 0
    rebuilds: int = 0
    checks: int = 0
    made_by: int = 0
    resumed: int = 0

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._open: dict[str, int | None] = {}
        self._touched: set[str] = set()
        self._remade: set[str] = set()
        self._durations: dict[str, float] = {}
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["tests.kills.worker"])

    def kill(self, number: int) -> str:
        """Start a process, kill it, check the store; returns what the process was doing."""
        focus = list(WORK)[number % len(WORK)]
        self._open, self._touched, self._remade = {}, set(), set()
        receiver, sender = self._context.Pipe(duplex=False)
        process = self._context.Process(target=work, args=(self.path, self.seed + number, focus, sender), daemon=True)
        process.start()
        sender.close()
        try:
            phase = self._follow(receiver, process, focus if number % 5 else "open")
        finally:
            process.kill()
            process.join()
            receiver.close()
        self.check(phase)
        self.phases[phase] += 1
        return phase

    def _follow(self, pipe: Connection, process: Any, focus: str) -> str:
        """Take in what the process says; kill it somewhere in the middle of the work in focus."""
        phase, began, deadline = "open", 0.0, float("inf")
        patience = 0 if focus == "recompress" else self._chance.randint(0, 3)
        names = {"reopen": "close"}
        while True:
            try:
                if not pipe.poll(max(0.0, min(deadline - time.monotonic(), 60.0))):
                    assert deadline < float("inf"), f"the process says nothing while it does: {phase}"
                    process.kill()
                    deadline = float("inf")
                    continue
                message = json.loads(pipe.recv_bytes())
            except (EOFError, OSError):
                process.join()
                assert process.exitcode == -9, f"it ended by itself with {process.exitcode} while it did: {phase}"
                return phase
            if "begin" in message:
                phase, began = message["begin"], time.monotonic()
                self._open = message["versions"]
                self._touched |= self._open.keys()
                if phase == names.get(focus, focus) and deadline == float("inf"):
                    patience -= 1
                    if patience < 0 or focus == "open":
                        guess = 0.02 * len(self.versions) if phase == "recompress" else 0.05
                        deadline = began + self._chance.uniform(0, 1.1 * self._durations.get(phase, guess))
            elif "done" in message:
                self._acknowledge(message["done"])
            elif "remade" in message:
                self._remade |= set(message["remade"])
            elif "adopted" in message:
                assert message["adopted"].keys() == self.versions.keys()
                self.digests, self.made_by, self._remade = message["adopted"], 1 - self.made_by, set()
            else:
                self._durations[phase] = time.monotonic() - began
                assert not self._open, f"{phase} never acknowledged {list(self._open)}"

    def _acknowledge(self, done: dict[str, Digests | None]) -> None:
        for id, made in done.items():
            version = self._open.pop(id)
            self.acknowledged += 1
            if version is None or made is None:
                assert version is made is None
                del self.versions[id], self.digests[id]
            else:
                self.versions[id], self.digests[id] = version, made

    def check(self, phase: str = "") -> None:
        """Open the store and compare it with what was acknowledged; what was not may be there whole, or not."""
        with _warnings() as seen:
            unsettled = False
            if (self.path / "ledger.sqlite3").exists():
                with _reader(self.path) as reader:
                    unsettled = reader is not None and bool(reader._queries.stale() or reader._queries.to_index())
            with open_store(self.path) as store:
                assert len(seen) <= 1, seen
                assert seen or not unsettled, "the opening repaired something and did not say so"
                self.repairs += len(seen)
                self.rebuilds += any("rebuilt" in message for message in seen)
                self._settle(store)
                self._settle_memories(store, phase)
                self._compare(store)
            said = len(seen)
            open_store(self.path).close()
            assert len(seen) == said, seen[said:]

    def _settle(self, store: CMTMemoryStore) -> None:
        """Take over what became of the documents that were being changed."""
        found = {str(known.id): known for known in store.get(list(self._open))}
        for id, version in self._open.items():
            before = self.versions.get(id)
            now = found[id].metadata["version"] if id in found else None
            assert now in (before, version), f"{id} was {before}, would be {version}, is {now}"
            if now is None:
                self.versions.pop(id, None)
                self.digests.pop(id, None)
            elif now != before:
                self.versions[id] = now
                self.digests |= digests(store, [id])

    def _settle_memories(self, store: CMTMemoryStore, phase: str) -> None:
        """The memories are all of one model: the one before or, where they were being made anew, the other.

        What was interrupted is left to the next process that makes them anew, or is finished here.
        """
        assert _generations(store) <= {store.bank.generation, store.bank.generation + 1}
        if made_by(self.path) != self.made_by:
            assert phase == "recompress"
            self._take_over(store)
            assert _generations(store) <= {store.bank.generation}
        elif store.bank.meta("next_memories") is not None:
            following = store.bank.next_memories()
            lacking = {store.bank._queries.names([key])[key][0] for _, key, _ in following.lacking()}
            assert not lacking & self._remade, "memories that were reported are made once more"
            if self._chance.random() < 0.5:
                made: list[str] = []
                store.recompress(MODELS[1 - self.made_by], on_progress=made.extend)
                assert set(made) == lacking
                self._take_over(store)
                self.resumed += 1
        else:
            assert _generations(store) <= {store.bank.generation}

    def _take_over(self, store: CMTMemoryStore) -> None:
        """Compare every memory with what the other model makes of the text, and know it from now on."""
        self.made_by = 1 - self.made_by
        for id in self.versions:
            names = store.bank.passage_ids([id])
            texts = [row.text for row in store.bank.passages_by_id(names)]
            for kept, memory in zip(store.bank.payloads(names), MODELS[self.made_by].compress(texts), strict=True):
                assert torch.allclose(kept.slots, memory.slots, atol=1e-4), f"{id} has a memory by another model"
        self.digests = digests(store, self.versions)

    def _compare(self, store: CMTMemoryStore) -> None:
        bank = store.bank
        ids = bank.ids()
        assert sorted(ids) == sorted(self.versions)
        assert len(store) == len(ids)
        expected = {id: document(id, version) for id, version in self.versions.items()}
        for known in store.get(ids):
            assert known == expected[str(known.id)]
        searched = [id for id in self._touched if id in self.versions]
        searched += self._chance.sample(ids, min(len(ids), 8))
        passages = 0
        for id in ids:
            names = bank.passage_ids([id])
            rows = bank.passages_by_id(names)
            assert (rows[0].start, rows[-1].end) == (0, len(expected[id].text)), f"{id} is half there"
            bank.payloads(names)  # which compares the bytes with the digests
            assert bank.payload_digests(names) == self.digests[id]
            passages += len(rows)
            if id in searched:
                for row in rows:
                    hit = store.search(row.text, k=1)[0]
                    assert (hit.id, hit.text) == (id, row.text)
                assert store.search(f"as of {id}", k=1, filter={"name": id})[0].id == id
            self.checks += 1
        assert bank.count_passages() == bank._queries.count_vectors() == passages
        index = bank._index
        assert index is not None
        assert not index._behind
        assert not any(index.compare())
        assert index._index.count() == passages
        with lexicon_is_sound(bank):
            pass


def _generations(store: CMTMemoryStore) -> set[int]:
    with store.bank._ledger.database.read() as connection:
        return {row[0] for row in connection.execute("SELECT DISTINCT generation FROM payloads")}


@contextmanager
def _reader(path: Path) -> Iterator[MemoryBank | None]:
    """The store as a reader finds it before anything is repaired; None where it was never completely made."""
    from cmt_memory.errors import CMTError

    try:
        bank = MemoryBank(path, read_only=True)
    except CMTError:
        yield None
        return
    try:
        yield bank
    finally:
        bank.close()


@contextmanager
def _warnings() -> Iterator[list[str]]:
    seen: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: seen.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("cmt_memory").addHandler(handler)
    try:
        yield seen
    finally:
        logging.getLogger("cmt_memory").removeHandler(handler)
