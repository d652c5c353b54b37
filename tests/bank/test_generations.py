"""Memories by another model, made beside those that count."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.codec import encode_memory
from cmt_memory.errors import FingerprintMismatchError
from tests.bank.helpers import slots, stored

ONE, OTHER = {"fingerprint": {"lm": "one"}}, {"fingerprint": {"lm": "other"}}


@pytest.fixture
def bank(tmp_path: Path) -> Iterator[MemoryBank]:
    bank = MemoryBank(tmp_path / "bank")
    bank.put([stored(f"d{n}", f"text number {n}", seed=n) for n in range(4)])
    yield bank
    bank.close()


def memories(work: list[tuple[int, int, int]], seed: int) -> list[tuple[int, bytes]]:
    return [(key, encode_memory(slots(seed), slots(0)[:, 0], 3, "native")) for _, key, _ in work]


def slots_of(bank: MemoryBank) -> list[Any]:
    return [memory.slots.tolist() for memory in bank.payloads([f"d{n}#0" for n in range(4)])]


def test_the_same_maker_goes_on_and_takes_their_place_when_all_are_there(bank: MemoryBank):
    before = slots_of(bank)
    following = bank.next_memories()
    following.begin(ONE)
    following.put(memories(following.lacking()[:2], 70))
    assert not following.adopt({"made by": 1}, {"made by": b"1"})
    again = bank.next_memories()
    again.begin(ONE)
    assert [key for _, key, _ in again.lacking()] == [3, 4]
    assert slots_of(bank) == before
    again.put(memories(again.lacking(), 70))
    assert again.adopt({"made by": 1}, {"made by": b"1"})
    assert slots_of(bank) == [slots(70).tolist()] * 4
    assert (bank.meta("made by"), bank.asset("made by"), bank.generation) == (1, b"1", 1)


def test_the_memories_of_two_makers_are_never_mixed(bank: MemoryBank):
    one, other = bank.next_memories(), bank.next_memories()
    one.begin(ONE)
    one.put(memories(one.lacking()[:2], 70))
    other.begin(OTHER)
    assert len(other.lacking()) == 4
    with pytest.raises(FingerprintMismatchError, match="another process"):
        one.put(memories(one.lacking(), 70))
    other.put(memories(other.lacking(), 80))
    with pytest.raises(FingerprintMismatchError, match="another process"):
        one.adopt({"made by": 1}, {})
    assert other.adopt({"made by": 2}, {})
    assert slots_of(bank) == [slots(80).tolist()] * 4
    assert bank.meta("made by") == 2
    with pytest.raises(FingerprintMismatchError):
        one.put(memories(other.lacking() or [(1, 1, 3)], 70))


def test_what_was_begun_can_be_given_up(bank: MemoryBank):
    following = bank.next_memories()
    following.begin(ONE)
    following.put(memories(following.lacking()[:2], 70))
    following.abandon()
    following.abandon()
    again = bank.next_memories()
    again.begin(ONE)
    again.put(memories(again.lacking()[:2], 70))
    bank.set_meta("next_memories", None)  # as a kill in the middle leaves it
    following.abandon()
    assert len(following.lacking()) == 4
    assert bank.next_memories().lacking() == following.lacking()
    assert bank.verify().ok
    with pytest.raises(FingerprintMismatchError):
        following.put(memories(following.lacking(), 70))


def test_who_reads_an_emptied_bank_is_told_of_another_maker(bank: MemoryBank):
    bank.settle_maker("model", "one", b"1", anew=True)
    reader = MemoryBank(bank.path, read_only=True)
    bank.delete([f"d{n}" for n in range(4)])
    assert bank.settle_maker("model", "one", b"1", anew=True) == "one"
    assert bank.generation == reader.generation
    assert bank.settle_maker("model", "two", b"2", anew=False) == "one"
    assert bank.settle_maker("model", "two", b"2", anew=True) == "two"
    bank.put([stored("d0", "text", seed=9)], bank.generation)
    assert bank.payloads(["d0#0"])[0].slots.equal(slots(9))
    with pytest.raises(FingerprintMismatchError, match="open it again"):
        reader.payloads(["d0#0"])
    reader.close()
