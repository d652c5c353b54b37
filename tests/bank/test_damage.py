"""Damage to a bank's files: put right from the ledger, or an error that names the document, never a wrong answer.

Chroma itself ends the process on most of this, or answers as if entries had never been added.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from cmt_memory.bank import footprint
from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import CMTError, StoreClosedError, StoreCorruptError
from tests.bank.helpers import lexicon_is_sound, slots, stored, vector

PIECES = 10
PASSAGES = 1100  # Chroma writes its vector files every thousand entries


def fill(folder: Path) -> MemoryBank:
    bank = MemoryBank(folder)
    for first in range(0, PASSAGES, 10 * PIECES):
        bank.put(
            [
                stored(f"d{n}", f"text of {n} in ten pieces", {"n": n}, pieces=PIECES, seed=n)
                for n in range(first, first + 10 * PIECES, PIECES)
            ]
        )
    return bank


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("closed") / "bank"
    fill(folder).close()
    return folder


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of a bank as a kill leaves them: a copy of an open one."""
    folder = tmp_path_factory.mktemp("killed") / "bank"
    with closing(fill(folder.with_name("open"))):
        shutil.copytree(folder.with_name("open"), folder)
    return folder


def check(bank: MemoryBank) -> None:
    assert bank.count_passages() == PASSAGES
    for n in range(0, PASSAGES, 7):
        (key, cosine), *_ = bank.search_vectors(vector(n), 3)
        row = bank.passages([key])[key]
        assert (row.document, row.n) == (f"d{n - n % PIECES}", n % PIECES)
        assert cosine == pytest.approx(1, abs=1e-5)
    assert len(bank.search_vectors(vector(3), PASSAGES + 9)) == PASSAGES
    assert bank.payloads(["d70#3"])[0].slots.equal(slots(73))
    with lexicon_is_sound(bank):
        pass


def flip(content: bytearray, chance: random.Random) -> bytes:
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    return bytes(content)


def scramble(content: bytearray, chance: random.Random) -> bytes:
    third = len(content) // 3
    return bytes(content[:third]) + chance.randbytes(third) + bytes(content[2 * third :])


DAMAGE: dict[str, Callable[[bytearray, random.Random], bytes]] = {
    "a flipped bit": flip,
    "random bytes": scramble,
    "half": lambda content, _: bytes(content[: len(content) // 2]),
    "nothing": lambda *_: b"",
}
FILES = ["data_level0.bin", "header.bin", "link_lists.bin", "index_metadata.pickle", "chroma.sqlite3"]


@pytest.mark.parametrize(
    ("file", "damage"),
    [(file, damage) for place, file in enumerate(FILES) for damage in [list(DAMAGE)[place % 4], "a flipped bit"]],
)
def test_damaged_index_files_are_rebuilt(
    closed: Path, tmp_path: Path, warnings_seen: list[str], file: str, damage: str
):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    (victim,) = (folder / "chroma").rglob(file)
    victim.write_bytes(DAMAGE[damage](bytearray(victim.read_bytes()), random.Random(f"{file} {damage}")))
    with closing(MemoryBank(folder)) as bank:
        check(bank)
    assert len(warnings_seen) == 1
    assert f"rebuilt the index of {PASSAGES} passages" in warnings_seen[0]
    MemoryBank(folder).close()
    assert len(warnings_seen) == 1


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("use", ["search", "put", "compact"])
def test_a_bit_that_the_disk_lost_is_found_before_chroma_reads_it(
    closed: Path, tmp_path: Path, warnings_seen: list[str], file: str, use: str
):
    """The file's time of change does not tell; opening reads none of the files."""
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    with closing(MemoryBank(folder)):
        pass  # notes the copy's times
    (victim,) = (folder / "chroma").rglob(file)
    times = victim.stat()
    victim.write_bytes(flip(bytearray(victim.read_bytes()), random.Random(f"{file} {use}")))
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns))
    with closing(MemoryBank(folder)) as bank:
        assert not warnings_seen
        if use == "put":
            bank.put([stored("d0", "text of 0 in ten pieces", {"n": 0}, pieces=PIECES)])
        elif use == "compact":
            bank.compact()
        check(bank)
    assert len(warnings_seen) == 1
    assert f"rebuilt the index of {PASSAGES} passages" in warnings_seen[0]


def rot(folder: Path, *, seen: bool = False) -> None:
    """Change what is in a file of the index, and only where it is to be ``seen`` its time of change."""
    (victim,) = (folder / "chroma").rglob("data_level0.bin")
    times = victim.stat()
    victim.write_bytes(scramble(bytearray(victim.read_bytes()), random.Random(0)))
    os.utime(victim, ns=(times.st_atime_ns, times.st_mtime_ns + seen))


@pytest.fixture
def rotten(closed: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    MemoryBank(folder).close()  # notes the copy's times
    rot(folder)
    return folder


@pytest.mark.parametrize("end", ["close", "kill"])
def test_opening_and_no_use_forgets_no_checksum(rotten: Path, tmp_path: Path, warnings_seen: list[str], end: str):
    with closing(MemoryBank(rotten)):
        shutil.copytree(rotten, tmp_path / "killed")
    with closing(MemoryBank(rotten if end == "close" else tmp_path / "killed")) as bank:
        check(bank)
    assert len(warnings_seen) == 1


@pytest.mark.parametrize("seen", [False, True])
def test_what_rots_in_a_store_that_is_open_and_not_used_is_found(
    closed: Path, tmp_path: Path, warnings_seen: list[str], seen: bool
):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    with closing(MemoryBank(folder)):
        rot(folder, seen=seen)
    with closing(MemoryBank(folder)) as bank:
        check(bank)
    assert len(warnings_seen) == 1


def test_checksums_are_compared_before_what_waits_is_written(rotten: Path, warnings_seen: list[str]):
    """As for the memories' index after a time without it."""
    with closing(MemoryBank(rotten)) as bank:
        bank._ledger.delete(["d0"])
        bank._ledger.put([stored("d0", "text of 0 in ten pieces", {"n": 0}, pieces=PIECES)], keep_text=True)
    with closing(MemoryBank(rotten)) as bank:
        check(bank)
    assert len(warnings_seen) == 1
    assert "files are not as they were left" in warnings_seen[0]


def test_a_file_that_the_disk_cannot_read_is_rebuilt(
    closed: Path, tmp_path: Path, warnings_seen: list[str], monkeypatch: pytest.MonkeyPatch
):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    with closing(MemoryBank(folder)) as bank:
        with monkeypatch.context() as disk:
            disk.setattr(footprint, "_crc", lambda _: (_ for _ in ()).throw(OSError(5, "Input/output error")))
            bank.search_vectors(vector(1), 1)
        check(bank)
    assert len(warnings_seen) == 1


def test_rot_in_an_index_that_cannot_be_deleted_is_never_searched(
    rotten: Path, warnings_seen: list[str], monkeypatch: pytest.MonkeyPatch
):
    with monkeypatch.context() as stuck, closing(MemoryBank(rotten)) as bank:
        stuck.setattr(shutil, "rmtree", lambda _: (_ for _ in ()).throw(PermissionError(13, "Permission denied")))
        check(bank)
    assert len(warnings_seen) == 1
    with closing(MemoryBank(rotten)) as bank:
        check(bank)
    assert len(warnings_seen) == 2


def test_a_search_that_comes_after_the_close_leaves_the_next_ones_index_alone(closed: Path, tmp_path: Path):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    late = MemoryBank(folder)
    late.close()
    with closing(MemoryBank(folder)) as bank:
        bank.put([stored("new", "ten new pieces", pieces=PIECES, seed=50_000)])
        before = sorted((folder / "chroma").rglob("*"))
        assert late._index is not None
        with pytest.raises(StoreClosedError):  # it had asked whether the bank is open, and then waited for the close
            late._index._try_rebuild("its files are not as they were left", 0)
        assert sorted((folder / "chroma").rglob("*")) == before


@pytest.mark.parametrize("use", [False, True])
def test_each_file_is_read_once_and_only_where_it_is_used(
    closed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, use: bool
):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    MemoryBank(folder).close()
    read: list[str] = []
    crc = footprint._crc
    monkeypatch.setattr(footprint, "_crc", lambda path: [read.append(path.name), crc(path)][1])
    bank = MemoryBank(folder)
    if use:
        bank.search_vectors(vector(1), 1)
    assert sorted(read) == (sorted(path.name for path in (folder / "chroma").rglob("*.*")) if use else [])
    read.clear()
    bank.close()
    assert set(read) <= {"chroma.sqlite3"}


@pytest.mark.parametrize("file", ["index_metadata.pickle", "chroma.sqlite3", ""])
def test_missing_index_files_are_rebuilt(closed: Path, tmp_path: Path, warnings_seen: list[str], file: str):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    if file:
        next((folder / "chroma").rglob(file)).unlink()
    else:
        shutil.rmtree(folder / "chroma")
    with closing(MemoryBank(folder)) as bank:
        check(bank)
    assert len(warnings_seen) == 1


def test_a_whole_copy_is_as_good_as_the_original(closed: Path, tmp_path: Path, warnings_seen: list[str]):
    shutil.copytree(closed, tmp_path / "bank", copy_function=shutil.copyfile)
    with closing(MemoryBank(tmp_path / "bank")) as bank:
        check(bank)
    assert not warnings_seen


def test_the_index_of_another_time_is_rebuilt(closed: Path, tmp_path: Path, warnings_seen: list[str]):
    """Equally many entries, of which one is another: counting would not find it."""
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    with closing(MemoryBank(folder)) as bank:
        bank.delete(["d70"])
        bank.put([stored("new", "ten new pieces", pieces=PIECES, seed=50_000)])
    shutil.rmtree(folder / "chroma")
    shutil.copytree(closed / "chroma", folder / "chroma")
    with closing(MemoryBank(folder)) as bank:
        ((key, cosine),) = bank.search_vectors(vector(50_003), 1)
        assert bank.passages([key])[key].document == "new"
        assert cosine == pytest.approx(1, abs=1e-5)
    assert len(warnings_seen) == 1


def test_after_a_kill_whole_files_are_used(killed: Path, tmp_path: Path, warnings_seen: list[str]):
    shutil.copytree(killed, tmp_path / "bank")
    with closing(MemoryBank(tmp_path / "bank")) as bank:
        check(bank)
    assert not warnings_seen


@pytest.mark.parametrize("file", ["data_level0.bin", "index_metadata.pickle"])
def test_files_torn_by_a_kill_are_rebuilt(killed: Path, tmp_path: Path, warnings_seen: list[str], file: str):
    folder = tmp_path / "bank"
    shutil.copytree(killed, folder)
    (victim,) = (folder / "chroma").rglob(file)
    victim.write_bytes(victim.read_bytes()[:-100])
    with closing(MemoryBank(folder)) as bank:
        check(bank)
    assert len(warnings_seen) == 1


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("damage", ["empty", "missing"])
def test_a_lost_ledger_is_not_taken_for_a_new_bank(closed: Path, tmp_path: Path, damage: str, read_only: bool):
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    (folder / "ledger.sqlite3").unlink()
    if damage == "empty":
        (folder / "ledger.sqlite3").touch()
    with pytest.raises(StoreCorruptError, match="missing or empty"):
        MemoryBank(folder, read_only=read_only)


@pytest.mark.parametrize("share", [0.001, 0.1, 0.35, 0.6, 0.85, 0.999])
@pytest.mark.parametrize("damage", ["truncated", "random"])
def test_damage_anywhere_in_the_ledger(closed: Path, tmp_path: Path, share: float, damage: str):
    """What can still be read is what was kept; the rest is an error of ours."""
    folder = tmp_path / "bank"
    shutil.copytree(closed, folder)
    path = folder / "ledger.sqlite3"
    content = bytearray(path.read_bytes())
    place = int(len(content) * share)
    if damage == "truncated":
        path.write_bytes(content[:place])
    else:
        path.write_bytes(content[:place] + random.Random(0).randbytes(3000) + content[place + 3000 :])
    errors: list[CMTError] = []
    try:
        with closing(MemoryBank(folder, read_only=True)) as bank:
            for n in range(0, PASSAGES, PIECES):
                try:
                    for known in bank.get([f"d{n}"]):
                        assert known.text == f"text of {n} in ten pieces"
                    for piece, memory in enumerate(bank.payloads([f"d{n}#{piece}" for piece in range(PIECES)])):
                        assert memory.slots.equal(slots(n + piece))
                except CMTError as error:
                    errors.append(error)
    except CMTError as error:
        errors.append(error)
    if damage == "truncated":
        assert any(isinstance(error, StoreCorruptError) for error in errors)


def flip_in_ledger(folder: Path, found: bytes) -> None:
    """Flip one bit of what the closed ledger holds once."""
    path = folder / "ledger.sqlite3"
    content = bytearray(path.read_bytes())
    assert content.count(found) == 1
    content[content.index(found) + len(found) // 2] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_a_text_is_found_and_named(tmp_path: Path):
    with closing(MemoryBank(tmp_path)) as bank:
        bank.put([stored("a", "The code of the locker is 4471.", seed=1), stored("b", "Other words.", seed=2)])
    flip_in_ledger(tmp_path, b"locker is 4471")
    with closing(MemoryBank(tmp_path)) as bank:
        ((key, _),) = bank.search_vectors(vector(1), 1)
        for read in (lambda: bank.get(["a", "b"]), lambda: bank.passages([key])):
            with pytest.raises(StoreCorruptError, match="'a' is damaged; delete it and add it again"):
                read()
        assert bank.get(["b"])[0].text == "Other words."
        bank.delete(["a"])
        bank.put([stored("a", "The code of the locker is 4471.", seed=1)])
        assert bank.get(["a"])[0].text == "The code of the locker is 4471."


def test_damaged_metadata_is_named(tmp_path: Path):
    with closing(MemoryBank(tmp_path)) as bank:
        bank.put([stored("a", "Some text.", {"source": "xyzzy"}, seed=1)])
    content = (tmp_path / "ledger.sqlite3").read_bytes()
    (tmp_path / "ledger.sqlite3").write_bytes(content.replace(b'"source":"xyzzy"', b'"source" "xyzzy"'))
    with closing(MemoryBank(tmp_path)) as bank:
        for read in (lambda: bank.get(["a"]), lambda: bank.infos(["a"]), lambda: bank.search_vectors(vector(1), 1)):
            with pytest.raises(StoreCorruptError, match="metadata of the document 'a'"):
                read()


def test_a_damaged_payload_file_is_replaced_by_adding_again(tmp_path: Path):
    """Also where another document shares it, so that deleting one leaves the file."""
    with closing(MemoryBank(tmp_path)) as bank:
        bank.put([stored("a", "one", big=True), stored("b", "two", big=True)])
        (file,) = (tmp_path / "payloads").iterdir()
        file.write_bytes(flip(bytearray(file.read_bytes()), random.Random(0)))
        with pytest.raises(StoreCorruptError, match=r"'a#0' is damaged; .*delete its document and add it again"):
            bank.payloads(["a#0"])
        bank.delete(["a"])
        bank.put([stored("a", "one", big=True)])
        assert bank.payloads(["a#0"])[0].slots.equal(slots(0, dims=20_000))
        file.unlink()
        with pytest.raises(StoreCorruptError, match="'b#0' is damaged: its file cannot be read, No such file"):
            bank.payloads(["b#0"])


def test_a_store_with_a_vector_of_nan_never_comes_to_be(tmp_path: Path):
    with closing(MemoryBank(tmp_path)) as bank:
        bank.put([stored("a", "text", seed=1)])
        wrong = stored("b", "other")
        wrong.passages[0].vector = vector(1) * float("nan")
        with pytest.raises(CMTError, match="'b' has a vector with NaN"):
            bank.put([wrong])
        with pytest.raises(CMTError, match="NaN"):
            bank.search_vectors(vector(1) * float("inf"), 1)
        assert len(bank) == len(bank.search_vectors(vector(1), 5)) == 1
