"""verify finds what is not as it was written; compact leaves nothing of what was deleted."""

from __future__ import annotations

import shutil
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.codec import encode_memory
from cmt_memory.errors import StoreClosedError, StoreCorruptError, StoreLockedError
from tests.bank.helpers import slots, stored, vector


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[MemoryBank]:
    bank = MemoryBank(tmp_path / "bank")
    bank.put([stored(f"d{n}", f"text number {n}", {"n": n}, pieces=2, seed=10 * n, big=n == 3) for n in range(6)])
    yield bank
    bank.close()


def change(bank: MemoryBank, sql: str, *values: Any) -> None:
    """Damage the ledger behind the bank's back."""
    connection = sqlite3.connect(bank.path / "ledger.sqlite3", isolation_level=None)
    connection.create_function("cmt_now", 0, lambda: 0.0)
    assert connection.execute(sql, values).rowcount != 0
    connection.close()


def payload_file(bank: MemoryBank) -> Path:
    return sorted((bank.path / "payloads").iterdir())[0]


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def index_of(bank: MemoryBank) -> Any:
    assert bank._index is not None
    return bank._index._index


def test_a_sound_bank_has_no_problems(bank: MemoryBank):
    bank.delete(["d5"])
    bank.set_metadata("d1", {"x": [1, None], "y": True, "z": 2**70})
    report = bank.verify()
    assert report.ok
    assert report.problems == []
    assert (report.documents, report.passages, report.memories) == (5, 10, 10)
    reader = MemoryBank(bank.path, read_only=True)
    assert reader.verify().ok
    reader.close()


DAMAGES: dict[str, tuple[Callable[[MemoryBank], None], str, str | None, str]] = {
    "text": (lambda b: change(b, "UPDATE documents SET text = CAST('tExt number 2' AS BLOB) WHERE id = 'd2'"),
             "text", "d2", "add it again"),
    "text gone": (lambda b: change(b, "UPDATE documents SET text = NULL WHERE id = 'd2'"),
                  "text", "d2", "add it again"),
    "metadata": (lambda b: change(b, """UPDATE documents SET metadata = '{"n":7}' WHERE id = 'd2'"""),
                 "metadata", "d2", "update"),
    "labels": (lambda b: change(b, "UPDATE labels SET value = 7 WHERE value = 2"), "metadata", "d2", "update"),
    "memory": (lambda b: change(b, "UPDATE payloads SET data = zeroblob(9) WHERE passage = 3"),
               "memory", "d1", "recompress"),
    "memory in a file": (lambda b: flip(payload_file(b)), "memory", "d3", "recompress"),
    "file gone": (lambda b: payload_file(b).unlink(), "memory", "d3", "recompress"),
    "file too many": (lambda b: (payload_file(b).parent / f"{'0' * 64}.safetensors").write_text("x") and None,
                      "file", None, "compact"),
    "half a file": (lambda b: (payload_file(b).parent / f"{'0' * 64}.7.partial").write_text("x") and None,
                    "file", None, "compact"),
    "vector gone": (lambda b: change(b, "DELETE FROM vectors WHERE passage = 5"), "vector", "d2", "add it again"),
    "index lacks one": (lambda b: index_of(b).delete([7]), "index", "d3", "compact"),
    "index has one more": (lambda b: index_of(b).upsert([99], vector(1)[None], [{}]), "index", None, "compact"),
    "index has another": (lambda b: index_of(b).upsert([7], vector(1)[None], [{}]), "index", "d3", "compact"),
    "words": (lambda b: change(b, "INSERT INTO lexicon (rowid, text) VALUES (2, 'zorblax')"), "words", None, "compact"),
    "counts": (lambda b: change(b, "UPDATE counters SET documents = 7"), "ledger", None, "compact"),
    "first passage gone": (lambda b: change(b, "DELETE FROM passages WHERE key = 5"), "ledger", "d2", "add it again"),
    "last passage gone": (lambda b: change(b, "DELETE FROM passages WHERE key = 6"), "ledger", "d2", "add it again"),
    "no passages": (lambda b: change(b, "INSERT INTO documents SELECT 99, 'empty', sha256, characters, bytes, created, "
                                     "updated, expires, metadata, metadata_sha256, text FROM documents "
                                     "WHERE id = 'd0'"),
                    "ledger", "empty", "add it again"),
    "stray payload": (lambda b: change(b, "INSERT INTO payloads VALUES (99, 0, x'00', 1, x'00')"),
                      "ledger", None, "compact"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_named_and_has_a_remedy(bank: MemoryBank, damage: str):
    act, kind, document, remedy = DAMAGES[damage]
    act(bank)
    problems = bank.verify().problems
    assert (kind, document) in [(problem.kind, problem.document) for problem in problems]
    assert all(remedy in p.remedy for p in problems if (p.kind, p.document) == (kind, document))
    assert all(problem.document in (None, document) for problem in problems)
    for remedy in sorted({problem.remedy for problem in problems}, reverse=True):
        if "add it again" in remedy:
            bank.delete([document])
        elif "update" in remedy:
            bank.set_metadata(str(document), {"n": 2})
        elif "recompress" in remedy:
            keys = bank.passage_keys([f"{document}#0", f"{document}#1"])
            whole = encode_memory(slots(0), slots(0)[:, 0], 3, "native")
            bank.set_payloads([(key, whole) for key in keys])
        else:
            bank.compact()
    assert bank.verify().problems == []


def test_an_asset_that_changed(bank: MemoryBank):
    bank.set_asset("pca", b"numbers")
    change(bank, "UPDATE assets SET data = x'00'")
    [problem] = bank.verify().problems
    assert (problem.kind, "'pca'" in problem.message, "copy" in problem.remedy) == ("setting", True, True)


@pytest.mark.parametrize("key", ["collection", "index_files", "keep_text"])
def test_a_damaged_setting_is_named(bank: MemoryBank, key: str):
    bank.close()
    change(bank, "UPDATE store_meta SET value = '{' || value WHERE key = ?", key)
    with pytest.raises(StoreCorruptError, match=f"setting '{key}' of the store is damaged"):
        MemoryBank(bank.path)


def test_verify_beside_writers_finds_nothing(bank: MemoryBank):
    """What is being added or deleted at the moment is no damage, nor are its files."""
    done = threading.Event()
    failures: list[BaseException] = []

    def write(name: str) -> None:
        number = 0
        try:
            while not done.is_set():
                number += 1
                bank.put([stored(f"{name}{number}", "some text", {}, seed=number, pieces=3, big=True)])
                bank.delete([f"{name}{number}"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    problems = [problem for _ in range(12) for problem in bank.verify().problems]
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert not problems


def test_stats_while_the_index_is_written_anew(bank: MemoryBank):
    done = threading.Event()

    def rebuild() -> None:
        assert bank._index is not None
        for _ in range(4):
            bank._index.rebuild("the test asked for it")
        done.set()

    thread = threading.Thread(target=rebuild)
    thread.start()
    while not done.is_set():
        assert bank.stats()["documents"] == 6
    thread.join()


def test_damaged_pages_are_problems_and_no_error(bank: MemoryBank):
    bank.close()
    path = bank.path / "ledger.sqlite3"
    content = bytearray(path.read_bytes())
    with sqlite3.connect(path) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'vectors'").fetchone()
    content[4096 * (page - 1) : 4096 * page] = bytes(range(256)) * 16
    path.write_bytes(content)
    reader = MemoryBank(bank.path, read_only=True)
    report = reader.verify()
    assert not report.ok
    assert {problem.kind for problem in report.problems} == {"ledger"}
    assert all("copy" in problem.remedy for problem in report.problems)
    reader.close()
    with pytest.raises(StoreClosedError):
        reader.verify()


@pytest.mark.parametrize("keep_text", [True, False])
@pytest.mark.parametrize("how", ["delete", "replace", "expire"])
def test_after_compact_no_file_has_what_was_deleted(tmp_path: Path, keep_text: bool, how: str):
    now = [0.0]
    bank = MemoryBank(tmp_path, keep_text=keep_text, clock=lambda: now[0])
    bank.put([stored(f"d{n}", f"xylophone{n} plays", {"tag": f"sousaphone{n}"}, seed=n) for n in range(1200)])
    gone = stored("d-gone", "quarantine zorblax", {"tag": "trombone"}, pieces=2, seed=7000, big=True)
    small = stored("d-small", "quarantine zorblax", {"tag": "trombone"}, seed=8000)
    gone.expires = small.expires = 5.0 if how == "expire" else None
    bank.put([gone, small])
    bank.search_vectors(vector(7000), 3)
    traces = [b"quarantine", b"zorblax", b"trombone", b"d-gone", vector(7000).tobytes(), vector(8000).tobytes()]
    traces += [slots(7000, dims=20_000).numpy().tobytes()[:64], slots(8000).numpy().tobytes()]
    before = contents(tmp_path)
    assert [trace in before for trace in traces] == [keep_text, keep_text, *[True] * 6]
    if how == "delete":
        bank.delete(["d-gone", "d-small"])
    elif how == "replace":
        bank.put([stored("d-gone", "other", seed=1), stored("d-small", "other", seed=2)])
        traces.remove(b"d-gone")
    else:
        now[0] = 6.0
    bank.compact()
    after = contents(tmp_path)
    assert [trace for trace in traces if trace in after] == []
    assert len(after) < len(before)
    assert bank.verify().ok
    found = [row.document for row in bank.passages([k for k, _ in bank.search_vectors(vector(77), 1)]).values()]
    assert found == ["d77"]
    bank.close()
    assert [trace for trace in traces if trace in contents(tmp_path)] == []


def contents(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


def test_compacting_twice_leaves_the_index_alone(bank: MemoryBank, caplog: pytest.LogCaptureFixture):
    bank.delete(["d5"])
    bank.compact()
    folder = [path.name for path in (bank.path / "chroma").iterdir() if path.is_dir()]
    bank.compact()
    assert [path.name for path in (bank.path / "chroma").iterdir() if path.is_dir()] == folder
    assert not caplog.records


def test_compact_says_when_a_reader_holds_what_was_deleted(bank: MemoryBank):
    reader = MemoryBank(bank.path, read_only=True)
    with reader._ledger.database.read() as connection:
        connection.execute("SELECT count(*) FROM documents").fetchone()
        bank.delete(["d5"])
        bank._ledger.database._writer.execute("PRAGMA busy_timeout = 10")  # type: ignore[union-attr]
        with pytest.raises(StoreLockedError, match="compact again"):
            bank.compact()
    bank.compact()
    reader.close()


def test_searching_while_the_index_is_written_anew(bank: MemoryBank):
    wrong: list[object] = []
    done = threading.Event()

    def search() -> None:
        while not done.is_set():
            found = [key for key, _ in bank.search_vectors(vector(10), 9)]
            if len(found) != 9 or bank.passages(found[:1])[found[0]].document != "d1":
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for n in range(3):
        bank.put([stored("extra", f"text {n}", seed=900 + n)])
        bank.delete(["extra"])
        bank.compact()
    done.set()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_an_index_that_is_gone_is_written_anew_by_compact(bank: MemoryBank):
    shutil.rmtree(bank.path / "chroma")
    assert {problem.kind for problem in bank.verify().problems} <= {"index"}
    bank.compact()
    assert bank.verify().ok
    assert np.isclose(bank.search_vectors(vector(10), 1)[0][1], 1)
