"""An index of several collections, each for a range of keys: it answers as one would."""

from __future__ import annotations

import contextlib
import random
import shutil
import threading
from pathlib import Path
from typing import Any

import chromadb
import numpy as np
import pytest
from chromadb.config import Settings

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.filters import matches, parse
from cmt_memory.errors import StoreFullError
from tests.bank.helpers import stored, vector

PART, COUNT = 7, 40


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cmt_memory.bank.index._PART", PART)


@pytest.fixture
def client(tmp_path: Path) -> Any:
    client = chromadb.PersistentClient(str(tmp_path / "server"), Settings(anonymized_telemetry=False))
    yield client
    client.close()


def documents(numbers: range) -> list[Any]:
    return [stored(f"d{n}", f"text {n}", {"n": n % 3}, seed=n) for n in numbers]


def check(bank: MemoryBank, alive: set[int]) -> None:
    """Searches find what exact search over vectors and metadata would, in the same order."""
    assert len(bank) == len(alive)
    for number in (1, 13, 99):
        for filter in (None, {"n": 1}, {"n": {"$in": [0, 2]}}):
            accepted = [n for n in alive if matches(filter, {"n": n % 3})]
            exact = sorted(accepted, key=lambda n: -float(vector(n) @ vector(number)))
            for limit in (1, 5, COUNT):
                found = bank.search_vectors(vector(number), limit, parse(filter))
                rows = bank.passages([key for key, _ in found])
                assert [rows[key].document for key, _ in found] == [f"d{n}" for n in exact[:limit]]
                assert np.allclose([cosine for _, cosine in found], [vector(n) @ vector(number) for n in exact[:limit]])


def differences(bank: MemoryBank) -> tuple[list[int], ...]:
    assert bank._index is not None
    return bank._index.compare()


@pytest.mark.parametrize("served", [False, True])
def test_parts_answer_as_one_collection(tmp_path: Path, client: Any, warnings_seen: list[str], served: bool):
    chance, alive, added = random.Random(0), set[int](), 0
    folder = tmp_path / "bank"
    bank = MemoryBank(folder, client=client if served else None)
    for _ in range(14):
        more = chance.randrange(12)
        bank.put(documents(range(added, added + more)))
        alive |= set(range(added, added + more))
        added += more
        gone = chance.sample(sorted(alive), k=min(len(alive), chance.randrange(6)))
        bank.delete([f"d{n}" for n in gone])
        alive -= set(gone)
        check(bank, alive)
        if chance.random() < 0.3:
            bank.close()
            bank = MemoryBank(folder, client=client if served else None)
    assert added > 8 * PART
    assert not any(differences(bank))
    bank.compact()
    check(bank, alive)
    bank.close()
    assert not warnings_seen


def test_a_part_is_a_collection_of_its_own(tmp_path: Path, client: Any):
    with contextlib.closing(MemoryBank(tmp_path / "bank", client=client)) as bank:
        bank.put(documents(range(COUNT)))
        name = bank.meta("collection")
        sizes = {collection.name: collection.count() for collection in client.list_collections()}
        assert set(sizes) == {name, *(f"{name}.{part}" for part in range(1, 1 + COUNT // PART))}
        assert sum(sizes.values()) == COUNT
        assert max(sizes.values()) == PART


def test_a_part_that_another_process_began_is_searched(tmp_path: Path, client: Any):
    folder = tmp_path / "bank"
    with contextlib.closing(MemoryBank(folder, client=client)) as one:
        one.put(documents(range(3)))
        with contextlib.closing(MemoryBank(folder, client=client)) as other:
            other.put(documents(range(3, COUNT)))
            check(one, set(range(COUNT)))
            other.delete([f"d{n}" for n in range(2 * PART)])
            check(one, set(range(2 * PART, COUNT)))


def test_a_rebuild_leaves_no_part_and_no_collection_of_others(tmp_path: Path, client: Any, warnings_seen: list[str]):
    folder = tmp_path / "bank"
    bank = MemoryBank(folder, client=client)
    bank.put(documents(range(COUNT)))
    name = bank.meta("collection")
    others = {"cmt", f"{name}0", f"{name}-memory", f"{name}.1x"}
    for other in others:
        client.create_collection(other, embedding_function=None)
    bank.close()
    client.delete_collection(f"{name}.2")
    bank = MemoryBank(folder, client=client)
    assert sum("rebuilt the index of 40 passages" in message for message in warnings_seen) == 1
    check(bank, set(range(COUNT)))
    bank.delete([f"d{n}" for n in range(COUNT)])
    assert bank._index is not None
    bank._index.rebuild("for the test")
    left = {collection.name for collection in client.list_collections()}
    assert others <= left
    assert not {found for found in left - others if found != name}
    bank.close()


def test_more_collections_than_a_server_lists_at_once(tmp_path: Path, client: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cmt_memory.bank.index._LISTED", 2)
    with contextlib.closing(MemoryBank(tmp_path / "bank", client=client)) as bank:
        bank.put(documents(range(COUNT)))
    with contextlib.closing(MemoryBank(tmp_path / "bank", client=client)) as bank:
        check(bank, set(range(COUNT)))
        assert not any(differences(bank))


def test_a_part_without_passages_is_not_asked(tmp_path: Path):
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        bank.put(documents(range(COUNT)))
        bank.delete([f"d{n}" for n in range(PART, 4 * PART)])
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        assert bank._queries.parts(PART) == [0, 1, 4, 5]  # keys begin at 1
        check(bank, set(range(COUNT)) - set(range(PART, 4 * PART)))


def test_threads_add_and_search_across_parts(tmp_path: Path, warnings_seen: list[str]):
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        errors: list[BaseException] = []

        def work(first: int) -> None:
            try:
                for n in range(first, first + 10):
                    bank.put(documents(range(n, n + 1)))
                    ((key, _),) = bank.search_vectors(vector(n), 1)
                    assert bank.passages([key])[key].document == f"d{n}"
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(first,)) for first in (0, 10, 20, 30)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors
        check(bank, set(range(COUNT)))
    assert not warnings_seen


def test_a_kill_between_parts_costs_no_rebuild(tmp_path: Path, warnings_seen: list[str]):
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        bank.put(documents(range(COUNT)))
        shutil.copytree(tmp_path / "bank", tmp_path / "killed")
    with contextlib.closing(MemoryBank(tmp_path / "killed")) as bank:
        check(bank, set(range(COUNT)))
    assert not warnings_seen


@pytest.mark.parametrize("served", [False, True])
def test_an_index_that_was_divided_otherwise_is_rebuilt(
    tmp_path: Path, client: Any, warnings_seen: list[str], monkeypatch: pytest.MonkeyPatch, served: bool
):
    """As many passages as expected, but not where they are looked for."""
    with monkeypatch.context() as before:
        before.setattr("cmt_memory.bank.index._PART", 131_072)
        with contextlib.closing(MemoryBank(tmp_path / "bank", client=client if served else None)) as bank:
            bank.put(documents(range(20)))
            bank.delete([f"d{n}" for n in range(PART + 1)])
    with contextlib.closing(MemoryBank(tmp_path / "bank", client=client if served else None)) as bank:
        bank.put(documents(range(20, COUNT)))
        check(bank, set(range(PART + 1, COUNT)))
        assert not any(differences(bank))
    assert ["other parts" in message for message in warnings_seen] == [True]


def test_parts_are_searched_where_no_thread_can_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As when the interpreter is ending."""
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        bank.put(documents(range(COUNT)))
        monkeypatch.setattr("concurrent.futures.thread._shutdown", True)
        check(bank, set(range(COUNT)))


def test_a_part_that_is_just_begun_is_not_asked(tmp_path: Path):
    """A Chroma server fails at times where a collection's first entries are being written."""
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        bank.put(documents(range(PART - 1)))
        bank._ledger.put(documents(range(PART - 1, 2 * PART)), keep_text=True)
        assert bank._queries.parts(PART) == [0]
        assert bank._queries.counts(PART) == {0: PART - 1, 1: PART, 2: 1}
        bank.put(documents(range(2 * PART, 2 * PART + 1)))
        assert bank._queries.parts(PART) == [0, 1, 2]
        check(bank, set(range(2 * PART + 1)))


def test_what_the_ledger_could_not_confirm_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with contextlib.closing(MemoryBank(tmp_path / "bank")) as bank:
        bank.put(documents(range(2 * PART)))
        with monkeypatch.context() as full:
            full.setattr(bank._ledger, "mark_indexed", lambda *_: (_ for _ in ()).throw(StoreFullError("full")))
            with pytest.raises(StoreFullError):
                bank.put(documents(range(2 * PART, COUNT)))
        check(bank, set(range(COUNT)))
        bank.put(documents(range(COUNT, COUNT + 1)))
        check(bank, set(range(COUNT + 1)))
        assert bank._index is not None
        assert not bank._index._behind
