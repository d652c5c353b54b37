"""What an opening puts right after an interrupted or damaged past."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import chromadb
import pytest
from chromadb.config import Settings
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.filters import matches, parse
from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError, StoreCorruptError
from tests.bank.helpers import lexicon_is_sound, slots, stored, vector


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bank = MemoryBank(tmp_path)
    bank.put([stored(f"d{n}", f"text {n}", {"n": n}, seed=n) for n in range(30)])
    bank.close()
    return tmp_path


def check_whole(bank: MemoryBank, count: int = 30) -> None:
    assert len(bank) == count
    for n in range(count):
        (key, cosine), *_ = bank.search_vectors(vector(n), 2)
        row = bank.passages([key])[key]
        assert (row.document, row.text) == (f"d{n}", f"text {n}")
        assert cosine == pytest.approx(1, abs=1e-5)
        assert bank.payloads([f"d{n}#0"])[0].slots.equal(slots(n))
    with lexicon_is_sound(bank):
        pass


def check_whole_but_words(bank: MemoryBank) -> None:
    for n in range(30):
        ((key, _),) = bank.search_vectors(vector(n), 1)
        assert bank.passages([key])[key].document == f"d{n}"


def test_a_deleted_index_is_rebuilt(folder: Path, warnings_seen: list[str]):
    shutil.rmtree(folder / "chroma")
    bank = MemoryBank(folder)
    assert len(warnings_seen) == 1
    assert "rebuilt the index of 30 passages" in warnings_seen[0]
    check_whole(bank)
    bank.close()


@pytest.mark.parametrize(("terminal", "long"), [(True, True), (True, False), (False, True)])
def test_a_long_rebuild_shows_a_bar_on_a_terminal(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool, long: bool
):
    monkeypatch.setattr("cmt_memory.bank.sync._LONG", 30 if long else 31)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    shutil.rmtree(folder / "chroma")
    MemoryBank(folder).close()
    shown = capsys.readouterr().err
    assert ("Rebuilding the index" in shown and "30/30 passages" in shown) is (terminal and long)


@pytest.mark.parametrize("victim", ["chroma.sqlite3", "folder is a file"])
def test_a_corrupted_index_is_rebuilt(folder: Path, warnings_seen: list[str], victim: str):
    if victim == "chroma.sqlite3":
        (folder / "chroma" / victim).write_bytes(b"garbage " * 9999)
    else:
        shutil.rmtree(folder / "chroma")
        (folder / "chroma").write_text("not a folder")
    bank = MemoryBank(folder)
    assert sum("rebuilt the index" in message for message in warnings_seen) == 1
    check_whole(bank)
    bank.close()
    MemoryBank(folder).close()
    assert len(warnings_seen) == 1


def test_opening_a_bank_closed_in_order_does_not_load_chroma(folder: Path):
    code = """if True:
        import sys
        from pathlib import Path
        from cmt_memory.bank.bank import MemoryBank
        from tests.bank.helpers import vector

        bank = MemoryBank(Path(sys.argv[1]))
        assert len(bank) == 30 and "chromadb" not in sys.modules
        assert len(bank.search_vectors(vector(3), 2)) == 2 and "chromadb" in sys.modules
        bank.close()
    """
    subprocess.run([sys.executable, "-c", code, str(folder)], check=True)


@pytest.mark.parametrize("use", ["nothing", "search", "put", "warm_up"])
def test_a_kill_after_opening_costs_no_rebuild(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, warnings_seen: list[str], use: str
):
    """Chroma may write its files at the first call; what they look like then is noted."""
    bank = MemoryBank(folder)
    if use == "search":
        check_whole(bank)
    elif use == "put":
        bank.put([stored("d30", "text 30", {"n": 30}, seed=30)])
    elif use == "warm_up":
        bank.warm_up()
        for thread in threading.enumerate():
            if thread.name == "cmt-memory-index":
                thread.join()
    killed = tmp_path_factory.mktemp("killed") / "store"
    shutil.copytree(folder, killed)
    bank.close()
    bank = MemoryBank(killed)
    assert not warnings_seen
    check_whole(bank, 30 + (use == "put"))
    bank.close()


def test_a_process_that_ends_while_chroma_is_loaded_says_nothing(folder: Path):
    code = """if True:
        import sys
        from pathlib import Path
        from cmt_memory.bank.bank import MemoryBank

        MemoryBank(Path(sys.argv[1])).warm_up()
    """
    ended = subprocess.run([sys.executable, "-c", code, str(folder)], check=True, capture_output=True, text=True)
    assert "Traceback" not in ended.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_forked_while_chroma_is_loaded_can_open_its_own(folder: Path, tmp_path_factory: pytest.TempPathFactory):
    code = """if True:
        import os
        import sys
        import time
        from pathlib import Path
        from cmt_memory.bank.bank import MemoryBank
        from tests.bank.helpers import stored, vector

        bank = MemoryBank(Path(sys.argv[1]))
        bank.warm_up()
        time.sleep(0.1)
        child = os.fork()
        if not child:
            own = MemoryBank(Path(sys.argv[2]))
            own.put([stored("own", "text", seed=1)])
            os._exit(len(own.search_vectors(vector(1), 1)))
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        bank.close()
    """
    own = tmp_path_factory.mktemp("own")
    subprocess.run([sys.executable, "-c", code, str(folder), str(own)], check=True, timeout=120)


def test_a_search_does_not_need_to_note_what_it_found(folder: Path):
    """As on a disk that was full or write-protected after the opening."""
    with contextlib.closing(MemoryBank(folder)) as bank:
        assert bank._index is not None
        bank._index._record = {}
        with bank._ledger.database.alone() as writer:
            writer.execute("PRAGMA query_only = ON")
        check_whole_but_words(bank)
        with bank._ledger.database.alone() as writer:
            writer.execute("PRAGMA query_only = OFF")


def test_a_failing_index_is_rebuilt_in_the_middle_of_work(folder: Path, warnings_seen: list[str]):
    bank = MemoryBank(folder)
    name = bank.meta("collection")
    client = chromadb.PersistentClient(str(folder.absolute() / "chroma"), Settings(anonymized_telemetry=False))
    client.delete_collection(name)
    client.close()
    check_whole(bank)
    assert sum("rebuilt the index" in message for message in warnings_seen) == 1
    bank.close()


def test_an_index_of_another_space_is_rebuilt(tmp_path: Path, warnings_seen: list[str]):
    client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
    bank = MemoryBank(tmp_path, client=client)
    bank.put([stored(f"d{n}", f"text {n}", {"n": n}, seed=n) for n in range(30)])
    name = bank.meta("collection")
    bank.close()
    client.delete_collection(name)
    client.create_collection(name, embedding_function=None, configuration={"hnsw": {"space": "l2"}})
    bank = MemoryBank(tmp_path, client=client)
    assert "space 'l2'" in warnings_seen[0]
    check_whole(bank)
    bank.close()


def test_an_index_of_an_earlier_version_searches_as_widely_as_a_new_one(tmp_path: Path):
    client = chromadb.EphemeralClient(Settings(anonymized_telemetry=False))
    bank = MemoryBank(tmp_path, client=client)
    name = bank.meta("collection")
    client.create_collection(
        name, embedding_function=None, configuration={"hnsw": {"space": "cosine", "ef_search": 100}}
    )
    bank.put([stored(f"d{n}", f"text {n}", {"n": n}, seed=n) for n in range(30)])
    check_whole(bank)
    bank.close()
    collection = client.get_collection(name, embedding_function=None)
    assert collection.configuration_json["hnsw"]["ef_search"] == 400


def test_rows_the_index_never_got_are_added(folder: Path, warnings_seen: list[str]):
    bank = MemoryBank(folder)
    bank._ledger.put([stored("d30", "text 30", {}, seed=30)], keep_text=True)
    bank._ledger.delete(["d3"])
    bank.close()
    bank = MemoryBank(folder)
    assert warnings_seen == ["an earlier process ended early: 1 passages were added to the index and 1 removed"]
    assert bank.passages([key for key, _ in bank.search_vectors(vector(30), 1)]).popitem()[1].document == "d30"
    bank.put([stored("d3", "text 3", {}, seed=3)])
    check_whole(bank, 31)
    bank.close()


def test_what_only_the_index_knows_is_not_found(folder: Path):
    bank = MemoryBank(folder)
    name = bank.meta("collection")
    client = chromadb.PersistentClient(str(folder.absolute() / "chroma"), Settings(anonymized_telemetry=False))
    client.get_collection(name, embedding_function=None).upsert(ids=["999"], embeddings=[vector(999)])
    assert 999 not in [key for key, _ in bank.search_vectors(vector(999), 5)]
    assert len(bank.search_vectors(vector(999), 5)) == 5
    client.close()
    bank.close()


def test_left_over_payload_files_are_cleaned_up(folder: Path):
    bank = MemoryBank(folder)
    bank.put([stored("big", "big", big=True)])
    (folder / "payloads" / ("0" * 64 + ".safetensors")).write_bytes(b"orphan")
    (folder / "payloads" / ("0" * 64 + ".123.partial")).write_bytes(b"half")
    bank.compact()
    assert len(list((folder / "payloads").iterdir())) == 1
    assert bank.payloads(["big#0"])[0].slots.shape == (2, 20_000)
    bank.close()


def open_and_check(folder: Path, read_only: bool) -> None:
    with contextlib.closing(MemoryBank(folder, read_only=read_only)) as bank:
        check_whole(bank)


@pytest.mark.parametrize("damage", ["garbage", "truncated", "middle", "format"])
@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_ledger_is_an_error_never_a_wrong_answer(folder: Path, damage: str, read_only: bool):
    path = folder / "ledger.sqlite3"
    content = bytearray(path.read_bytes())
    if damage == "garbage":
        path.write_bytes(b"garbage " * 1000)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "middle":
        content[4096 * 2 : 4096 * 12] = random.Random(0).randbytes(4096 * 10)
        path.write_bytes(content)
    else:
        connection = sqlite3.connect(path)
        connection.execute("PRAGMA user_version = 99")
        connection.close()
    with pytest.raises(StoreCorruptError, match="format 99" if damage == "format" else r"ledger\.sqlite3"):
        open_and_check(folder, read_only)


ids = st.sampled_from(["a", "b#0", "../c", "é\0"])
words = st.lists(st.sampled_from(["red", "blue", "grün", "tea", "7"]), min_size=1, max_size=6).map(" ".join)
metadatas = st.dictionaries(st.sampled_from(["x", "y"]), st.sampled_from([1, 1.5, True, "s", None, [1]]), max_size=2)
FILTERS: list[dict[str, Any] | None] = [None, {"x": 1}, {"y": {"$ne": 1.5}}, {"$or": [{"x": "s"}, {"y": True}]}]


class BankMachine(RuleBasedStateMachine):
    """The bank against a dict, with closings, lost indexes and half-finished writes in between."""

    known = Bundle("known")

    @initialize(part=st.sampled_from([3, 131_072]))
    def start(self, part: int) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr("cmt_memory.bank.index._PART", part)
        self.folder = tempfile.mkdtemp()
        self.bank = MemoryBank(self.folder)
        self.model: dict[str, tuple[str, dict[str, Any], int]] = {}
        self.seed = 0

    @rule(id=ids, text=words, metadata=metadatas, pieces=st.integers(1, 3), half=st.booleans())
    def put(self, id: str, text: str, metadata: dict[str, Any], pieces: int, half: bool) -> None:
        self.seed += 10
        document = stored(id, text, metadata, pieces=pieces, seed=self.seed)
        if half:  # the process ends between ledger and index
            self.bank._ledger.put([document], keep_text=True)
            self.reopen()
        else:
            self.bank.put([document])
        self.model[id] = (text, metadata, self.seed)

    @rule(id=ids, metadata=metadatas)
    def set_metadata(self, id: str, metadata: dict[str, Any]) -> None:
        if id in self.model:
            self.bank.set_metadata(id, metadata)
            self.model[id] = (self.model[id][0], metadata, self.model[id][2])

    @rule(some=st.lists(ids, max_size=3), half=st.booleans())
    def delete(self, some: list[str], half: bool) -> None:
        if not set(some) <= set(self.model):
            with pytest.raises(InvalidInputError):
                self.bank.delete(some)
            return
        if half:
            self.bank._ledger.delete(sorted(set(some)))
            self.reopen()
        else:
            self.bank.delete(some)
        for id in set(some):
            del self.model[id]

    @rule(kill=st.booleans())
    def reopen(self, kill: bool = True) -> None:
        if kill:  # what a kill leaves is what is in the files at the moment
            copy = tempfile.mkdtemp()
            shutil.copytree(self.folder, copy, dirs_exist_ok=True)
        self.bank.close()
        if kill:
            shutil.rmtree(self.folder)
            self.folder = copy
        self.bank = MemoryBank(self.folder)

    @rule()
    def lose_the_index(self) -> None:
        self.bank.close()
        shutil.rmtree(Path(self.folder) / "chroma", ignore_errors=True)
        self.bank = MemoryBank(self.folder)

    @rule(filter=st.sampled_from(FILTERS), word=st.sampled_from(["red", "tea", "7"]))
    def search(self, filter: dict[str, Any] | None, word: str) -> None:
        accepted = {id for id, (_, metadata, _) in self.model.items() if matches(filter, metadata)}
        rows = self.bank.passages([key for key, _ in self.bank.search_vectors(vector(1), 99, parse(filter))])
        assert {row.document for row in rows.values()} == accepted
        found = [key for key, _ in self.bank.search_words([word], 99, parse(filter))]
        rows = self.bank.passages(found)
        whole = {id for id in accepted if word in self.model[id][0].split()}
        assert {row.document for row in rows.values() if word in row.text.split()} <= accepted
        assert {row.document for row in rows.values()} <= accepted
        assert {id for id in whole if len(self.bank.passage_ids([id])) == 1} <= {r.document for r in rows.values()}

    @invariant()
    def same_as_the_dict(self) -> None:
        assert len(self.bank) == len(self.model)
        for id, (text, metadata, seed) in self.model.items():
            assert self.bank.get([id]) == [Document(text, metadata, id)]
            passages = self.bank.passage_ids([id])
            for n, memory in enumerate(self.bank.payloads(passages)):
                assert memory.slots.equal(slots(seed + n))

    def teardown(self) -> None:
        if hasattr(self, "bank"):
            with lexicon_is_sound(self.bank):
                pass
            self.bank.close()
            shutil.rmtree(self.folder)
            self.patch.undo()


TestBankMachine = BankMachine.TestCase
TestBankMachine.settings = settings(max_examples=12, stateful_step_count=15, deadline=None)
