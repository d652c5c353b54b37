"""lazy=True: searchable at once, compressed at the first use or on request, with the same answers."""

from __future__ import annotations

import pytest

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.errors import InvalidInputError
from tests.tiny import DOCUMENTS, QUESTION, tiny_model

LONG = "\n\n".join(f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}." for i in range(12))
QUESTIONS = [QUESTION, "When does the shop open?", "What is the code of room 7?"]


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


def open_store(path, model, **settings):
    return CMTMemoryStore(path, model, passage_tokens=64, passage_overlap=16, **settings)


@pytest.fixture(scope="module")
def eager(model, tmp_path_factory):
    """Hits and answers of a store that compresses at once."""
    with open_store(tmp_path_factory.mktemp("eager"), model) as store:
        store.add_documents([*DOCUMENTS, LONG])
        return {q: (store.search(q, k=2), store.ask(q, k=2, max_new_tokens=12)) for q in QUESTIONS}


@pytest.fixture
def store(model, tmp_path):
    with open_store(tmp_path / "s", model, lazy=True) as opened:
        opened.add_documents([*DOCUMENTS, LONG])
        yield opened


def check(store, eager):
    for question, (hits, answer) in eager.items():
        assert [hit.passage for hit in store.search(question, k=2)] == [hit.passage for hit in hits]
        given = store.ask(question, k=2, max_new_tokens=12)
        assert (given.text, given.usage) == (answer.text, answer.usage)


def test_adding_runs_no_lm_pass_and_the_first_use_does(model, tmp_path, eager, passes):
    with open_store(tmp_path / "s", model, lazy=True) as store:
        store.add_documents([*DOCUMENTS, LONG])
        hits = store.search(QUESTION, k=2)
        assert not passes
        everything = store.stats()["passages"]
        assert (store.stats()["waiting"], store.stats()["memories"]) == (everything, 0)
        assert hits == eager[QUESTION][0]
        assert store.ask(QUESTION, k=2, mode="text", max_new_tokens=2).grounded
        assert store.stats()["waiting"] == everything
        check(store, eager)
        assert everything - 6 <= store.stats()["waiting"] < everything
        count = len(passes)
        check(store, eager)
        assert store.verify().ok
        used = {hit.passage for hits, _ in eager.values() for hit in hits}
        assert store.bank.uncompressed(sorted(used)) == []
        assert store.stats()["memories"] == len(used)
        # Prefixes are kept, so that only the questions are read again.
        assert len(passes) - count <= 12 * len(QUESTIONS)


def test_what_waits_survives_closing_and_can_be_compressed_at_any_time(store, model, eager, passes):
    store.close()
    with open_store(store.path, model) as again:
        assert again.stats()["waiting"] == again.stats()["passages"]
        seen = []
        again.compress_pending(show_progress=True, on_progress=seen.extend)
        assert set(seen) == set(again.bank.ids())
        assert again.stats()["waiting"] == 0
        count = len(passes)
        again.compress_pending()
        again.add_documents([*DOCUMENTS, LONG])
        assert len(passes) == count
        check(again, eager)


def test_an_interrupted_compression_goes_on(store, monkeypatch):
    monkeypatch.setattr("cmt_memory.ingestion._WAITING_AT_ONCE", 2)

    def interrupt(ids):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.compress_pending(on_progress=interrupt)
    assert store.stats()["memories"] == 2
    store.compress_pending()
    assert store.stats()["waiting"] == 0


def test_a_reader_answers_too_and_keeps_nothing(store, model, eager, passes):
    with open_store(store.path, model, read_only=True) as reader:
        check(reader, eager)
        used = len(passes)
        check(reader, eager)
        assert len(passes) - used <= 12 * len(QUESTIONS)
        assert reader.stats()["memories"] == 0
        store.ask(QUESTION, k=1, max_new_tokens=2)
        check(reader, eager)


def test_adding_again_without_lazy_compresses(store, model, passes):
    store.close()
    with open_store(store.path, model) as again:
        [id] = again.add_documents(DOCUMENTS[:1])
        assert len(passes) == 1
        assert again.bank.uncompressed([f"{id}#0"]) == []


def test_a_document_that_changes_while_it_waits(store):
    [id] = store.add_documents([Document("The code is 11.", id="a")])
    store.update(id, text="The code is 22.")
    store.update(id, metadata={"n": 1})
    hit = store.ask("What is the code?", memory_ids=["a"], max_new_tokens=2).hits[0]
    assert (hit.text, hit.metadata) == ("The code is 22.", {"n": 1})
    store.delete("a")
    assert store.bank.verify().ok


def test_recompress_gives_a_memory_to_what_waits(store, model):
    store.recompress()
    assert store.stats()["waiting"] == 0
    store.add_documents(["The harbour was rebuilt in 1932."])
    assert store.stats()["waiting"] == 1


def test_without_text_there_is_nothing_to_compress_later(model, tmp_path):
    with pytest.raises(InvalidInputError, match="keep_text"):
        CMTMemoryStore(tmp_path / "s", model, lazy=True, keep_text=False)
    open_store(tmp_path / "s", model, lazy=True).close()
