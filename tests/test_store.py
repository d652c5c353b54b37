"""CMTMemoryStore: what a user does with documents and questions, on real parts."""

from __future__ import annotations

import json

import pytest
import torch

from cmt_memory import CMTMemoryStore, CMTModel, Document
from cmt_memory.errors import (
    FingerprintMismatchError,
    InvalidInputError,
    StoreClosedError,
    StoreFullError,
    StoreLockedError,
)
from cmt_memory.ingestion import Ingestion
from tests.tiny import DOCUMENTS, QUESTION, save_tiny, tiny_lm, tiny_model, tokenizer

LONG = "\n\n".join(f"Room {i} is on floor {i % 7}. Its code is {1000 + 37 * i}. Ask at desk {i}." for i in range(60))


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", "chat", ratio=4, latent=32)


@pytest.fixture
def store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "store", model) as opened:
        yield opened


def test_documents_in_answers_out(store):
    ids = store.add_documents(DOCUMENTS, metadatas=[{"n": i} for i in range(3)])
    assert len(store) == len(set(ids)) == 3
    hits = store.search("When does the shop open?", k=2)
    assert hits[0].id == ids[1]
    assert hits[0].text == DOCUMENTS[1]
    assert hits[0].metadata == {"n": 1}
    assert 0 <= hits[1].score <= 1
    answer = store.ask("When does the shop open?", k=2, max_new_tokens=8)
    assert answer.grounded
    assert [hit.passage for hit in answer.hits] == [hit.passage for hit in hits]
    assert answer.usage.memory_slots > 0
    assert not [text for text in DOCUMENTS if text in answer.text]
    assert set(answer.timings) == {"search", "prefix", "first_token", "total"}
    assert "".join(store.stream("When does the shop open?", k=2, max_new_tokens=8)) == answer.text


def test_text_mode_costs_the_prompt_that_memory_saves(store):
    store.add_documents(DOCUMENTS)
    memory, text, none = (store.ask(QUESTION, mode=mode, max_new_tokens=4) for mode in ("memory", "text", "none"))
    assert memory.usage.prompt_tokens < text.usage.prompt_tokens
    assert text.usage.memory_slots == none.usage.memory_slots == 0
    assert [hit.id for hit in memory.hits] == [hit.id for hit in text.hits]
    assert not none.grounded
    assert none.hits == []


def test_lossless_memories_answer_as_the_text_does(tmp_path):
    with CMTMemoryStore(tmp_path / "exact", tiny_model("qwen3", "chat", ratio=1)) as store:
        store.add_documents(DOCUMENTS)
        for question in (QUESTION, "When does the shop open?"):
            memory = store.ask(question, k=1, max_new_tokens=24)
            assert memory.text == store.ask(question, k=1, mode="text", max_new_tokens=24).text
            assert memory.text != store.ask(question, mode="none", max_new_tokens=24).text


def test_adding_again_runs_no_lm_pass(store, passes):
    first = store.add_documents(DOCUMENTS)
    count = len(passes)
    assert count > 0
    assert store.add_documents([*DOCUMENTS, Document(DOCUMENTS[0])]) == [*first, first[0]]
    assert len(passes) == count
    assert len(store) == 3
    store.add_documents([*DOCUMENTS, "Something new."])
    assert len(passes) == count + 1


def test_changed_text_under_the_same_id_replaces(store, passes):
    store.add_documents([Document("The code is 11.", {"v": 1}, id="a"), Document(DOCUMENTS[1], id="b")])
    assert store.add_documents([Document("The code is 22.", {"v": 2}, id="a")]) == ["a"]
    assert [document.text for document in store.get(["a", "b"])] == ["The code is 22.", DOCUMENTS[1]]
    assert len(store) == 2
    assert all("11" not in hit.text for hit in store.search("What is the code?", k=5))
    count = len(passes)
    store.add_documents([Document("The code is 22.", {"v": 3}, id="a")])
    assert len(passes) == count
    assert store.get("a")[0].metadata == {"v": 3}
    assert store.search("code", k=1, filter={"v": 3})[0].id == "a"
    assert store.search("code", k=1, filter={"v": 2}) == []


def test_delete_and_get(store):
    ids = store.add_documents(DOCUMENTS)
    store.delete(ids[:1])
    assert len(store) == 2
    assert [document.id for document in store.get(ids)] == ids[1:]
    assert all(hit.id != ids[0] for hit in store.search(QUESTION, k=9))
    with pytest.raises(InvalidInputError, match=ids[0]):
        store.delete([ids[1], ids[0]])
    assert len(store) == 2


def test_reopened_store_gives_the_same_answers(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model) as store:
        store.add_documents(DOCUMENTS)
        before = store.ask(QUESTION, max_new_tokens=12)
        hits = store.search(QUESTION, k=3)
    with pytest.raises(StoreClosedError):
        store.search(QUESTION)
    with CMTMemoryStore(tmp_path / "s", tiny_model("llama", "chat")) as again:
        assert again.model.config.ratio == 4
        assert again.model.config.latent == 32
        assert again.search(QUESTION, k=3) == hits
        assert again.ask(QUESTION, max_new_tokens=12).text == before.text
        assert again.ask(QUESTION, max_new_tokens=12).usage == before.usage
    with CMTMemoryStore(tmp_path / "s", tiny_model("llama", "chat"), read_only=True) as reader:
        assert reader.ask(QUESTION, max_new_tokens=12).text == before.text


def test_long_documents_become_passages_that_lead_back(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, passage_tokens=64, passage_overlap=16) as store:
        [id] = store.add_documents([Document(LONG, {"source": "rooms.txt"}, id="rooms/1")])
        assert len(store) == 1
        [hit, *_] = store.search("What is the code of room 42?", k=3)
        assert (hit.id, hit.metadata) == (id, {"source": "rooms.txt"})
        assert hit.passage.startswith("rooms/1#")
        assert LONG[slice(*hit.span)] == hit.text
        assert "Room 42 is" in hit.text
        assert all(len(tokenizer("chat").encode(h.text, add_special_tokens=False)) <= 64 for h in store.search("room"))
        answer = store.ask("room 42?", memory_ids=[hit.passage], max_new_tokens=4)
        assert [h.passage for h in answer.hits] == [hit.passage]
        whole = store.ask("room 42?", memory_ids=["rooms/1"], max_new_tokens=4)
        assert len(whole.hits) + whole.usage.left_out == store.stats()["passages"] > 3
        store.delete("rooms/1")
        assert store.search("room", k=5) == []


def test_nothing_relevant_means_the_plain_model_answers(store):
    store.add_documents(DOCUMENTS)
    answer = store.ask(QUESTION, min_score=0.999, max_new_tokens=8)
    assert not answer.grounded
    assert answer.hits == []
    assert answer.text == store.ask(QUESTION, mode="none", max_new_tokens=8).text


def test_an_empty_store_answers_without_memory(store):
    assert store.search(QUESTION) == []
    assert not store.ask(QUESTION, max_new_tokens=4).grounded


@pytest.mark.parametrize("channels", [("dense",), ("bm25",), ("dense", "bm25")])
def test_channels_can_be_switched(model, tmp_path, channels):
    with CMTMemoryStore(tmp_path / "s", model, channels=channels) as store:
        store.add_documents(DOCUMENTS)
        [hit] = store.search("Tom Okri's locker", k=1)
        assert hit.text == DOCUMENTS[1]
        assert set(hit.scores) <= {"dense", "bm25"}


def test_words_alone_without_an_encoder(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, encoder=None) as store:
        store.add_documents(DOCUMENTS)
        [hit] = store.search("Tom Okri's locker", k=1)
        assert hit.text == DOCUMENTS[1]
        assert store.stats()["encoder"] is None


def test_another_encoder_indexes_anew(model, tmp_path, caplog):
    class Letters:
        """An embedding object in LangChain's shape: how often each letter occurs."""

        model_name = "letters"

        def embed_documents(self, texts):
            return [[text.lower().count(letter) + 0.01 for letter in "abcdefghijklmnopqrstuvwxyz"] for text in texts]

        def embed_query(self, text):
            return self.embed_documents([text])[0]

    path = tmp_path / "s"
    with CMTMemoryStore(path, model, encoder=None) as store:
        store.add_documents(DOCUMENTS)
    with CMTMemoryStore(path, model) as store:
        assert store.encoder is None
    with CMTMemoryStore(path, model, encoder=Letters(), channels=("dense",)) as store:
        assert store.search("closed Sundays on it is", k=1)[0].text == DOCUMENTS[2]
        store.add_documents(["zzz zzz"])
        assert store.search("zz", k=1)[0].text == "zzz zzz"
    assert "encoding its passages anew" in caplog.text
    with pytest.raises(InvalidInputError, match="bm25"):
        CMTMemoryStore(path, model, encoder=None)
    with pytest.raises(InvalidInputError, match="read_only"):
        CMTMemoryStore(path, model, encoder="sentence-transformers/all-MiniLM-L6-v2", read_only=True)
    with CMTMemoryStore(path, model, encoder=Letters()) as store:
        assert len(store) == 4


def test_progress_is_reported_after_each_commit(store):
    seen = []

    def on_progress(ids):
        assert store.bank.contains(ids) == set(ids)
        seen.extend(ids)

    ids = store.add_documents(DOCUMENTS, on_progress=on_progress, show_progress=True)
    assert sorted(seen) == sorted(ids)
    seen.clear()
    store.add_documents(DOCUMENTS, on_progress=on_progress)
    assert sorted(seen) == sorted(ids)


def test_an_interrupted_add_keeps_what_was_committed(model, tmp_path, passes):
    with CMTMemoryStore(tmp_path / "s", model) as store:
        store._ingestion.commit_tokens = 8

        def interrupt(ids):
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            store.add_documents(DOCUMENTS, on_progress=interrupt)
        assert (len(store), len(passes)) == (1, 2)  # the LM was at the second
        store.add_documents(DOCUMENTS)
        assert (len(store), len(passes)) == (3, 4)


def test_what_was_being_written_when_the_lm_failed_is_reported(model, tmp_path, monkeypatch):
    compress, seen = model.compress, []

    def fails_at_the_second(texts, **settings):
        if DOCUMENTS[1] in texts:
            raise RuntimeError("out of memory")
        return compress(texts, **settings)

    monkeypatch.setattr(model, "compress", fails_at_the_second)
    with CMTMemoryStore(tmp_path / "s", model) as store:
        store._ingestion.commit_tokens = 8
        with pytest.raises(RuntimeError, match="out of memory"):
            store.add_documents(DOCUMENTS, on_progress=seen.extend)
        assert len(store) == len(seen) == 1


@pytest.mark.parametrize(
    "document",
    ["", "   \n", None, 7, b"bytes", {"text": ""}, {"no": "text"}, Document(" "), "lone \ud800 surrogate"],
)
def test_bad_documents_change_nothing(store, document):
    with pytest.raises(InvalidInputError, match="document 1"):
        store.add_documents(["A fine document.", document])
    assert len(store) == 0
    assert store.stats()["passages"] == 0


@pytest.mark.parametrize(
    "text",
    [
        "nul \x00 byte",
        "emoji 🙂🚀 only",
        "שלום עולם, הקוד הוא 4471",
        "كلمة السر هي 9032",
        "日本語の文章。コードは5523です。",
        "x" * 3000,
    ],
)
def test_any_text_works(store, text):
    [id] = store.add_documents([text])
    assert store.get(id)[0].text == text
    assert store.search(text[:200], k=1)[0].id == id
    assert store.ask("code?", max_new_tokens=2).grounded


@pytest.mark.slow
def test_a_document_of_a_megabyte(tmp_path):
    model = tiny_model("llama", "chat", ratio=16, latent=32, compressor="pooled")
    text = "".join(f"Box {i} holds {i * 7 % 1000} bolts for shelf {i % 90}.\n" for i in range(24_000))[:1_000_000]
    with CMTMemoryStore(tmp_path / "s", model, encoder=None) as store:
        [id] = store.add_documents([text])
        assert store.get(id)[0].text == text
        [hit] = store.search("Box 21345 bolts", k=1)
        assert "Box 21345 holds" in hit.text
        assert text[slice(*hit.span)] == hit.text
        assert store.ask("Box 21345?", k=2, max_new_tokens=2).grounded


@pytest.mark.parametrize(
    "wrong",
    [{"k": 0}, {"k": -1}, {"k": 1.5}, {"mode": "magic"}, {"memory_ids": ["nothing#0"]}, {"memory_ids": [3]},
     {"memory_ids": 3}, {"memory_ids": ["nothing"], "mode": "none"}, {"k": 0, "mode": "none"},
     {"alpha": float("nan"), "mode": "text"}, {"seed": -1}, {"seed": 2**70}, {"stop": 5}, {"question": "\ud800"},
     {"filter": {"$bad": 1}}, {"max_new_tokens": 0}, {"question": ""}, {"question": "word " * 700}],
)  # fmt: skip
def test_bad_questions(store, wrong):
    store.add_documents(DOCUMENTS)
    arguments = {"question": QUESTION} | wrong
    with pytest.raises(InvalidInputError):
        store.ask(**arguments)
    with pytest.raises(InvalidInputError):
        list(store.stream(**arguments))
    assert len(store) == 3


def test_what_does_not_fit_is_left_out_and_said(tmp_path):
    with CMTMemoryStore(tmp_path / "s", tiny_model("llama", "chat", ratio=1), passage_tokens=200) as store:
        store.add_documents([LONG[i : i + 400] for i in range(0, 2000, 400)])
        answer = store.ask(QUESTION, k=5, max_new_tokens=8)
        assert answer.usage.left_out == 5 - len(answer.hits) > 0
        assert answer.grounded


def test_a_second_writer_is_refused(store, model):
    with pytest.raises(StoreLockedError, match="read_only"):
        CMTMemoryStore(store.path, model)


def test_another_model_is_refused_with_both_fingerprints(store, model, tmp_path):
    store.add_documents(DOCUMENTS)
    store.close()
    other = CMTModel.from_llm(tiny_lm("llama-mqa"), tokenizer=tokenizer("chat"))
    with pytest.raises(FingerprintMismatchError, match="store recompress") as caught:
        CMTMemoryStore(store.path, other)
    assert other.fingerprint["lm"][:24] in str(caught.value)
    assert model.fingerprint["lm"][:24] in str(caught.value)
    with pytest.raises(FingerprintMismatchError, match="ratio=4, and ratio=8"):
        CMTMemoryStore(store.path, tiny_model("llama", "chat", ratio=8))
    with CMTMemoryStore(store.path, tiny_model("llama", "chat", ratio=4)) as again:
        assert len(again) == 3
        with pytest.raises(InvalidInputError, match="memories already"):
            again.model.fit([LONG])


def test_no_room_on_the_disk_changes_nothing(store):
    class FullDisk(Ingestion):
        def free_bytes(self):
            return 100

    store._ingestion = FullDisk(
        store.bank, store.model, store.encoder, passage_tokens=64, passage_overlap=8, slot_dtype="int8"
    )
    with pytest.raises(StoreFullError, match="free some space"):
        store.add_documents(DOCUMENTS)
    assert len(store) == 0


def test_every_decoding_setting_reaches_the_lm(store):
    """`ask` and `stream` give what the generator gives for the same hits and settings."""
    store.add_documents(DOCUMENTS, metadatas=[{"n": i} for i in range(3)])
    plain = store.ask(QUESTION, k=2, max_new_tokens=24).text
    hits = store.search(QUESTION, k=2)
    for settings in (
        {"max_new_tokens": 5},
        {"temperature": 1.5, "seed": 3},
        {"temperature": 1.5, "seed": 4, "top_p": 0.3},
        {"stop": [plain[4:6]]},
        {"alpha": 0.8},
    ):
        expected = store.generator.generate(QUESTION, hits, **{"max_new_tokens": 24} | settings).text
        assert store.ask(QUESTION, k=2, **{"max_new_tokens": 24} | settings).text == expected != plain
        assert "".join(store.stream(QUESTION, k=2, **{"max_new_tokens": 24} | settings)) == expected
    assert [hit.metadata for hit in store.ask(QUESTION, filter={"n": 2}, max_new_tokens=2).hits] == [{"n": 2}]
    top = store.search(QUESTION, k=1)[0].score
    assert len(store.ask(QUESTION, min_score=top, max_new_tokens=2).hits) == 1


def test_a_model_by_name(tmp_path):
    save_tiny(tmp_path / "lm", "llama", "chat")
    with CMTMemoryStore(tmp_path / "a", str(tmp_path / "lm")) as store:
        assert store.model.is_exact
        store.add_documents(DOCUMENTS)
    CMTModel.from_llm(str(tmp_path / "lm"), ratio=2).save_pretrained(tmp_path / "cmt")
    with CMTMemoryStore(tmp_path / "b", str(tmp_path / "cmt")) as store:
        assert store.model.config.ratio == 2
    with pytest.raises(InvalidInputError, match="int"):
        CMTMemoryStore(tmp_path / "c", 3)


def test_hits_and_ids_feed_the_generator(store):
    store.add_documents(DOCUMENTS)
    hits = store.search(QUESTION, k=2)
    by_hits = store.generator.generate(QUESTION, hits, max_new_tokens=6)
    by_ids = store.generator.chat(QUESTION, [hit.passage for hit in hits], max_new_tokens=6)
    assert by_hits.text == by_ids.text == store.ask(QUESTION, k=2, max_new_tokens=6).text
    assert store.generator.prefixes.misses == 1


def test_no_text_kept_means_no_text_mode(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model, keep_text=False) as store:
        store.add_documents(DOCUMENTS)
        assert store.ask("shop", max_new_tokens=4).grounded
        with pytest.raises(InvalidInputError, match="keep_text"):
            store.ask("shop", mode="text")
    everything = b"".join(path.read_bytes() for path in (tmp_path / "s").rglob("*") if path.is_file())
    assert b"Mara Velt" not in everything


def test_stored_slots_are_as_precise_as_asked(model, tmp_path):
    [expected] = model.compress(DOCUMENTS[:1])
    errors = {}
    for dtype in ("int8", "float16", "native"):
        with CMTMemoryStore(tmp_path / dtype, model, slot_dtype=dtype) as store:
            store.add_documents(DOCUMENTS[:1])
            [memory] = store.bank.payloads([store.search("locker", k=1)[0].passage])
        assert torch.equal(memory.positions, expected.positions)
        assert memory.n_tokens == expected.n_tokens
        errors[dtype] = float((memory.slots.float() - expected.slots).abs().max())
    assert errors["native"] == 0
    assert errors["float16"] < errors["int8"] < float(expected.slots.abs().max()) / 100


def test_a_passage_id_is_a_passage_before_it_is_a_document(store):
    store.add_documents([Document("The code of a is 1.", id="a"), Document("Another text.", id="a#0")])
    assert store.ask("code?", memory_ids=["a#0"], max_new_tokens=2).hits[0].id == "a"
    assert store.ask("code?", memory_ids=["a#0#0"], max_new_tokens=2).hits[0].id == "a#0"
    assert len(store.ask("code?", memory_ids=["a", "a#0", "a"], max_new_tokens=2).hits) == 1


def test_a_hit_deleted_before_it_is_read_is_dropped(store):
    """Between search and reading, another thread deletes what was found."""
    ids = store.add_documents(DOCUMENTS)
    search = store.selector.select

    class Deleting:
        def select(self, *args, **kwargs):
            hits = search(*args, **kwargs)
            if len(store) == 3:
                store.delete(hits[0].id)
            return hits

    store.selector = Deleting()
    answer = store.ask(QUESTION, k=3, max_new_tokens=2)
    assert len(answer.hits) == len(store) == 2
    assert set(ids) > {hit.id for hit in answer.hits}


def test_an_empty_store_takes_the_settings_of_the_next_opening(model, tmp_path):
    with pytest.raises(InvalidInputError, match="bm25"):
        CMTMemoryStore(tmp_path / "s", model, encoder=None, keep_text=False)
    with CMTMemoryStore(tmp_path / "s", tiny_model("llama", "chat", ratio=8), encoder=None) as store:
        assert store.model.config.ratio == 8
        store.add_documents(DOCUMENTS)
        assert store.get(store.bank.ids())[0].text == DOCUMENTS[0]


@pytest.mark.parametrize("path", ["", None, 3])
def test_a_store_needs_a_folder(model, path):
    with pytest.raises(InvalidInputError, match="folder"):
        CMTMemoryStore(path, model)


def test_stats_are_json(store):
    store.add_documents(DOCUMENTS)
    stats = json.loads(json.dumps(store.stats()))
    assert stats["documents"] == 3
    assert stats["disk_bytes"]["total"] > stats["payload_bytes"] > 0
    assert stats["ratio"] == 4


def test_deleting_what_may_be_gone(store):
    before = store.changes()
    store.delete(["nobody"], missing_ok=True)
    assert store.changes() == before
    [id] = store.add_documents(["A text."])
    store.delete([id, "nobody", id], missing_ok=True)
    assert store.get(id) == []
    store.delete(id, missing_ok=True)
    with pytest.raises(InvalidInputError, match="unknown ids"):
        store.delete(id)
