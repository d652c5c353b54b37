"""A disk that is full, and one that cannot be written: on a small mounted file system of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.errors import CMTError, InvalidInputError, StoreFullError
from tests.bank.helpers import lexicon_is_sound, slots, stored, vector


def mount(*arguments: str) -> bool:
    """Whether the mount succeeded: it takes root on Linux."""
    mount = shutil.which("mount")
    return mount is not None and not subprocess.run([mount, *arguments], capture_output=True).returncode


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    if not mount("-t", "tmpfs", "-o", "size=3m", "tmpfs", str(folder)):
        pytest.skip("mounting a small disk takes root on Linux")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def check(bank: MemoryBank, seeds: dict[str, int]) -> None:
    """Exactly these documents are there, whole, and found."""
    assert sorted(bank.ids()) == sorted(seeds)
    for id, seed in seeds.items():
        assert bank.get([id])[0].text == f"the text of {id}"
        (memory,) = bank.payloads([f"{id}#0"])
        assert memory.slots.equal(slots(seed, dims=memory.slots.shape[1]))
        ((key, cosine),) = bank.search_vectors(vector(seed), 1)
        assert bank.passages([key])[key].document == id
        assert cosine == pytest.approx(1, abs=1e-5)
    assert len(bank.search_vectors(vector(0), 10_000)) == len(seeds)


def fill(bank: MemoryBank, seeds: dict[str, int], *, big: bool) -> StoreFullError:
    """Add documents until the disk is full; ``seeds`` gets those that were acknowledged, and those that are kept."""
    for _ in range(10_000):
        seed = len(seeds)
        id = f"d{seed}"
        try:
            bank.put([stored(id, f"the text of {id}", {"n": seed}, seed=seed, big=big and seed % 3 == 0)])
        except StoreFullError as error:
            if bank.contains([id]):
                seeds[id] = seed
            return error
        seeds[id] = seed
    pytest.fail("the disk never got full")


@pytest.mark.parametrize("big", [False, True])
def test_a_full_disk(disk: Path, big: bool):
    seeds: dict[str, int] = {}
    with contextlib.closing(MemoryBank(disk / "bank")) as bank:
        error = fill(bank, seeds, big=big)
        assert ("nothing was changed" in str(error)) == (len(bank) < len(seeds) + 1)
        check(bank, seeds)
        assert not list((disk / "bank").glob("payloads/*.partial"))
        assert mount("-o", "remount,size=40m", str(disk))
        bank.put([stored("later", "the text of later", seed=7777)])
        seeds["later"] = 7777
        bank.delete(["d1"])
        del seeds["d1"]
        check(bank, seeds)
        with lexicon_is_sound(bank):
            pass
    with contextlib.closing(MemoryBank(disk / "bank")) as bank:
        check(bank, seeds)


def test_the_index_has_no_room(disk: Path):
    """The ledger took the documents in and Chroma could not: they are kept, found, and indexed when there is room."""
    seeds = {"d0": 0}
    with contextlib.closing(MemoryBank(disk / "bank")) as bank:
        bank.put([stored("d0", "the text of d0", seed=0)])
        for n in range(1, 100):
            seeds[f"d{n}"] = n
        bank._ledger.put([stored(id, f"the text of {id}", seed=n) for id, n in list(seeds.items())[1:]], keep_text=True)
        (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
        with pytest.raises(StoreFullError, match="What was added is kept and found; free some space"):
            bank._sync()
        check(bank, seeds)
    with contextlib.closing(MemoryBank(disk / "bank")) as bank:
        check(bank, seeds)
        (disk / "filler").unlink()
        bank.delete(["d3"])
        del seeds["d3"]
        check(bank, seeds)
        assert bank._index is not None
        assert bank._index._index.count() == len(seeds)


def test_a_full_disk_can_still_be_read(disk: Path):
    seeds: dict[str, int] = {}
    with contextlib.closing(MemoryBank(disk / "bank")) as bank:
        fill(bank, seeds, big=False)
    with contextlib.closing(MemoryBank(disk / "bank", read_only=True)) as bank:
        check(bank, seeds)


def test_a_new_bank_on_a_full_disk(disk: Path):
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free))
    with pytest.raises(CMTError, match=r"full|No space"):
        MemoryBank(disk / "bank").close()
    (disk / "filler").unlink()
    with contextlib.closing(MemoryBank(disk / "bank")) as bank:
        bank.put([stored("a", "the text of a")])
        check(bank, {"a": 0})


@pytest.mark.parametrize("killed", [False, True])
def test_a_disk_that_cannot_be_written(disk: Path, killed: bool):
    bank = MemoryBank(disk / "bank")
    bank.put([stored("a", "the text of a", seed=1), stored("b", "the text of b", seed=2, big=True)])
    if killed:
        shutil.copytree(disk / "bank", disk / "copy")
    bank.close()
    if killed:
        shutil.rmtree(disk / "bank")
        os.rename(disk / "copy", disk / "bank")
    assert mount("-o", "remount,ro", str(disk))
    with pytest.raises(InvalidInputError, match=r"cannot be written: Read-only file system.*read_only=True"):
        MemoryBank(disk / "bank")
    with contextlib.closing(MemoryBank(disk / "bank", read_only=True)) as bank:
        check(bank, {"a": 1, "b": 2})
        with pytest.raises(InvalidInputError, match="read_only"):
            bank.delete(["a"])
