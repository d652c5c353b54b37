"""Each arm on tiny models: what stands before the question is what the arm says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cmt_memory import CMTMemoryStore, Document
from cmt_memory.bank.codec import decode_memory, encode_memory
from cmt_memory.evaluation.arms import Arms, Case, Decoding, Kept, Reply
from cmt_memory.evaluation.experiments import shuffled
from cmt_memory.evaluation.extract import Nearest, closest_that_fit, sentences
from cmt_memory.generation.generator import CMTGenerator
from tests.evaluation.helpers import TOWNS, town
from tests.tiny import tiny_model

DECODING = Decoding(max_new_tokens=6)


@pytest.fixture(scope="module")
def model():
    return tiny_model("llama", ratio=4, latent=48)


@pytest.fixture(scope="module")
def store(model, tmp_path_factory):
    with CMTMemoryStore(tmp_path_factory.mktemp("store"), model.exact(), encoder=None, lazy=True) as store:
        store.add_documents([Document(town(name), id=name) for name in TOWNS])
        yield store


@pytest.fixture(scope="module")
def cases(store):
    found = {name: tuple(store.search(f"Who is the mayor of {name}?", 2)) for name in TOWNS[:3]}
    return [
        Case(f"Who is the mayor of {name}?", hits, (hits[0],), tuple(store.search(f"river {TOWNS[-1]}", 1)))
        for name, hits in found.items()
    ]


@pytest.fixture
def arms(model, store):
    return Arms(model, Nearest(store), "int8", DECODING)


@pytest.fixture
def seen(arms):
    """What the LM is given at each first step: ids and how many cache positions stand before them, a row each."""
    calls = []

    def hook(module, args, kwargs):
        past, ids = kwargs.get("past_key_values"), kwargs["input_ids"]
        before = past.get_seq_length() if past is not None else 0
        mask = kwargs.get("attention_mask")  # a single row without padding may have none
        if ids.shape[1] > 1 and mask is not None:
            rows = zip(ids, mask, strict=True)
            calls.append([(row[m[before:].bool()].tolist(), int(m[:before].sum())) for row, m in rows])

    handle = arms.lm.model.register_forward_pre_hook(hook, with_kwargs=True)
    yield calls
    handle.remove()


def document_ids(lm, texts):
    return [i for text in texts for i in lm.encode_document(text)]


def test_none_is_the_head_and_the_question(arms, cases, seen):
    replies = arms.answer("none", cases)
    head = len(arms.lm.prompt.head_ids)
    assert seen == [[(list(arms.prompt(case).question_ids), head) for case in cases]]
    assert all((r.positions, r.nbytes, r.used) == (0, 0, 0) for r in replies)


def test_text_is_the_whole_text_of_the_hits(arms, cases, seen):
    replies = arms.answer("text", cases)
    for case, reply, (ids, before) in zip(cases, replies, seen[0], strict=True):
        texts = [hit.text for hit in case.hits]
        prompt = arms.prompt(case)
        assert before == 0
        assert ids == [*prompt.head_ids, *document_ids(arms.lm, texts), *prompt.question_ids]
        assert reply.positions == len(document_ids(arms.lm, texts))
        assert reply.nbytes == sum(len(text.encode()) for text in texts)
    alone = CMTGenerator(arms.model).generate(
        cases[0].question, texts=[h.text for h in cases[0].hits], max_new_tokens=6
    )
    assert replies[0].text == alone.text.strip()


def test_memory_is_what_the_store_would_keep(arms, cases, seen, model):
    replies = arms.answer("memory", cases)
    head = len(arms.lm.prompt.head_ids)
    for case, reply, (ids, before) in zip(cases, replies, seen[0], strict=True):
        slots = sum(-(-len(arms.lm.encode_document(hit.text)) // 4) for hit in case.hits)
        assert (ids, before - head) == (list(arms.prompt(case).question_ids), slots)
        assert reply.positions == slots
        payloads = [
            encode_memory(m.slots, m.positions, m.n_tokens, "int8")
            for m in model.compress([hit.text for hit in case.hits])
        ]
        assert reply.nbytes == sum(map(len, payloads))
        alone = CMTGenerator(model).generate(case.question, [decode_memory(p) for p in payloads], max_new_tokens=6)
        assert reply.text == alone.text.strip()


def test_oracle_and_shuffled_read_other_passages(arms, cases):
    """The answer of each is that of the same passages as hits, and not that of the hits."""
    for arm, attribute in (("oracle_memory", "gold"), ("shuffled", "others"), ("oracle_text", "gold")):
        as_hits = [Case(c.question, getattr(c, attribute), (), ()) for c in cases]
        way = "text" if arm == "oracle_text" else "memory"
        expected = [reply.text for reply in arms.answer(way, as_hits)]
        assert [reply.text for reply in arms.answer(arm, cases)] == expected
        assert expected != [reply.text for reply in arms.answer(way, cases)]


@pytest.mark.parametrize("family", ["llama", "gpt2", "bloom", "mistral"])
def test_memory_at_one_is_the_text_for_one_document(family, store, cases):
    """Uncompressed and alone, nothing is lost; the exact model's memories keep the LM's own dtype."""
    exact = tiny_model(family, ratio=4, latent=48).exact()
    arms = Arms(exact, Nearest(store), "int8", DECODING)
    single = [Case(c.question, c.hits[:1], (), ()) for c in cases]
    assert [r.text for r in arms.answer("memory@1", single)] == [r.text for r in arms.answer("text", single)]
    assert Kept(exact, "int8").slot_dtype == "native"
    assert [r.text for r in arms.answer("none", single)] != [r.text for r in arms.answer("text", single)]


@pytest.mark.parametrize("ratio", [2, 4, 16, 256])
def test_truncated_has_as_many_positions_as_the_memory(ratio, model, store, cases):
    small = model.with_state(model.config.model_copy(update={"ratio": ratio}), model.state())
    arms = Arms(small, Nearest(store), "int8", DECODING)
    memory = arms.answer("memory", cases)
    replies = arms.answer("truncated", cases, memory)
    blank = arms.lm.encode_words("\n\n")
    for case, reply, kept in zip(cases, replies, memory, strict=True):
        assert reply.positions == kept.positions
        assert reply.whole is False
        ids, _ = arms.truncated(case, kept)
        whole = document_ids(arms.lm, [hit.text for hit in case.hits])
        if kept.positions > len(blank):
            assert ids == whole[: kept.positions - len(blank)] + blank
        assert len(ids) == kept.positions < len(whole)


def test_truncated_reads_what_it_says(arms, cases, seen):
    memory = arms.answer("memory", cases)
    arms.answer("truncated", cases, memory)
    for case, kept, (ids, before) in zip(cases, memory, seen[-1], strict=True):
        prompt = arms.prompt(case)
        assert before == 0
        assert ids == [*prompt.head_ids, *arms.truncated(case, kept)[0], *prompt.question_ids]


def test_a_budget_for_everything_is_the_text(arms, cases):
    rich = [Reply("", 10**6, 10**6, 2, 0)] * len(cases)
    text = [reply.text for reply in arms.answer("text", cases)]
    for arm in ("truncated", "extract", "extract_bytes"):
        replies = arms.answer(arm, cases, rich)
        assert [reply.text for reply in replies] == text
        assert all(reply.whole for reply in replies)


def test_extract_takes_the_closest_sentences_within_its_positions(arms, cases):
    case = cases[0]
    candidates = [s for hit in case.hits for s in sentences(hit.text)]
    mayor = next(s for s in candidates if f"mayor of {TOWNS[0]}" in s)
    length = len(arms.lm.encode_document(mayor))
    whole = len(document_ids(arms.lm, [hit.text for hit in case.hits]))
    assert length < whole
    for positions in {1, 2, 3, length - 1, length, length + 9, whole - 1}:
        ids, everything = arms.extract(case, Reply("", positions, 0, 2, 0))
        assert 0 < len(ids) <= positions
        assert not everything
        said = arms.lm.tokenizer.decode(ids)
        assert (mayor in said) == (positions >= length)
    assert arms.extract(case, Reply("", whole, 0, 2, 0)) == (
        document_ids(arms.lm, [hit.text for hit in case.hits]),
        True,
    )


def test_extract_takes_the_closest_sentences_within_its_bytes(arms, cases):
    case = cases[1]
    candidates = [s for hit in case.hits for s in sentences(hit.text)]
    mayor = next(s for s in candidates if f"mayor of {TOWNS[1]}" in s)
    whole = sum(len(hit.text.encode()) for hit in case.hits)
    for budget in {1, 2, 9, len(mayor) - 1, len(mayor), len(mayor) + 20, whole - 1}:
        ids, everything = arms.extract_bytes(case, Reply("", 10**6, budget, 2, 0))
        said = arms.lm.tokenizer.decode(ids).strip()
        assert 0 < len(said.encode()) <= budget
        assert not everything
        assert (mayor in said) == (budget >= len(mayor.encode()))
    assert arms.extract_bytes(case, Reply("", 0, whole, 2, 0))[1]


def test_bytes_of_letters_are_not_cut_in_two(arms, cases):
    hit = cases[0].hits[0]
    accents = type(hit)(hit.id, hit.passage, hit.span, 1.0, {}, "ééééééééééééé mayor", {})
    ids, _ = arms.extract_bytes(Case("mayor?", (accents,), (), ()), Reply("", 9, 7, 1, 0))
    assert arms.lm.tokenizer.decode(ids).strip() == "ééé"


def test_a_long_text_is_cut_to_the_room_of_the_lm(arms, cases):
    """Memories on disk may be larger than the text: what they buy in text need not fit into the LM."""
    hit = cases[0].hits[0]
    long = type(hit)(hit.id, hit.passage, hit.span, 1.0, {}, "mayor of Ulm " * 300, {})
    case = Case("Who?", (long,), (), ())
    [reply] = arms.answer("extract_bytes", [case], [Reply("", 9, 10**6, 1, 0)])
    prompt = arms.prompt(case)
    assert reply.positions == 512 - 6 - len(prompt.head_ids) - len(prompt.question_ids)
    assert reply.whole is False


def test_nothing_retrieved_is_closed_book(arms, cases):
    empty = [Case(c.question, (), (), ()) for c in cases]
    none = [reply.text for reply in arms.answer("none", empty)]
    memory = arms.answer("memory", empty)
    for replies in (memory, *(arms.answer(arm, empty, memory) for arm in ("text", "truncated", "extract"))):
        assert [reply.text for reply in replies] == none


def test_what_says_nothing_is_not_measured(store, model, arms):
    assert all(arms.unavailable(arm) is None for arm in ("memory", "truncated", "extract", "memory@1"))
    exact = Arms(model.exact(), Nearest(store))
    assert "memory@1" in exact.unavailable("memory@1")
    assert "ratio 1" in exact.unavailable("truncated")
    with pytest.raises(ValueError, match="budget"):
        arms.answer("extract", [])


def test_the_words_around_a_question(model, store, cases):
    plain = Arms(model, Nearest(store), decoding=Decoding(6, template=False)).prompt(cases[0])
    assert model.lm.tokenizer.decode(plain.question_ids) == cases[0].question
    assert plain.stop == ()
    asked = Arms(model, Nearest(store), decoding=Decoding(6, question_format="Say: {question}")).prompt(cases[0])
    assert f"Say: {cases[0].question}" in model.lm.tokenizer.decode(asked.question_ids)


def test_kept_memories_are_made_once_while_there_is_room(model):
    texts = [town(name) for name in TOWNS]
    passes = []
    hook = model.lm.decoder.register_forward_pre_hook(lambda *_: passes.append(1))
    kept = Kept(model, "int8")
    first = kept.get(texts[:2])
    assert passes
    passes.clear()
    again = kept.get([texts[1], texts[0], texts[1]])
    assert not passes
    assert torch.equal(first[texts[0]][0].slots, again[texts[0]][0].slots)
    small = Kept(model, "int8", max_bytes=1)
    assert len(small.get(texts)) == len(texts)
    passes.clear()
    small.get(texts[:1])
    hook.remove()
    assert passes


def test_shuffled_never_gets_its_own_document():
    found = [[f"{name}#0", f"{TOWNS[(i + 1) % 6]}#1"] for i, name in enumerate(TOWNS)]
    gold = [[f"{TOWNS[(i + 2) % 6]}#0"] for i in range(6)]
    for seed in range(20):
        others = shuffled(found, gold, seed)
        for mine, right, other in zip(found, gold, others, strict=True):
            assert other in found
            own = {name.split("#")[0] for name in (*mine, *right)}
            assert not own & {name.split("#")[0] for name in other}
    assert shuffled(found, gold, 1) == shuffled(found, gold, 1)
    assert any(shuffled(found, gold, 0) != shuffled(found, gold, seed) for seed in range(1, 9))
    assert shuffled([["a#0"], ["a#1"], []], [["a#0"]] * 3, 0) == [(), (), ()]


def test_sentences():
    assert sentences('He said "No." Then he left!\n- first\n- second line') == [
        'He said "No."',
        "Then he left!",
        "- first",
        "- second line",
    ]
    assert sentences("It costs 3.50 at 9.30. 今日は。明日は。") == ["It costs 3.50 at 9.30.", "今日は。", "明日は。"]
    assert sentences(" \n ") == []


def test_closest_first_and_in_reading_order():
    words = ["one", "three", "five", "seven"]
    assert closest_that_fit(words, [3, 1, 0, 2], lambda text: len(text) <= 11) == "three seven"
    assert closest_that_fit(words, [1, 3, 0, 2], lambda text: len(text) <= 9) == "one three"  # "seven" is passed over
    assert closest_that_fit(words, [1, 0], lambda text: False) == ""


class TwoTopics:
    """An encoder that knows two topics."""

    id, dimension = "two-topics", 2

    def encode_documents(self, texts):
        return np.array([self.encode_query(text) for text in texts], dtype=np.float32)

    def encode_query(self, text):
        return np.array([1, 0] if "water" in text else [0, 1], dtype=np.float32)


def test_closeness_is_that_of_the_store(model, tmp_path):
    with CMTMemoryStore(tmp_path / "s", model.exact(), encoder=TwoTopics(), channels=("dense",), lazy=True) as store:
        store.add_documents(["The river carries water."])
        assert Nearest(store).order("water?", ["Tom reads.", "A lake of water.", "Tom sleeps."])[0] == 1
    with CMTMemoryStore(tmp_path / "t", model.exact(), encoder=None, lazy=True) as store:
        store.add_documents([town(name) for name in TOWNS])
        assert Nearest(store).order("Who is the mayor of Riga?", sentences(town("Riga")))[0] == 1
