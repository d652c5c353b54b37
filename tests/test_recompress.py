"""Memories made anew: by another model, after an interruption, beside readers and writers, or because of damage."""

from __future__ import annotations

import sqlite3
import threading

import pytest

from cmt_memory import CMTMemoryStore, CMTModel, Document
from cmt_memory.errors import FingerprintMismatchError, InvalidInputError, StoreCorruptError, StoreFullError
from tests.tiny import DOCUMENTS, QUESTION, tiny_lm, tiny_model, tokenizer

LONG = "\n\n".join(f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}." for i in range(12))
TEXTS = [*DOCUMENTS, LONG]
SETTINGS = {"passage_tokens": 64, "passage_overlap": 16}


@pytest.fixture(scope="module")
def old():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture(scope="module")
def new():
    return CMTModel.from_llm(tiny_lm("qwen3"), tokenizer=tokenizer("chat"), ratio=2, latent=48)


@pytest.fixture(scope="module")
def answers(old, new, tmp_path_factory):
    """What stores of one model alone answer."""
    found = {}
    for name, model in (("old", old), ("new", new)):
        with CMTMemoryStore(tmp_path_factory.mktemp(name), model, **SETTINGS) as store:
            store.add_documents(TEXTS)
            found[name] = store.ask(QUESTION, max_new_tokens=12).text
    assert found["old"] != found["new"]
    return found


@pytest.fixture
def store(old, tmp_path):
    with CMTMemoryStore(tmp_path / "s", old, **SETTINGS) as opened:
        opened.add_documents(TEXTS)
        opened._settings["commit_tokens"] = 1
        yield opened


def count_passes(model):
    seen = []
    return seen, model.lm.decoder.register_forward_pre_hook(lambda *_: seen.append(1))


def generations(store):
    with sqlite3.connect(store.path / "ledger.sqlite3") as connection:
        return {row[0] for row in connection.execute("SELECT DISTINCT generation FROM payloads")}


def test_another_lm_answers_as_if_it_had_made_the_store(store, old, new, answers):
    hits = store.search(QUESTION, k=3)
    seen = []
    store.recompress(new, on_progress=seen.extend, show_progress=True)
    assert sorted(seen) == sorted(store.bank.ids())
    assert store.ask(QUESTION, max_new_tokens=12).text == answers["new"]
    assert store.search(QUESTION, k=3) == hits
    assert (store.stats()["ratio"], store.stats()["latent"], store.stats()["waiting"]) == (2, 48, 0)
    assert generations(store) == {1}
    assert store.verify().ok
    store.add_documents(["The harbour was rebuilt in 1932."])
    assert store.ask("harbour", k=1, max_new_tokens=2).grounded
    with pytest.raises(InvalidInputError, match="recompress"):
        store.model.fit([LONG])
    store.close()
    with pytest.raises(FingerprintMismatchError, match="cmt-memory store recompress"):
        CMTMemoryStore(store.path, old)
    with CMTMemoryStore(store.path, new) as again:
        assert len(again) == 5
        assert again.ask(QUESTION, k=3, max_new_tokens=2).grounded


@pytest.mark.parametrize("settings", [{"ratio": 8}, {"latent": 16}, {"ratio": 1}])
def test_another_ratio_or_latent(store, settings):
    store.recompress(tiny_model("llama", "chat", **settings))
    assert store.stats() | settings == store.stats()
    assert store.ask(QUESTION, max_new_tokens=2).grounded
    store.close()
    with CMTMemoryStore(store.path, tiny_model("llama", "chat")) as again:
        found = again.stats()
        assert found | settings == found


@pytest.mark.parametrize("times", [1, 3])
def test_an_interrupted_call_goes_on_and_the_old_memories_answer_until_then(store, old, new, answers, times):
    passes, hook = count_passes(new)
    for text in store.get(store.bank.ids()):
        rows = store.bank.passages_by_id(store.bank.passage_ids([text.id]))
        new.compress([row.text for row in rows])
    whole = len(passes)
    passes.clear()
    done = []

    def interrupt(ids):
        done.extend(ids)
        if len(done) == times:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.recompress(new, on_progress=interrupt)
    assert len(done) == times
    assert store.ask(QUESTION, max_new_tokens=12).text == answers["old"]
    store.close()
    with pytest.raises(FingerprintMismatchError):
        CMTMemoryStore(store.path, new)
    with CMTMemoryStore(store.path, old) as again:
        assert again.ask(QUESTION, max_new_tokens=12).text == answers["old"]
        assert again.verify().ok
        first, seen = len(passes), []
        again._settings["commit_tokens"] = 1
        again.recompress(new, on_progress=seen.extend)
        assert 0 < first < len(passes) == whole
        assert sorted(done + seen) == sorted(again.bank.ids())
        assert again.ask(QUESTION, max_new_tokens=12).text == answers["new"]
    hook.remove()


def test_no_room_on_the_disk(store, new, answers, monkeypatch):
    monkeypatch.setattr("cmt_memory.ingestion.Ingestion.free_bytes", lambda _: 100)
    with pytest.raises(StoreFullError, match="free some space"):
        store.recompress(new)
    assert store.ask(QUESTION, max_new_tokens=12).text == answers["old"]
    monkeypatch.undo()
    store.recompress(new)
    assert store.ask(QUESTION, max_new_tokens=12).text == answers["new"]


def test_another_model_than_the_interrupted_one_begins_anew(store, new):
    def interrupt(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.recompress(tiny_model("llama", "chat", ratio=8), on_progress=interrupt)
    assert generations(store) == {0, 1}
    seen = []
    store.recompress(new, on_progress=seen.extend)
    assert len(seen) == 4
    assert generations(store) == {1}
    assert store.verify().ok


def test_the_model_of_before_need_not_be_there(store, new, answers):
    store.close()
    with CMTMemoryStore.open_recompressed(store.path, new, **SETTINGS) as again:
        assert again.ask(QUESTION, max_new_tokens=12).text == answers["new"]
    with pytest.raises(InvalidInputError, match="holds no store"):
        CMTMemoryStore.open_recompressed(store.path / "nowhere", new)


def test_a_reader_of_the_old_memories_is_told(store, old, new, answers):
    with CMTMemoryStore(store.path, old, read_only=True) as reader:
        assert reader.ask(QUESTION, max_new_tokens=12).text == answers["old"]
        store.recompress(new)
        with pytest.raises(FingerprintMismatchError, match="open it again"):
            reader.ask(QUESTION, max_new_tokens=12)
        with pytest.raises(FingerprintMismatchError, match="open it again"):
            list(reader.stream("When does the shop open?"))
        assert len(reader.search(QUESTION, k=2)) == 2
    with CMTMemoryStore(store.path, new, read_only=True) as reader:
        assert reader.ask(QUESTION, max_new_tokens=12).text == answers["new"]


def test_changes_beside_it_are_in_the_new_memories(store, new):
    ids = store.bank.ids()

    def change(seen):
        if seen == [ids[0]] and not store.get("late"):
            store.add_documents([Document("The harbour was rebuilt in 1932.", id="late")])
            store.update(ids[0], text="Mara Velt has moved away.")
            store.update(ids[2], metadata={"n": 1})
            store.delete(ids[1])

    store.recompress(new, on_progress=change)
    assert store.bank.uncompressed() == []
    assert store.verify().ok
    for id, text in (("late", "The harbour was rebuilt in 1932."), (ids[0], "Mara Velt has moved away.")):
        [memory] = store.bank.payloads([f"{id}#0"])
        assert memory.n_tokens == new.compress([text])[0].n_tokens
        assert memory.slots.shape == new.compress([text])[0].slots.shape


def test_questions_beside_it_are_answered_by_one_model_or_the_other(store, new, answers):
    found, failures, done = set(), [], threading.Event()

    def ask():
        try:
            while not done.is_set():
                found.add(store.ask(QUESTION, max_new_tokens=12).text)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    store.recompress(new)
    done.set()
    for thread in threads:
        thread.join()
    assert not failures
    assert found <= {answers["old"], answers["new"]}
    assert store.ask(QUESTION, max_new_tokens=12).text == answers["new"]


@pytest.mark.parametrize("big", [False, True])
def test_the_own_model_mends_what_is_damaged_and_nothing_else(tmp_path, old, big):
    model = tiny_model("llama", "chat", ratio=1) if big else old
    with CMTMemoryStore(tmp_path / "s", model) as store:
        store.add_documents([*DOCUMENTS, LONG * 2])
        expected = store.ask(QUESTION, k=9, max_new_tokens=8).text
        if big:
            file = sorted((store.path / "payloads").iterdir())[0]
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.write_bytes(content)
        else:
            with store.bank._ledger.database.write() as connection:
                connection.execute("UPDATE payloads SET data = zeroblob(bytes) WHERE passage = 1")
                connection.execute("DELETE FROM payloads WHERE passage = 3")
        [damaged] = [problem.document for problem in store.verify().problems]
        seen = []
        store.recompress(on_progress=seen.extend)
        assert set(seen) == {damaged, *([] if big else [store.bank.ids()[2]])}
        assert store.verify().ok
        assert generations(store) == {0}
        store.generator.prefixes._entries.clear()
        assert store.ask(QUESTION, k=9, max_new_tokens=8).text == expected


def test_what_an_interrupted_takeover_left_is_removed_at_the_next_opening(store, old):
    store.close()
    with sqlite3.connect(store.path / "ledger.sqlite3") as connection:
        connection.execute("INSERT INTO payloads SELECT passage, -1, sha256, bytes, data FROM payloads")
        connection.execute("INSERT INTO store_meta VALUES ('old_memories', 'true')")
    with CMTMemoryStore(store.path, old) as again:
        assert generations(again) == {0}


def test_without_text_or_the_right_to_write_it_is_refused(store, old, new, tmp_path):
    with CMTMemoryStore(tmp_path / "mute", old, keep_text=False) as mute:
        mute.add_documents(DOCUMENTS)
        with pytest.raises(InvalidInputError, match="keeps no text"):
            mute.recompress(new)
        assert mute.ask("shop", max_new_tokens=2).grounded
    with CMTMemoryStore(store.path, old, read_only=True) as reader, pytest.raises(InvalidInputError, match="read_only"):
        reader.recompress(new)


@pytest.mark.parametrize("text", ["CAST('X' || substr(text, 2) AS BLOB)", "NULL"])
def test_a_damaged_text_makes_no_memory(store, new, text):
    with store.bank._ledger.database.write() as connection:
        connection.execute(f"UPDATE documents SET text = {text} WHERE key = 2")
    id = store.bank.ids()[1]
    with pytest.raises(StoreCorruptError, match=id):
        store.recompress(new)
    with pytest.raises(StoreCorruptError, match=id):
        store.get(id)
    with pytest.raises(StoreCorruptError, match=id):
        store.ask(QUESTION, memory_ids=[id], mode="text")


def test_with_the_own_model_what_another_began_is_removed(store, new, answers):
    def interrupt(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.recompress(new, on_progress=interrupt)
    assert generations(store) == {0, 1}
    store.recompress()
    assert generations(store) == {0}
    assert store.ask(QUESTION, max_new_tokens=12).text == answers["old"]


def test_an_answer_under_way_ends_by_the_model_that_began_it(store, new, answers):
    pieces = store.stream(QUESTION, max_new_tokens=12)
    first = next(pieces)
    untouched = store.stream(QUESTION, max_new_tokens=12)
    store.recompress(new)
    assert first + "".join(pieces) == answers["old"]
    assert "".join(untouched) in answers.values()


def test_who_reads_an_emptied_store_is_told_of_the_next_model(store, old, new):
    with CMTMemoryStore(store.path, old, read_only=True) as reader:
        store.delete(store.bank.ids())
        store.close()
        with CMTMemoryStore(store.path, new) as again:
            again.add_documents(TEXTS)
            with pytest.raises(FingerprintMismatchError, match="open it again"):
                reader.ask(QUESTION, max_new_tokens=12)


def test_a_passage_that_the_other_lm_cannot_read(store, old):
    short = CMTModel.from_llm(tiny_lm("llama", max_position_embeddings=48), tokenizer=tokenizer("chat"))
    with pytest.raises(InvalidInputError, match="new store, which cuts them"):
        store.recompress(short)
    assert store.model is old
    assert store.ask(QUESTION, max_new_tokens=2).grounded
