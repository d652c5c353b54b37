"""`cmt-memory add`."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
import time
from datetime import datetime

import pytest

from cmt_memory.bank.bank import MemoryBank


def ids(store):
    bank = MemoryBank(store, read_only=True)
    try:
        return bank.ids()
    finally:
        bank.close()


def test_adds_every_kind_of_file(cmt, lm, notes, tmp_path):
    result = cmt("add", notes, "--store", tmp_path / "mem", "--model", lm, "--encoder", "none", "--json")
    counts = json.loads(result.stdout)
    assert (counts["files"], counts["added"], counts["skipped"]) == (3, 4, 0)
    assert sorted(ids(tmp_path / "mem")) == sorted(counts["ids"])


def test_an_unchanged_file_costs_nothing_not_even_the_model(cmt, lm, notes, tmp_path):
    own = tmp_path / "lm"
    shutil.copytree(lm, own)
    cmt("add", notes, "--store", tmp_path / "mem", "--model", own, "--encoder", "none")
    shutil.rmtree(own)
    result = cmt("add", notes, "--store", tmp_path / "mem")
    assert "4 unchanged" in result.stdout
    (notes / "keys.md").write_text("The spare key is lost.")
    assert "cannot be loaded" in cmt("add", notes, "--store", tmp_path / "mem", code=1).stderr


def test_a_changed_file_replaces_what_it_was(cmt, store, notes):
    (notes / "keys.md").write_text("The spare key is lost.")
    (notes / "facts.jsonl").write_text('{"text": "The locker code is 4471.", "id": "locker"}\n')
    counts = json.loads(cmt("add", notes, "--store", store, "--json").stdout)
    outcome = {name: counts[name] for name in ("added", "replaced", "updated", "unchanged", "removed")}
    assert outcome == {"added": 0, "replaced": 1, "updated": 1, "unchanged": 1, "removed": 1}
    shown = json.loads(cmt("store", "show", notes / "keys.md", "--store", store, "--json").stdout)
    assert shown["text"] == "The spare key is lost."
    assert len(ids(store)) == 3


def test_bad_input_changes_nothing(cmt, store, notes):
    before = ids(store)
    (notes / "broken.jsonl").write_text("{\n")
    (notes / "new.md").write_text("New.")
    result = cmt("add", notes / "new.md", notes / "broken.jsonl", "--store", store, code=1)
    assert "line 1 is not JSON" in result.stderr
    assert ids(store) == before


def test_one_id_for_two_texts_is_refused_with_both_files(cmt, lm, tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "One.", "id": "x"}\n')
    (tmp_path / "b.jsonl").write_text('{"text": "Two.", "id": "x"}\n')
    result = cmt("add", tmp_path / "a.jsonl", tmp_path / "b.jsonl", "--store", tmp_path / "mem", code=1)
    assert "a.jsonl" in result.stderr
    assert "b.jsonl" in result.stderr
    assert not (tmp_path / "mem").exists()


def test_an_empty_folder_is_an_error_that_makes_no_store(cmt, tmp_path):
    (tmp_path / "docs").mkdir()
    assert "nothing to add" in cmt("add", tmp_path / "docs", "--store", tmp_path / "mem", code=1).stderr
    assert not (tmp_path / "mem").exists()


def test_settings_of_a_store_stay(cmt, store, notes):
    (notes / "new.md").write_text("New.")
    result = cmt("add", notes, "--store", store, "--ratio", "4", code=1)
    assert "ratio=1, and ratio=4 was given" in result.stderr
    assert len(ids(store)) == 4


def test_beside_a_writer_one_can_read_but_not_write(cmt, store, notes):
    writer = MemoryBank(store)
    try:
        (notes / "new.md").write_text("New.")
        assert "open for writing elsewhere" in cmt("add", notes, "--store", store, code=1).stderr
        assert "4 of 4" in cmt("store", "list", "--store", store).stdout
        assert json.loads(cmt("ask", "Where is the key?", "--store", store, "--json").stdout)["grounded"]
    finally:
        writer.close()
    assert "1 added" in cmt("add", notes, "--store", store).stdout


def expiry(cmt, store, id):
    """Seconds that a document has left; None for ever."""
    shown = json.loads(cmt("store", "show", id, "--store", store, "--json").stdout)["expires"]
    return None if shown is None else datetime.fromisoformat(shown).timestamp() - time.time()


@pytest.mark.parametrize(
    ("ttl", "seconds"),
    [("90", 90), ("1.5", 1.5), ("90s", 90), ("45m", 2_700), ("12h", 43_200), ("30d", 2_592_000), ("2W", 1_209_600)],
)
def test_a_time_to_live_in_any_unit(cmt, lm, tmp_path, ttl, seconds):
    (tmp_path / "a.md").write_text("The code of the door is 11 today.")
    add = ["add", tmp_path / "a.md", "--store", tmp_path / "mem", "--model", lm, "--encoder", "none", "--ttl", ttl]
    assert json.loads(cmt(*add, "--json").stdout)["ttl"] == seconds
    if seconds > 60:
        assert seconds - 60 < expiry(cmt, tmp_path / "mem", tmp_path / "a.md") <= seconds


@pytest.mark.parametrize("ttl", ["0", "-5", "5y", "1d12h", "soon", "inf", "nan", "1e400", "999999999999d", "", "٣d"])
def test_what_is_no_time_is_wrong_use(cmt, lm, notes, tmp_path, ttl):
    result = cmt("add", notes, "--store", tmp_path / "mem", "--model", lm, "--ttl", ttl, code=2)
    assert "such as 12h or 30d" in " ".join(result.stderr.split())
    assert not (tmp_path / "mem").exists()


def test_documents_go_when_their_time_is_over(cmt, store, tmp_path):
    (tmp_path / "today.md").write_text("The code of the door is 11 today.")
    cmt("add", tmp_path / "today.md", "--store", store, "--ttl", "2")
    time.sleep(2.1)
    assert len(ids(store)) == 4
    cmt("store", "show", tmp_path / "today.md", "--store", store, code=1)
    assert "1 added" in cmt("add", tmp_path / "today.md", "--store", store).stdout


def test_adding_again_sets_the_time_anew(cmt, store, notes):
    name = notes / "keys.md"
    assert expiry(cmt, store, name) is None
    assert "4 unchanged" in cmt("add", notes, "--store", store, "--ttl", "1h").stdout
    assert 3_000 < expiry(cmt, store, name) < 3_601
    assert "expires" in cmt("store", "show", name, "--store", store).stdout
    cmt("add", name, "--store", store)
    assert expiry(cmt, store, name) is None
    assert 3_000 < expiry(cmt, store, "locker") < 3_601


def test_ctrl_c_keeps_what_was_committed(command, process, lm, tmp_path):
    line, env = command
    records = [json.dumps({"id": str(n), "text": f"Fact {n}: " + "it is known. " * 60}) for n in range(400)]
    (tmp_path / "many.jsonl").write_text("\n".join(records))
    store = tmp_path / "mem"
    add = ["add", str(tmp_path / "many.jsonl"), "--store", str(store), "--model", str(lm), "--encoder", "none"]
    running = subprocess.Popen(
        [*line, *add],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=env,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # which a shell's background job ignores
    )
    while running.poll() is None and not _committed(store):
        time.sleep(0.02)
    running.send_signal(signal.SIGINT)
    out, errors = running.communicate(timeout=60)
    assert (running.returncode, out) == (1, "")
    assert "Traceback" not in errors
    kept = len(ids(store))
    assert f"Interrupted: {kept} of 400 documents" in errors
    assert 0 < kept < 400
    again = process(*add, "--json")
    assert json.loads(again.stdout)["unchanged"] == kept
    assert len(ids(store)) == 400


def _committed(store):
    try:
        with sqlite3.connect(f"file:{store}/ledger.sqlite3?mode=ro", uri=True) as ledger:
            return ledger.execute("SELECT count(*) FROM documents").fetchone()[0]
    except sqlite3.OperationalError:
        return 0
