from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.filters import parse
from cmt_memory.bank.records import StoredDocument, StoredPassage
from cmt_memory.documents import Document
from cmt_memory.errors import InvalidInputError, StoreClosedError, StoreCorruptError, StoreLockedError
from tests.bank.helpers import lexicon_is_sound, slots, stored, vector


@pytest.fixture
def bank(tmp_path: Path) -> Any:
    with_bank = MemoryBank(tmp_path / "bank")
    yield with_bank
    with_bank.close()


def names(bank: MemoryBank, found: list[tuple[int, float]]) -> list[str]:
    rows = bank.passages([key for key, _ in found])
    return [f"{rows[key].document}#{rows[key].n}" for key, _ in found]


def test_what_is_put_comes_back(bank: MemoryBank):
    text = "שלום\0 wörld 👩‍👩‍👧‍👦. Second sentence."
    metadata = {"a": [1, None], "n": 2**70, "f": float("inf"), "s": "x"}
    bank.put([stored("odd/../id#0", text, metadata, pieces=3), stored("big", "big one", big=True)])
    assert len(bank) == 2
    assert bank.ids() == ["odd/../id#0", "big"]
    assert bank.get(["big", "unknown", "odd/../id#0"]) == [
        Document("big one", {}, "big"),
        Document(text, metadata, "odd/../id#0"),
    ]
    rows = bank.passages_by_id(bank.passage_ids(["odd/../id#0"]))
    assert "".join(row.text for row in rows) == text
    assert [(row.n, text[row.start : row.end]) for row in rows] == [(n, row.text) for n, row in enumerate(rows)]
    first, again, big = bank.payloads(["odd/../id#0#1", "odd/../id#0#1", "big#0"])
    assert torch.equal(first.slots, slots(1))
    assert again is first
    assert torch.equal(big.slots, slots(0, dims=20_000))
    assert len(list((bank.path / "payloads").iterdir())) == 1


def test_reopening_changes_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    bank = MemoryBank(tmp_path)
    bank.put([stored(f"d{n}", f"text number {n}", {"n": n}, seed=n) for n in range(20)])
    bank.set_meta("settings", {"ratio": 4})
    bank.set_asset("pca", b"\0\1\2")
    before = bank.search_vectors(vector(7), 5), bank.search_words(["number"], 3), bank.stats()["documents"]
    bank.close()
    bank = MemoryBank(tmp_path)
    assert (bank.search_vectors(vector(7), 5), bank.search_words(["number"], 3), bank.stats()["documents"]) == before
    assert bank.meta("settings") == {"ratio": 4}
    assert bank.asset("pca") == b"\0\1\2"
    assert bank.meta("none") is bank.asset("none") is None
    assert not caplog.records
    bank.close()


def test_replacing_leaves_nothing_of_the_old(bank: MemoryBank):
    bank.put([stored("d", "old words here", {"gone": 1, "kept": 1}, pieces=3, big=True)])
    created = bank.infos(["d"])[0].created
    with lexicon_is_sound(bank):
        bank.put([stored("d", "new text", {"kept": 2}, seed=9)])
    assert len(bank) == 1
    assert bank.get(["d"]) == [Document("new text", {"kept": 2}, "d")]
    assert bank.search_words(["old", "words", "here"], 5) == []
    assert names(bank, bank.search_vectors(vector(0), 5)) == ["d#0"]
    assert bank.search_vectors(vector(0), 5, parse({"gone": 1})) == []
    assert list((bank.path / "payloads").iterdir()) == []
    assert bank.infos(["d"])[0].created == created
    assert bank.infos(["d"])[0].updated >= created


def test_new_metadata_keeps_the_memories(bank: MemoryBank):
    bank.put([stored("d", "some text of two", {"x": 1, "y": 1}, pieces=2), stored("e", "other", {"x": 1})])
    with lexicon_is_sound(bank):
        bank.set_metadata("d", {"x": 2})
    assert bank.get(["d"])[0].metadata == {"x": 2}
    assert names(bank, bank.search_vectors(vector(0), 5, parse({"x": 2}))) == ["d#0", "d#1"]
    assert names(bank, bank.search_words(["some"], 5, parse({"x": 2}))) == ["d#0"]
    assert bank.search_vectors(vector(0), 5, parse({"y": 1})) == []
    assert torch.equal(bank.payloads(["d#1"])[0].slots, slots(1))
    assert bank.stats()["passages"] == 3
    with pytest.raises(InvalidInputError, match="unknown ids"):
        bank.set_metadata("nobody", {})


def test_delete_leaves_nothing_behind(bank: MemoryBank):
    secret = "xylophone-quarantine-7731"
    bank.put([stored("a", f"the {secret} of a", pieces=2, big=True), stored("b", "another text")])
    with pytest.raises(InvalidInputError, match=r"unknown ids \['c'\]; nothing was changed"):
        bank.delete(["a", "c"])
    assert len(bank) == 2
    with lexicon_is_sound(bank):
        bank.delete(["a", "a"])
    assert bank.ids() == ["b"]
    assert bank.search_words(["xylophone"], 5) == []
    assert bank.word_counts(["xylophone", "another"]) == {"another": 1}
    assert names(bank, bank.search_vectors(vector(0), 5)) == ["b#0"]
    assert list((bank.path / "payloads").iterdir()) == []
    bank.compact()
    for path in bank.path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert secret.encode() not in content, path
            assert b"xylophone" not in content, path


def test_shared_payload_files_stay_until_the_last_user_goes(bank: MemoryBank):
    bank.put([stored("a", "one", big=True), stored("b", "two", big=True)])
    assert len(list((bank.path / "payloads").iterdir())) == 1
    bank.delete(["a"])
    assert bank.payloads(["b#0"])[0].slots.shape == (2, 20_000)
    bank.delete(["b"])
    assert list((bank.path / "payloads").iterdir()) == []


def test_compare_tells_what_would_change(bank: MemoryBank):
    bank.put([stored("a", "text", {"x": 1})])
    asked = [Document("text", {"x": 1}, "a"), Document("text", {"x": 1.0}, "a"), Document("t", {}, "a")]
    assert bank.compare([*asked, Document("text", {}, "b")]) == ["same", "metadata", "text", "new"]


def test_put_is_all_or_nothing(bank: MemoryBank):
    wrong = stored("b", "text")
    wrong.passages[0].vector = vector(0, 9)
    with pytest.raises(InvalidInputError, match="shapes"):
        bank.put([stored("a", "text"), wrong])
    with pytest.raises(InvalidInputError, match="no passages"):
        bank.put([stored("a", "text"), StoredDocument("b", "text", {}, [])])
    broken = stored("b", "text")
    broken.passages[0].n_tokens = None  # type: ignore[assignment]
    with pytest.raises(Exception, match="nothing was changed"):
        bank.put([stored("a", "text"), broken])
    assert len(bank) == 0
    assert bank.search_words(["text"], 5) == []


def test_passages_can_be_compressed_later(bank: MemoryBank):
    late = stored("d", "text of d", pieces=2)
    payload, late.passages[1].payload = late.passages[1].payload, None
    bank.put([late])
    [key] = bank.uncompressed()
    assert bank.uncompressed(["d#0"]) == []
    with pytest.raises(InvalidInputError, match="'d#1' is not compressed"):
        bank.payloads(["d#0", "d#1"])
    bank.set_payloads([(key, payload or b""), (key + 99, b"of a passage that is gone")])
    assert torch.equal(bank.payloads(["d#1"])[0].slots, slots(1))
    assert bank.uncompressed() == []


@pytest.mark.parametrize("name", ["d", "d#9", "x#0", "d#", "#0", ""])
def test_unknown_passages(bank: MemoryBank, name: str):
    bank.put([stored("d", "text")])
    with pytest.raises(InvalidInputError, match="unknown passages"):
        bank.payloads(["d#0", name])


def test_filters_give_all_there_are(bank: MemoryBank):
    bank.put([stored(f"d{n}", f"word{n % 3} common", {"n": n, "big": [n], "s": str(n)}, seed=n) for n in range(150)])
    exact = {n: float(vector(n) @ vector(999)) for n in range(150)}
    for filter, accepted in [
        ({"n": {"$in": [3, 77, 149]}}, [3, 77, 149]),
        ({"s": {"$gt": "97"}}, [98, 99]),
        ({"big": {"$ne": 1}, "n": {"$lt": 5}}, [0, 1, 2, 3, 4]),
        ({"n": {"$gte": 0}}, range(150)),
        ({"n": 1000}, []),
    ]:
        found = bank.search_vectors(vector(999), 12, parse(filter))
        best = sorted(accepted, key=lambda n: -exact[n])[:12]
        assert names(bank, found) == [f"d{n}#0" for n in best]
        assert [cosine for _, cosine in found] == pytest.approx([exact[n] for n in best], abs=1e-5)
        words = bank.search_words(["common"], 1000, parse(filter))
        assert sorted(names(bank, words)) == sorted(f"d{n}#0" for n in accepted)


def test_an_empty_bank(bank: MemoryBank):
    assert len(bank) == 0
    assert bank.search_vectors(vector(0), 3) == []
    assert bank.search_words(["a"], 3) == bank.search_words([], 3) == []
    assert bank.get(["a"]) == bank.infos(["a"]) == bank.ids() == []
    assert bank.cosines(vector(0), []) == {}
    assert bank.stats()["bytes_over_text"] is None
    bank.put([])
    bank.delete([])


def test_stats(bank: MemoryBank):
    bank.put([stored("a", "é" * 10, pieces=2), stored("b", "text", big=True)])
    stats = bank.stats()
    assert (stats["documents"], stats["passages"], stats["memories"], stats["text_bytes"]) == (2, 3, 3, 24)
    assert stats["tokens"] == 14
    assert stats["disk_bytes"]["total"] == sum(v for k, v in stats["disk_bytes"].items() if k != "total")
    assert stats["disk_bytes"]["payloads"] > 80_000
    assert stats["bytes_over_text"] == stats["disk_bytes"]["total"] / 24


def test_without_text_no_text_is_on_disk(tmp_path: Path):
    bank = MemoryBank(tmp_path, keep_text=False)
    bank.put([stored("a", "xylophone music", pieces=2)])
    assert bank.get(["a"])[0].text == ""
    assert bank.passages_by_id(["a#0"])[0].text == ""
    assert bank.search_words(["xylophone"], 5) == []
    assert bank.compare([Document("xylophone music", {}, "a"), Document("b", {}, "a")]) == ["same", "text"]
    with pytest.raises(InvalidInputError, match="keeps no text"):
        bank.replace_encoder("other", 8, lambda texts: np.ones((len(texts), 8), np.float32))
    bank.close()
    assert not any(b"xylophone" in path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    bank = MemoryBank(tmp_path)
    assert not bank.keep_text
    bank.close()


def test_keep_text_is_settled_by_the_first_document(bank: MemoryBank):
    bank.close()
    bank = MemoryBank(bank.path, keep_text=False)
    assert not bank.keep_text
    bank.close()
    bank = MemoryBank(bank.path)
    bank.put([stored("a", "A text.")])
    bank.close()
    with pytest.raises(InvalidInputError, match="keeps texts"):
        MemoryBank(bank.path, keep_text=False)
    MemoryBank(bank.path).close()


def test_one_writer_at_a_time(bank: MemoryBank):
    with pytest.raises(StoreLockedError, match="read_only=True"):
        MemoryBank(bank.path)
    bank.close()
    MemoryBank(bank.path).close()


def test_a_reader_beside_a_writer(bank: MemoryBank):
    bank.put([stored(f"d{n}", f"text {n}", {"n": n}, seed=n) for n in range(30)])
    reader = MemoryBank(bank.path, read_only=True)
    found = reader.search_vectors(vector(3), 5)
    assert [key for key, _ in found] == [key for key, _ in bank.search_vectors(vector(3), 5)]
    assert names(reader, reader.search_vectors(vector(3), 5, parse({"n": {"$gt": 27}}))) != []
    assert names(reader, found)[0] == "d3#0"
    bank.put([stored("new", "fresh words", seed=100)])
    assert names(reader, reader.search_vectors(vector(100), 1)) == ["new#0"]
    assert names(reader, reader.search_words(["fresh"], 5)) == ["new#0"]
    assert torch.equal(reader.payloads(["new#0"])[0].slots, slots(100))
    for change in (
        lambda: reader.put([stored("x", "y")]),
        lambda: reader.delete(["new"]),
        lambda: reader.set_meta("a", 1),
        reader.compact,
    ):
        with pytest.raises(InvalidInputError, match="read_only"):
            change()
    reader.close()
    assert len(bank) == 31


def test_reading_what_is_not_there(tmp_path: Path):
    with pytest.raises(InvalidInputError, match="holds no store"):
        MemoryBank(tmp_path / "nowhere", read_only=True)
    assert not (tmp_path / "nowhere").exists()


def test_a_folder_that_cannot_be_written(tmp_path: Path):
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(InvalidInputError, match="cannot be written"):
        MemoryBank(tmp_path / "file" / "bank")


def test_a_closed_bank(bank: MemoryBank):
    bank.put([stored("a", "text")])
    bank.close()
    bank.close()
    for use in (
        lambda: len(bank),
        lambda: bank.put([stored("b", "text")]),
        lambda: bank.get(["a"]),
        lambda: bank.delete(["a"]),
        lambda: bank.search_vectors(vector(0), 1),
        lambda: bank.search_words(["text"], 1),
        lambda: bank.payloads(["a#0"]),
        lambda: bank.meta("x"),
        bank.stats,
    ):
        with pytest.raises(StoreClosedError):
            use()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*")
def test_a_forked_child_is_told_so(bank: MemoryBank):
    bank.put([stored("a", "text")])
    child = os.fork()
    if not child:
        try:
            len(bank)
        except StoreClosedError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    assert len(bank) == 1


@pytest.mark.parametrize("big", [False, True])
def test_a_flipped_byte_is_found_and_named(bank: MemoryBank, big: bool):
    bank.put([stored("a", "text", big=big), stored("b", "other", seed=5)])
    if big:
        (file,) = (bank.path / "payloads").iterdir()
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    else:
        with bank._ledger.database.write() as connection:
            (data,) = connection.execute("SELECT data FROM payloads WHERE passage = 1").fetchone()
            connection.execute("UPDATE payloads SET data = ? WHERE passage = 1", (data[:-1] + bytes([data[-1] ^ 1]),))
    with pytest.raises(StoreCorruptError, match="'a#0' is damaged"):
        bank.payloads(["b#0", "a#0"])
    assert len(bank.payloads(["b#0"])) == 1


def test_a_missing_payload_file_is_told(bank: MemoryBank):
    bank.put([stored("a", "text", big=True)])
    next((bank.path / "payloads").iterdir()).unlink()
    with pytest.raises(StoreCorruptError, match="cannot be read"):
        bank.payloads(["a#0"])


def test_threads_write_and_search_at_once(bank: MemoryBank):
    failures: list[BaseException] = []

    def work(worker: int) -> None:
        try:
            for n in range(6):
                id = f"w{worker}-{n}"
                bank.put([stored(id, f"text {worker} {n}", {"w": worker}, seed=worker * 100 + n)])
                assert names(bank, bank.search_vectors(vector(worker * 100 + n), 1)) == [f"{id}#0"]
                assert bank.get([id])[0].text == f"text {worker} {n}"
                if n % 3 == 2:
                    bank.delete([f"w{worker}-{n - 1}"])
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(worker,)) for worker in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(bank) == 24
    with lexicon_is_sound(bank):
        pass


def test_a_reader_does_not_wait_for_a_long_write(bank: MemoryBank):
    bank.put([stored("a", "text")])
    with bank._ledger.database.write() as connection:
        connection.execute("DELETE FROM documents")
        answers: list[int] = []
        thread = threading.Thread(target=lambda: answers.append(len(bank)))
        thread.start()
        thread.join(5)
        assert answers == [1]
        connection.execute("ROLLBACK")
        connection.execute("BEGIN")


def test_another_encoder(bank: MemoryBank):
    bank.replace_encoder("first", 8, lambda texts: np.stack([vector(len(text)) for text in texts]))
    assert bank.encoder == {"id": "first", "dimension": 8}
    bank.put([stored(f"d{n}", "x" * (n + 1), seed=n) for n in range(5)])
    progress: list[tuple[int, int]] = []
    encode = lambda texts: np.stack([vector(len(text), 12) for text in texts])  # noqa: E731
    bank.replace_encoder("second", 12, encode, lambda *done: progress.append(done))
    assert bank.encoder == {"id": "second", "dimension": 12}
    assert progress == [(5, 5)]
    assert names(bank, bank.search_vectors(vector(3, 12), 1)) == ["d2#0"]
    with pytest.raises(InvalidInputError, match="shapes"):
        bank.put([stored("late", "text")])
    bank.replace_encoder("second", 12, lambda texts: pytest.fail("nothing is left to encode"))


def test_an_interrupted_change_of_encoder_goes_on(bank: MemoryBank):
    bank.put([stored(f"d{n}", "x" * (n + 1), seed=n) for n in range(900)])

    def fails(texts: list[str]) -> np.ndarray:
        if len(texts[0]) > 400:
            raise KeyboardInterrupt
        return np.stack([vector(len(text)) for text in texts])

    with pytest.raises(KeyboardInterrupt):
        bank.replace_encoder("second", 8, fails)
    bank.close()
    bank = MemoryBank(bank.path)
    done: list[int] = []
    bank.replace_encoder(
        "second", 8, lambda texts: (done.append(len(texts)), np.stack([vector(len(text)) for text in texts]))[1]
    )
    assert sum(done) == 400
    for n in (2, 700):
        assert names(bank, bank.search_vectors(vector(n), 1)) == [f"d{n - 1}#0"]
    assert bank.stats()["passages"] == 900
    bank.close()


def test_counts_of_frequent_words_are_estimated(bank: MemoryBank):
    bank.put([stored(f"d{n}", "every" + " other" * (n % 2) + " first" * (n < 50), seed=n) for n in range(200)])
    assert bank.word_counts(["every", "other", "first", "none"]) == {"every": 200, "other": 100, "first": 50}
    assert bank.word_counts(["every", "other", "first", "none"], 100) == {"every": 200, "other": 100, "first": 50}
    estimated = bank.word_counts(["every", "other", 'f"irst', "first"], 40)
    assert estimated["every"] == 200
    assert estimated["other"] == pytest.approx(100, abs=3)
    assert estimated["first"] > 40  # a word that is not evenly spread is taken for more frequent than it is


def test_passages_without_vectors(bank: MemoryBank):
    bank.put([StoredDocument("a", "only words", {}, [StoredPassage(0, 10, 2)])])
    assert not (bank.path / "chroma").exists()
    assert names(bank, bank.search_words(["words"], 3)) == ["a#0"]
    assert bank.search_vectors(vector(0), 3) == []


def test_quotes_and_operators_never_reach_the_query_language(bank: MemoryBank):
    bank.put([stored("a", "plain text")])
    for word in ('"', 'a" OR "text', "*", "NEAR(", "text*", "-", "\0", "(", "text:plain"):
        bank.search_words([word], 3)
    assert bank.search_words(['x" OR "text'], 3) == []
