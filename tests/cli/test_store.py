"""`cmt-memory store …`."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing

import pytest

from cmt_memory.bank.bank import MemoryBank
from tests.tiny import save_tiny


def test_list_counts_and_pages(cmt, store, notes):
    everything = json.loads(cmt("store", "list", "--store", store, "--json").stdout)
    assert len(everything) == 4
    assert {"locker", str(notes / "keys.md")} < {row["id"] for row in everything}
    page = json.loads(cmt("store", "list", "--store", store, "--json", "--limit", "2", "--offset", "1").stdout)
    assert page == everything[1:3]
    table = cmt("store", "list", "--store", store).stdout
    assert "locker" in table
    assert "4 of 4 documents" in table


def test_show_gives_text_metadata_and_passages(cmt, store):
    shown = json.loads(cmt("store", "show", "locker", "--store", store, "--json").stdout)
    assert shown["text"] == "The locker code is 4471."
    assert shown["metadata"]["year"] == 2024
    assert [passage["id"] for passage in shown["passages"]] == ["locker#0"]
    assert "The locker code is 4471." in cmt("store", "show", "locker", "--store", store).stdout


def test_delete_takes_known_ids_only(cmt, store):
    refused = cmt("store", "delete", "locker", "nobody", "--store", store, code=1)
    assert "nobody" in refused.stderr
    assert len(json.loads(cmt("store", "list", "--store", store, "--json").stdout)) == 4
    deleted = json.loads(cmt("store", "delete", "locker", "locker", "--store", store, "--json").stdout)
    assert deleted == {"deleted": ["locker"], "documents": 3}
    assert "no document 'locker'" in cmt("store", "show", "locker", "--store", store, code=1).stderr


def test_stats_add_up_and_name_the_model(cmt, store, lm):
    stats = json.loads(cmt("store", "stats", "--store", store, "--json").stdout)
    assert (stats["documents"], stats["memories"]) == (4, 4)
    assert (stats["model"], stats["ratio"], stats["latent"], stats["encoder"]) == (str(lm), 1, "full", None)
    assert stats["disk_bytes"]["total"] == sum(stats["disk_bytes"][k] for k in ("ledger", "payloads", "index"))
    assert "words (BM25) alone" in cmt("store", "stats", "--store", store).stdout


@pytest.mark.parametrize("command", ["list", "stats"])
def test_no_model_is_needed_to_look(cmt, lm, notes, tmp_path, command):
    own = tmp_path / "lm"
    shutil.copytree(lm, own)
    cmt("add", notes, "--store", tmp_path / "mem", "--model", own, "--encoder", "none")
    shutil.rmtree(own)
    cmt("store", command, "--store", tmp_path / "mem")


def test_verify_finds_nothing_in_a_sound_store(cmt, store):
    assert "no problem in 4 documents" in cmt("store", "verify", "--store", store).stdout
    report = json.loads(cmt("store", "verify", "--store", store, "--json").stdout)
    assert (report["ok"], report["problems"], report["memories"]) == (True, [], 4)


def test_verify_names_the_document_and_what_to_do(cmt, store):
    connection = sqlite3.connect(store / "ledger.sqlite3", isolation_level=None)
    connection.execute("UPDATE documents SET text = x'41' WHERE id = 'locker'")
    connection.close()
    result = cmt("store", "verify", "--store", store, code=1)
    assert "text in locker: the text is not what was added; delete it and add it again" in result.stdout
    report = json.loads(cmt("store", "verify", "--store", store, "--json", code=1).stdout)
    assert "locker" in {problem["document"] for problem in report["problems"]}
    cmt("store", "delete", "locker", "--store", store)
    cmt("store", "compact", "--store", store)
    cmt("store", "verify", "--store", store)


def test_verify_beside_a_writer(cmt, store):
    with closing(MemoryBank(store)):
        assert "open for writing elsewhere" in cmt("store", "verify", "--store", store, code=1).stderr
        assert "no problem" in cmt("store", "verify", "--store", store, "--read-only").stdout


def test_ctrl_c_while_recompressing_keeps_what_was_made(cmt, store, monkeypatch):
    def interrupt(*_, on_progress, **__):
        on_progress(["locker"])
        raise KeyboardInterrupt

    monkeypatch.setattr("cmt_memory.recompression.recompress", interrupt)
    result = cmt("store", "recompress", "--store", store, "--ratio", "4", code=1)
    assert "Interrupted: 1 of 4 documents have new memories" in result.stderr


def test_compact_prints_what_it_gave_back(cmt, store):
    cmt("store", "delete", "locker", "--store", store)
    counts = json.loads(cmt("store", "compact", "--store", store, "--json").stdout)
    assert counts["bytes_before"] >= counts["bytes_after"] > 0
    assert "before" in cmt("store", "compact", "--store", store).stdout
    assert b"4471" not in b"".join(path.read_bytes() for path in store.rglob("*") if path.is_file())


def test_the_command_changes_model_or_ratio_and_mends(cmt, lm, notes, tmp_path):
    path, other = tmp_path / "mem", tmp_path / "other"
    save_tiny(other, "qwen3")
    own = tmp_path / "lm"
    shutil.copytree(lm, own)
    cmt("add", notes, "--store", path, "--model", own, "--encoder", "none")
    shutil.rmtree(own)
    result = cmt("store", "recompress", "--store", path, "--model", other, "--json")
    counts = json.loads(result.stdout)
    assert counts == {"documents": 4, "recompressed": 4, "model": str(other), "ratio": 1, "latent": "full"}
    smaller = json.loads(cmt("store", "recompress", "--store", path, "--ratio", "4", "--json").stdout)
    assert (smaller["ratio"], smaller["recompressed"]) == (4, 4)
    assert "0 of 4 documents have new memories" in cmt("store", "recompress", "--store", path).stdout
    assert cmt("ask", "spare key", "--store", path, "--max-new-tokens", "2", "--json").exit_code == 0
    cmt("store", "verify", "--store", path)


@pytest.fixture
def questions(cmt, store, tmp_path):
    """A file of questions, every other one with what the store says as its answer."""
    path, lines = tmp_path / "questions.jsonl", []
    for number in range(12):
        question = f"Where is key {number}?"
        said = json.loads(cmt("ask", question, "--store", store, "--max-new-tokens", "4", "--json").stdout)["text"]
        answers = [] if number % 2 else [said]
        lines.append(json.dumps({"documents": ["Passed over."], "question": question, "answers": answers}))
    path.write_text("\n".join(lines) + "\n")
    return path


def test_calibrate_keeps_what_answers_are_worth(cmt, store, questions):
    args = ("--store", store, "--questions", questions, "--max-new-tokens", "4", "--budget", "0.5")
    made = json.loads(cmt("store", "calibrate", *args, "--json").stdout)
    assert made["memory"]["questions"] == 12
    assert made["memory"]["true"] == made["answerable"]["true"] == 0.5
    answer = json.loads(cmt("ask", "Where is key 1?", "--store", store, "--max-new-tokens", "4", "--json").stdout)
    assert 0 < answer["answerable"] < 1
    told = cmt("store", "calibrate", *args).stdout
    assert "from memories: 50.0% of 12, AUROC" in told
    assert "--fallback 0." in told


def test_calibrate_refuses_what_it_cannot_learn_from(cmt, store, tmp_path):
    path = tmp_path / "questions.jsonl"
    for content, said in (
        ('{"question": "Who?"}', "'answers'"),
        ("{", "JSON"),
        ('{"question": "Who?", "answers": []}', "0 of"),
    ):
        path.write_text(content)
        assert said in cmt("store", "calibrate", "--store", store, "--questions", path, code=1).stderr
    cmt("store", "calibrate", "--store", store, "--questions", tmp_path / "none.jsonl", code=2)
