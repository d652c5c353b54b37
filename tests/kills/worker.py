"""The process that is killed: it changes a store at random and says what it is about to do and what is done.

A new kind of work is one more entry of `WORK`.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import chromadb  # noqa: F401  # loaded before the fork, so that every trial finds it loaded
import numpy as np
import torch

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import CMTError
from tests.tiny import tiny_model

torch.set_num_threads(1)

MODELS = [tiny_model("llama", "chat", ratio=1), tiny_model("qwen3", "chat", ratio=1)]
MODEL = MODELS[0]
PART = 16  # of an index: a store of a million passages has as many parts as one of these
PASSAGE_TOKENS = 220  # 84 KB of float32 keys and values: more than the ledger takes in


class DigestEncoder:
    """An embedding object in LangChain's shape: equal texts are near, all others far."""

    model_name = "digest"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [self.embed_query(text) for text in texts]

    def embed_query(self, text: str) -> list[float]:
        seed = int.from_bytes(sha256(text.encode()).digest()[:8], "little")
        return np.random.default_rng(seed).standard_normal(16).tolist()


def document(id: str, version: int) -> Document:
    """The one document of this id and version: mostly short, at times of several passages with payload files."""
    chance = random.Random(f"{id} {version}")
    lines = 40 if chance.random() < 0.2 else chance.randint(1, 4)
    text = "\n".join(
        f"Line {n} of {id} as of {version}: {chance.choice('abcdef') * 3} {chance.random()}." for n in range(lines)
    )
    return Document(text, {"name": id, "version": version, "odd": [None, chance.random()]}, id)


def made_by(path: Path) -> int:
    """Which of `MODELS` made a store's memories; the first makes those of a new one."""
    try:
        bank = MemoryBank(path, read_only=True)
    except CMTError:
        return 0
    try:
        stored = bank.meta("model")
    finally:
        bank.close()
    return 0 if stored is None else [model.fingerprint for model in MODELS].index(stored["fingerprint"])


def open_store(path: Path) -> CMTMemoryStore:
    model = MODELS[made_by(path)]
    with patch("cmt_memory.bank.index._PART", PART):
        store = CMTMemoryStore(path, model, encoder=DigestEncoder(), passage_tokens=PASSAGE_TOKENS, passage_overlap=8)
    store._ingestion.commit_tokens = store._settings["commit_tokens"] = 200  # several commits a call
    return store


def digests(store: CMTMemoryStore, ids: Iterable[str]) -> dict[str, list[str]]:
    """Of the memories of each document."""
    return {id: store.bank.payload_digests(store.bank.passage_ids([id])) for id in ids}


class Worker:
    """One store and what it tells the parent.

    `begin(work, versions)` comes before the first change and names the version that each document it touches will
    have (None: deleted), `done(ids)` after a change was acknowledged, `end()` when the work is over. While memories
    are made anew, `remade` names the documents that have one, and `adopted` says what all have now.
    """

    def __init__(self, path: Path, seed: int, pipe: Connection) -> None:
        self.path, self.chance, self.pipe = path, random.Random(seed), pipe
        self.fresh = seed * 100_000
        self.begin("open", {})
        self.store = open_store(path)
        self.end()

    def say(self, **message: Any) -> None:
        self.pipe.send_bytes(json.dumps(message).encode())

    def begin(self, work: str, versions: dict[str, int | None]) -> None:
        self.say(begin=work, versions=versions)

    def done(self, ids: Iterable[str]) -> None:
        known = list(ids)
        self.say(done=dict.fromkeys(known) | digests(self.store, self.store.bank.contains(known)))

    def end(self) -> None:
        self.say(end=True)

    def some(self, most: int) -> list[str]:
        ids = self.store.bank.ids()
        return self.chance.sample(ids, min(len(ids), self.chance.randint(1, most)))

    def new(self, most: int) -> dict[str, int]:
        self.fresh += most
        return {f"d{self.fresh - n}": 0 for n in range(self.chance.randint(1, most))}

    def put(self, work: str, versions: dict[str, int]) -> None:
        self.begin(work, dict(versions))
        self.store.add_documents([document(*item) for item in versions.items()], on_progress=self.done)
        self.end()


def add(worker: Worker) -> None:
    worker.put("add", worker.new(8))


def update(worker: Worker) -> None:
    known = worker.store.get(worker.some(5))
    worker.put("update", {str(document.id): document.metadata["version"] + 1 for document in known})


def delete(worker: Worker) -> None:
    ids = worker.some(4)
    worker.begin("delete", dict.fromkeys(ids))
    worker.store.delete(ids)
    worker.done(ids)
    worker.end()


def sync(worker: Worker) -> None:
    """Bring the index up to many documents that only the ledger has."""
    bank, versions = worker.store.bank, worker.new(60)
    index, bank._index = bank._index, None
    worker.put("add to the ledger", versions)
    bank._index = index
    worker.begin("sync", {})
    bank._sync()
    worker.end()


def rebuild(worker: Worker) -> None:
    index = worker.store.bank._index
    assert index is not None
    worker.begin("rebuild", {})
    index.rebuild("the test asked for it")
    worker.end()


def recompress(worker: Worker) -> None:
    """Make all memories anew by the other model."""
    which = made_by(worker.path)
    worker.begin("recompress", {})
    worker.store.recompress(MODELS[1 - which], on_progress=lambda ids: worker.say(remade=ids))
    worker.say(adopted=digests(worker.store, worker.store.bank.ids()))
    worker.end()


def reopen(worker: Worker) -> None:
    worker.begin("close", {})
    worker.store.close()
    worker.end()
    worker.begin("open", {})
    worker.store = open_store(worker.path)
    worker.end()


WORK: dict[str, Callable[[Worker], None]] = {
    "add": add,
    "update": update,
    "delete": delete,
    "sync": sync,
    "recompress": recompress,
    "rebuild": rebuild,
    "reopen": reopen,
}


def work(path: Path, seed: int, focus: str, pipe: Connection) -> None:
    """Work until killed, more on `focus` than on the rest; what takes longest only there."""
    worker = Worker(path, seed, pipe)
    others = [name for name in WORK if name != "recompress"]
    while True:
        name = focus if worker.chance.random() < 0.5 else worker.chance.choice(others)
        WORK[name](worker)
