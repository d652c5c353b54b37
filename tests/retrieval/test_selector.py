from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_memory.bank.bank import MemoryBank
from cmt_memory.bank.records import StoredDocument, StoredPassage
from cmt_memory.errors import InvalidInputError
from cmt_memory.retrieval.encoders import Encoder, resolve_encoder
from cmt_memory.retrieval.fusion import reciprocal_rank_fusion
from cmt_memory.retrieval.lexical import QuestionWords, Words, bm25, idf_share
from cmt_memory.retrieval.selector import HybridSelector

TEXTS = {
    "ada": "Ada Lovelace was born in 1815 in London.",
    "port": "The harbour of Port Alder was rebuilt in 1932.",
    "pizza": "My favourite pizza is margherita with basil.",
    "gate": "The code for gate QX-7731 is 4410.",
    "cafe": "Le café du coin ouvre à sept heures.",
}


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    found = resolve_encoder("auto")
    assert found is not None
    return found


def put(bank: MemoryBank, texts: dict[str, str], encoder: Encoder | None) -> None:
    vectors: Any = encoder.encode_documents(list(texts.values())) if encoder else [None] * len(texts)
    bank.put(
        [
            StoredDocument(id, text, {"n": n}, [StoredPassage(0, len(text), 9, None, vectors[n])])
            for n, (id, text) in enumerate(texts.items())
        ]
    )


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory, encoder: Encoder) -> Iterator[MemoryBank]:
    bank = MemoryBank(tmp_path_factory.mktemp("bank"))
    put(bank, TEXTS, encoder)
    yield bank
    bank.close()


@pytest.mark.parametrize("channels", [("dense", "bm25"), ("dense",), ("bm25",)])
@pytest.mark.parametrize(
    ("question", "best"),
    [
        ("What is the code for gate QX-7731?", "gate"),
        ("Which harbour was rebuilt in 1932?", "port"),
        ("Where was Lovelace born?", "ada"),
        ("ou est le CAFE du coin", "cafe"),
    ],
)
def test_the_right_passage_is_first(
    bank: MemoryBank, encoder: Encoder, channels: tuple[str, ...], question: str, best: str
):
    hit = HybridSelector(bank, encoder, channels).select(question, 2)[0]
    assert (hit.id, hit.passage, hit.text) == (best, f"{best}#0", TEXTS[best])
    assert hit.span == (0, len(hit.text))
    assert hit.metadata == {"n": list(TEXTS).index(best)}
    assert set(hit.scores) == set(channels)
    assert 0 <= hit.score <= 1


def test_meaning_without_a_common_word(bank: MemoryBank, encoder: Encoder):
    question = "Which dish do I like most?"
    assert HybridSelector(bank, encoder).select(question, 1)[0].id == "pizza"


def test_scores(bank: MemoryBank, encoder: Encoder):
    question = "When was the port rebuilt?"
    vector = encoder.encode_query(question)
    for hit in HybridSelector(bank, encoder).select(question, 5):
        cosine = float(encoder.encode_documents([hit.text])[0] @ vector)
        assert hit.scores["dense"] == pytest.approx(cosine, abs=1e-5)
        assert hit.score == pytest.approx((1 + cosine) / 2, abs=1e-5)


def test_the_words_share_of_the_question(bank: MemoryBank):
    selector = HybridSelector(bank, None)
    assert selector.channels == ("bm25",)
    (hit,) = selector.select("gate 4410", 4)
    assert (hit.id, hit.score) == ("gate", 1.0)
    (hit,) = selector.select("gate zorblax", 4)
    assert 0.3 < hit.score < 0.6
    assert selector.select("zorblax", 4) == []
    assert [h.id for h in selector.select("gate zorblax", 4, min_score=0.7)] == []


def test_a_hit_found_by_words_alone_has_its_cosine(tmp_path: Path, encoder: Encoder):
    bank = MemoryBank(tmp_path)
    put(
        bank,
        {f"d{n}": f"A tale about ships and the sea, part {n}." for n in range(60)} | {"odd": "Zorblax ate a pie."},
        encoder,
    )
    hits = HybridSelector(bank, encoder).select("tales of ships and sea and zorblax", 40)
    odd = next(hit for hit in hits if hit.id == "odd")
    assert odd.scores["bm25"] > 0
    assert odd.scores["dense"] == pytest.approx(2 * odd.score - 1)
    bank.close()


def test_min_score_acts_on_the_score(bank: MemoryBank, encoder: Encoder):
    selector = HybridSelector(bank, encoder)
    every = selector.select("Where is the gate?", 5)
    middle = sorted(hit.score for hit in every)[2]
    assert {hit.id for hit in selector.select("Where is the gate?", 5, min_score=middle)} == {
        hit.id for hit in every if hit.score >= middle
    }
    assert selector.select("Where is the gate?", 5, min_score=1.1) == []


@pytest.mark.parametrize("with_encoder", [True, False])
def test_filters_in_every_channel(bank: MemoryBank, encoder: Encoder, with_encoder: bool):
    selector = HybridSelector(bank, encoder if with_encoder else None)
    hits = selector.select("The code for the gate was rebuilt in London", 5, {"n": {"$in": [0, 1]}})
    assert {hit.id for hit in hits} == {"ada", "port"}
    with pytest.raises(InvalidInputError, match="unknown operator"):
        selector.select("gate", 5, {"n": {"$like": 1}})


@pytest.mark.parametrize("k", [0, -1, True, 1.5, "3", None])
def test_k_out_of_range(bank: MemoryBank, k: Any):
    with pytest.raises(InvalidInputError, match="k is"):
        HybridSelector(bank, None).select("gate", k)


@pytest.mark.parametrize("question", ["", "  ", 3, None, "a\ud800"])
def test_no_question(bank: MemoryBank, question: Any):
    with pytest.raises(InvalidInputError, match="the question"):
        HybridSelector(bank, None).select(question)


@pytest.mark.parametrize("min_score", ["0.5", float("nan"), True])
def test_no_number_as_min_score(bank: MemoryBank, min_score: Any):
    with pytest.raises(InvalidInputError, match="min_score"):
        HybridSelector(bank, None).select("gate", min_score=min_score)


@pytest.mark.parametrize("channels", ["dense", (), ("dense", "magic"), ("sparse",)])
def test_unknown_channels(bank: MemoryBank, encoder: Encoder, channels: Any):
    with pytest.raises(InvalidInputError, match="channels is"):
        HybridSelector(bank, encoder, channels)


def test_channels_that_cannot_be_served(bank: MemoryBank, tmp_path: Path, encoder: Encoder):
    with pytest.raises(InvalidInputError, match="needs an encoder"):
        HybridSelector(bank, None, ("dense",))
    silent = MemoryBank(tmp_path, keep_text=False)
    put(silent, TEXTS, encoder)
    hits = HybridSelector(silent, encoder).select("Where is the gate?", 2)
    assert (hits[0].id, hits[0].text, set(hits[0].scores)) == ("gate", "", {"dense"})
    with pytest.raises(InvalidInputError, match="keep_text"):
        HybridSelector(silent, encoder, ("bm25",))
    silent.close()


def test_more_than_there_are_and_nothing_at_all(bank: MemoryBank, encoder: Encoder, tmp_path: Path):
    assert len(HybridSelector(bank, encoder).select("gate", 1000)) == len(TEXTS)
    empty = MemoryBank(tmp_path)
    assert HybridSelector(empty, encoder).select("gate") == []
    assert HybridSelector(empty, None).select("gate") == []
    empty.close()


@settings(max_examples=60, deadline=None)
@given(question=st.text(min_size=1, max_size=60).filter(str.strip))
def test_no_question_breaks_the_query_language(bank: MemoryBank, question: str):
    HybridSelector(bank, None).select(question)


def test_a_very_long_question(bank: MemoryBank):
    question = " ".join(f"w{n}" for n in range(20_000)) + " margherita"
    assert HybridSelector(bank, None).select(question)[0].id == "pizza"


def test_words_are_those_of_the_index():
    words = Words()
    assert words.of("Der Größte CAFÉ-Gast, don't 3.14 \0 👩 x_y") == sorted(
        ["der", "großte", "cafe", "gast", "don", "t", "3", "14", "x", "y"]
    )
    assert words.of("!?") == []
    assert words.of("again") == ["again"]


def test_common_words_are_dropped_in_large_banks_only(tmp_path: Path):
    bank = MemoryBank(tmp_path)
    bank.put(
        [
            StoredDocument(f"d{n}", f"the common thing {n}", {}, [StoredPassage(0, len(f"the common thing {n}"), 4)])
            for n in range(9_999)
        ]
    )
    counter = QuestionWords(bank)
    weights, words, also = counter.weigh(["common", "77", "zorblax"])
    assert (words, also) == (["77", "common"], [])
    assert weights["zorblax"] > weights["77"] > weights["common"] > 0
    put(bank, {"more": "the common end", "last": "the common rare"}, None)
    assert counter.weigh(["common", "77", "rare"])[1] == ["77", "rare"]
    _, words, also = counter.weigh(["common", "the"])
    assert [*words, *also] == ["common", "the"]
    bank.close()


def test_a_word_that_was_asked_for_in_vain_is_found_once_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also in a large bank, where words are not counted anew after every change."""
    monkeypatch.setattr("cmt_memory.retrieval.lexical._ALL_WORDS_UP_TO", 100)
    bank = MemoryBank(tmp_path)
    put(bank, {f"d{n}": f"common words {n}" for n in range(200)}, None)
    selector = HybridSelector(bank, None)
    assert selector.select("zorblax 7", k=1)[0].id == "d7"
    put(bank, {"new": "the zorblax is here"}, None)
    assert {hit.id for hit in selector.select("zorblax 7", k=2)} == {"d7", "new"}
    assert [hit.id for hit in selector.select("zorblax", k=2)] == ["new"]
    bank.close()


def test_words_of_very_many_passages_only_weigh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where the rarest words suffice to find passages, all words decide among those, by nearly the same BM25."""
    monkeypatch.setattr("cmt_memory.retrieval.lexical._ALL_WORDS_UP_TO", 100)
    monkeypatch.setattr("cmt_memory.retrieval.lexical._COMMON", 0.5)
    rng = random.Random(0)
    words = [f"w{n}" for n in range(40)]
    texts = {f"d{n}": " ".join(rng.choices(words, range(40, 0, -1), k=rng.randint(3, 12))) for n in range(400)}
    bank = MemoryBank(tmp_path)
    put(bank, texts, None)
    selector = HybridSelector(bank, None)
    same, without = 0, 0
    for _ in range(40):
        question = " ".join(rng.sample(words, 6))
        monkeypatch.setattr("cmt_memory.retrieval.lexical._MOST_WALKED", 10_000)
        exact = [hit.id for hit in selector.select(question, k=5)]
        monkeypatch.setattr("cmt_memory.retrieval.lexical._MOST_WALKED", 120)
        _, some, also = QuestionWords(bank).weigh(Words().of(question))
        assert some
        assert also
        same += len({hit.id for hit in selector.select(question, k=5)} & set(exact))
        without += len({hit.id for hit in selector.select(" ".join(some), k=5)} & set(exact))
    bank.close()
    assert same / 200 > 0.8
    assert without / 200 < 0.6


def test_frequent_words_of_a_large_bank_are_counted_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cmt_memory.retrieval.lexical._ALL_WORDS_UP_TO", 100)
    bank = MemoryBank(tmp_path)
    put(bank, {f"d{n}": "every" + " third" * (n % 3 == 0) for n in range(300)}, None)
    counter = QuestionWords(bank)
    counter.warm_up()
    for thread in threading.enumerate():
        if thread.name == "cmt-memory-words":
            thread.join()
    counted: list[list[str]] = []
    count = bank.word_counts
    monkeypatch.setattr(bank, "word_counts", lambda words, most: counted.append(words) or count(words, most))
    weights, *_ = counter.weigh(["every", "third", "none"])
    assert counted == [["none"]]
    assert weights["third"] == pytest.approx(math.log1p(200.5 / 100.5))
    bank.close()


def test_a_filter_that_few_pass_is_searched_for_all_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cmt_memory.retrieval.lexical._ALL_WORDS_UP_TO", 100)
    monkeypatch.setattr("cmt_memory.retrieval.lexical._COMMON", 0.9)
    monkeypatch.setattr("cmt_memory.retrieval.lexical._MOST_WALKED", 90)
    bank = MemoryBank(tmp_path)
    put(bank, {f"d{n}": "blue things" if n < 80 else "locker keys" for n in range(200)}, None)
    selector = HybridSelector(bank, None)
    assert QuestionWords(bank).weigh(["blue", "locker"])[1:] == (["blue"], ["locker"])
    assert [hit.id for hit in selector.select("blue locker", k=3, filter={"n": 150})] == ["d150"]
    bank.close()


def test_bm25_orders_texts_as_the_lexicon_does(tmp_path: Path):
    rng = random.Random(1)
    words = [f"w{n}" for n in range(30)]
    texts = {f"d{n}": " ".join(rng.choices(words, range(30, 0, -1), k=rng.randint(5, 40))) for n in range(300)}
    bank = MemoryBank(tmp_path)
    put(bank, texts, None)
    question = words[20:26]
    held = bank.word_counts(question)
    weights = {word: math.log((300 - held[word] + 0.5) / (held[word] + 0.5)) for word in question}
    found = dict(bank.search_words(question, 300))
    rows = bank.passages(list(found))
    counts = Words().counts([rows[key].text for key in found], question)
    assert counts == [{w: n for w in question if (n := rows[key].text.split().count(w))} for key in found]
    ours = bm25(weights, counts, [len(rows[key].text.split()) for key in found])
    assert np.corrcoef(ours, list(found.values()))[0, 1] > 0.999
    bank.close()
    assert bm25({}, [], []) == []


def test_idf_share():
    assert idf_share({"a": 3.0, "b": 1.0}, {"a", "x"}) == 0.75
    assert idf_share({}, {"a"}) == 0.0


def test_fusion_orders_by_rank_alone():
    assert reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[], [3, 1]]) == [3, 1]
    assert reciprocal_rank_fusion([[1, 2, 3], [3, 2, 1]])[0] in (1, 3)
    assert reciprocal_rank_fusion([["x", "both"], ["y", "both"]])[0] == "both"


def test_the_numbers_are_plain(bank: MemoryBank, encoder: Encoder):
    hit = HybridSelector(bank, encoder).select("gate")[0]
    assert all(type(value) is float for value in [hit.score, *hit.scores.values()])
    assert not isinstance(hit.score, np.floating)


def test_a_given_vector_takes_the_place_of_the_questions(bank: MemoryBank, encoder: Encoder):
    selector = HybridSelector(bank, encoder)
    harbour = encoder.encode_query("Which harbour was rebuilt?")
    alone = selector.select(None, 5, vector=harbour)
    assert alone == HybridSelector(bank, encoder, ("dense",)).select("Which harbour was rebuilt?", 5)
    longer = selector.select(None, 5, vector=list(3 * harbour))
    assert [(hit.id, pytest.approx(hit.score)) for hit in longer] == [(hit.id, hit.score) for hit in alone]
    both = selector.select("pizza with basil", 5, vector=harbour)
    assert {hit.id for hit in both[:2]} == {"port", "pizza"}
    assert both[0].scores["dense"] == pytest.approx(next(h for h in alone if h.id == both[0].id).scores["dense"])


@pytest.mark.parametrize("vector", [[1.0, 2.0], "text", [float("nan")] * 384, [0.0] * 384, [[1.0] * 384]])
def test_a_vector_that_does_not_fit(bank: MemoryBank, encoder: Encoder, vector: Any):
    with pytest.raises(InvalidInputError, match="vector"):
        HybridSelector(bank, encoder).select("gate", vector=vector)


def test_channels_of_one_question(bank: MemoryBank, encoder: Encoder):
    selector, question = HybridSelector(bank, encoder), "The pizza and gate QX-7731"
    for channels in (["dense"], ["bm25"]):
        own = selector.select(question, 5, channels=channels)
        assert [hit.id for hit in own] == [
            hit.id for hit in HybridSelector(bank, encoder, channels).select(question, 5)
        ]
        assert all(set(hit.scores) == set(channels) for hit in own)
    assert selector.select(question, 5, channels={"dense": 1, "bm25": 1}) == selector.select(question, 5)
    by_words = [hit.id for hit in selector.select(question, 5, channels={"dense": 0.001, "bm25": 1})]
    assert by_words[:2] == [hit.id for hit in selector.select(question, 2, channels=["bm25"])]


@pytest.mark.parametrize("channels", ["dense", [], ["memory"], {"dense": 0}, {"dense": -1}, {"dense": "1"}])
def test_channels_that_are_not_there(bank: MemoryBank, encoder: Encoder, channels: Any):
    with pytest.raises(InvalidInputError, match="channels is"):
        HybridSelector(bank, encoder).select("gate", channels=channels)


def test_a_vector_needs_the_dense_channel(bank: MemoryBank, encoder: Encoder):
    with pytest.raises(InvalidInputError, match="dense"):
        HybridSelector(bank, encoder).select("gate", vector=encoder.encode_query("gate"), channels=["bm25"])
