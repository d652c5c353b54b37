"""Files in the layouts they are published in, episodes from them, and what their errors say."""

from __future__ import annotations

import gzip
import json
import lzma
import random

import pytest

from cmt_memory.errors import InvalidInputError
from cmt_memory.training import readers
from cmt_memory.training.bm25 import BM25
from cmt_memory.training.config import checked
from cmt_memory.training.sources import FactsSource, Mixture, open_source

SQUAD = {
    "version": "1.1",
    "data": [
        {
            "title": f"Article {a}",
            "paragraphs": [
                {
                    "context": f"Town {a}{p} lies on the river Orm{p}. Its mayor is Mayor{a}{p}.",
                    "qas": [
                        {
                            "id": f"{a}{p}",
                            "question": f" Who is mayor of Town {a}{p}?",
                            "answers": [{"text": f"Mayor{a}{p}", "answer_start": 40}, {"text": "x"}],
                        },
                        {
                            "id": f"{a}{p}r",
                            "question": "Which river?",
                            "answers": [{"text": f"Orm{p}", "answer_start": 20}],
                        },
                        {"id": f"{a}{p}u", "question": "Who knows?", "answers": [], "is_impossible": True},
                    ],
                }
                for p in range(3)
            ],
        }
        for a in range(4)
    ],
}
DOCUMENTS = [
    {"id": f"d{i}", "text": f"Paper {i}: the bridge of {city} opened in 19{i}0."}
    for i, city in enumerate(("Ulm", "Bern", "Lyon"))
]
STREAMING = [
    {
        "qa_id": f"eval-{i}",
        "question": f"When did the bridge of {city} open?",
        "answers": [f"19{d}0"],
        "answers_additional": ["the year"],
        "question_ts": 1577836800,
        "evidence_ts": 1577750400,
        "evidence_id": f"d{d}",
        "recent_or_past": "past",
        "written_or_generated": "generated",
        "toxicity_identity_attack": 0.1,
    }
    for i, (city, d) in enumerate([("Ulm", 0), ("Bern", 1), ("Ulm", 0), ("Lyon", 2)])
]
ARCHIVAL = """id,question,answer,org_answer,answer_start,para_id,trans_que,trans_ans,source
train_0,"When did the bridge, the old one,
open in Ulm?",1900,1900,30,d0,0,0,nyt
train_1,"Where is the ""new"" bridge?",Bern,Bern,24,d1,1,0,nyt
"""


def write_lines(path, values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    return path


@pytest.fixture
def documents(tmp_path):
    return write_lines(tmp_path / "documents.jsonl", DOCUMENTS)


@pytest.mark.parametrize("suffix", ["json", "json.gz", "json.xz"])
def test_squad(tmp_path, suffix):
    raw = json.dumps(SQUAD).encode()
    packed = {"json": raw, "json.gz": gzip.compress(raw), "json.xz": lzma.compress(raw)}[suffix]
    (tmp_path / f"s.{suffix}").write_bytes(packed)
    groups = readers.squad(tmp_path / f"s.{suffix}")
    assert len(groups) == 12
    assert groups[4].documents == ("Town 11 lies on the river Orm1. Its mayor is Mayor11.",)
    assert groups[4].questions == (("Who is mayor of Town 11?", "Mayor11"), ("Which river?", "Orm1"))
    train = readers.squad(tmp_path / f"s.{suffix}", (0, 0.75))
    rest = readers.squad(tmp_path / f"s.{suffix}", (0.75, 1))
    assert [len(train), len(rest)] == [9, 3]
    assert not {train[i].documents for i in range(9)} & {rest[i].documents for i in range(3)}


def test_jsonl(tmp_path):
    rows = [{"documents": [f"A{i}.", "B."], "question": f"Q{i}?", "answers": [f"a{i}", "x"]} for i in range(5)]
    path = write_lines(tmp_path / "q.jsonl", rows)
    path.write_text("\ufeff" + path.read_text().replace("\n", "\n\n", 1))  # as Windows' editors begin a file
    groups = readers.jsonl(path)
    assert [groups[i].questions for i in range(5)] == [((f"Q{i}?", f"a{i}"),) for i in range(5)]
    assert groups[3].documents == ("A3.", "B.")
    assert sorted(groups.corpus()) == ["A0.", "A1.", "A2.", "A3.", "A4.", "B."]
    (tmp_path / "q.jsonl.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert readers.jsonl(tmp_path / "q.jsonl.gz", (0.4, 1))[0] == groups[2]


def test_streamingqa(tmp_path, documents):
    groups = readers.streamingqa(write_lines(tmp_path / "s.jsonl", STREAMING), documents)
    assert len(groups) == 3
    assert groups[0].documents == (DOCUMENTS[0]["text"],)
    assert groups[0].questions == (("When did the bridge of Ulm open?", "1900"),) * 2
    assert groups[0].answers == (("1900", "the year"),) * 2
    assert groups[2].questions == (("When did the bridge of Lyon open?", "1920"),)
    keyed = write_lines(tmp_path / "k.jsonl", [{"evidence_id": d["id"], "text": d["text"]} for d in DOCUMENTS])
    assert readers.streamingqa(tmp_path / "s.jsonl", keyed)[2] == groups[2]


def test_archivalqa(tmp_path, documents):
    path = tmp_path / "a.csv"
    path.write_text(ARCHIVAL)
    groups = readers.archivalqa(path, documents)
    assert groups[0].questions == (("When did the bridge, the old one,\nopen in Ulm?", "1900"),)
    assert groups[1].questions == (('Where is the "new" bridge?', "Bern"),)
    assert groups[1].documents == (DOCUMENTS[1]["text"],)


def test_plain_text_is_cut_at_spaces_and_documents(tmp_path):
    words = [f"word{i}" for i in range(2000)]
    path = tmp_path / "t.txt.xz"
    path.write_bytes(lzma.compress((" ".join(words[:1500]) + "\n\f\n" + " ".join(words[1500:])).encode()))
    passages = readers.Passages(path, size=1000)
    texts = [passages[i] for i in range(len(passages))]
    assert " ".join(texts).split() == words
    assert all(len(text) <= 1501 for text in texts)
    assert sum(text.startswith("word1500") for text in texts) == 1
    assert (
        readers.Passages(path, (0.5, 1), size=1000)[0] == texts[[t.startswith("word1500") for t in texts].index(True)]
    )


def broken(tmp_path, documents):
    """Each broken file, how it is read, and what the error must name."""
    good = json.dumps({"documents": ["A."], "question": "Q?", "answers": ["a"]})

    def file(name, text):
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def lines(value):
        return json.dumps(STREAMING[0]) + "\n" + json.dumps(STREAMING[1] | value) + "\n"

    yield readers.squad, (file("1.json", '{"data": [\n}'),), r"1\.json, line 2"
    yield readers.squad, (file("2.json", '{"articles": []}'),), r"2\.json: not SQuAD's format.*data"
    faulty = json.loads(json.dumps(SQUAD))
    del faulty["data"][1]["paragraphs"][2]["qas"][0]["question"]
    yield readers.squad, (file("3.json", json.dumps(faulty)),), r"article 2 \(Article 1\), paragraph 3.*question"
    for name, place, value in (("n", "answers", [{"text": 1990}]), ("b", "question", " "), ("c", "context", None)):
        faulty = json.loads(json.dumps(SQUAD))
        paragraph = faulty["data"][0]["paragraphs"][0]
        (paragraph if place == "context" else paragraph["qas"][0])[place] = value
        said = rf"3{name}\.json, article 1 \(Article 0\), paragraph 1: '?{place}"
        yield readers.squad, (file(f"3{name}.json", json.dumps(faulty)),), said
    yield readers.squad, (file("4.json.gz", b"no gzip"),), r"4\.json\.gz cannot be decompressed"
    yield readers.squad, (tmp_path / "none.json",), r"none\.json cannot be read"
    yield readers.jsonl, (file("5.jsonl", good + "\n{nonsense\n"),), r"5\.jsonl, line 2: not valid JSON"
    yield readers.jsonl, (file("6.jsonl", good + "\n\n" + good.replace('["a"]', '"a"')),), r"line 3: 'answers'"
    yield readers.jsonl, (file("7.jsonl", good + "\n[1]\n"),), r"line 2: expected an object"
    yield readers.jsonl, (file("8.jsonl", (good + "\n").encode() + b'{"question": "\xff"}'),), r"line 2: not UTF-8"
    yield readers.jsonl, (file("81.jsonl", good.replace('"Q?"', '"  "')),), r"line 1: 'question' must be non-empty text"
    yield readers.jsonl, (file("82.jsonl", good.replace('"a"', '" "')),), r"line 1: 'answers' must be a list"
    yield readers.jsonl, (file("83.jsonl", good.replace('"A."', '"\\n"')),), r"line 1: 'documents' must be a list"
    yield readers.jsonl, (file("9.jsonl", ""),), r"no question"
    yield readers.streamingqa, (file("a.jsonl", lines({"evidence_id": ""})), documents), r"line 2: evidence_id missing"
    yield readers.streamingqa, (file("b.jsonl", lines({"evidence_id": "d9"})), documents), r"line 2: .*'d9'"
    yield readers.streamingqa, (file("c.jsonl", lines({"answers": "x"})), documents), r"line 2: 'answers'"
    yield readers.streamingqa, (file("c1.jsonl", lines({"question": 7})), documents), r"line 2: 'question' must be"
    yield readers.streamingqa, (file("d.jsonl", lines({})), file("e.jsonl", '{"id": 1}')), r"e\.jsonl, line 1: .*'text'"
    yield readers.archivalqa, (file("f.csv", "id,question\n1,Q\n"), documents), r"f\.csv, line 1: no column answer"
    empty = ARCHIVAL.replace("?,Bern,", "?,,").replace('bridge?",Bern', 'bridge?",')
    yield readers.archivalqa, (file("g.csv", empty), documents), r"g\.csv, line 4: answer is empty"
    yield readers.archivalqa, (file("h.csv", ARCHIVAL + 'x,"open'), documents), r"h\.csv, line 5: not valid CSV"
    yield readers.squad, (file("32.json", json.dumps(SQUAD)), (0.9, 1)), r"part \[0.9, 1\] of its articles.* are 4"
    long = b"x\n" * (1 << 19) + "ä".encode()  # whose letter lies on the edge of what is decoded at once
    yield readers.Passages, (file("j.txt", b" " + long[1:] + b"\n\xff"),), r"j\.txt, line 524290: not UTF-8"
    yield readers.Passages, (file("k.txt", b""),), r"k\.txt: no text"
    yield readers.Passages, (file("i.txt", b"one\ntwo \xff"),), r"i\.txt, line 2: not UTF-8"


def test_errors_name_file_and_line(tmp_path, documents):
    for read, arguments, message in broken(tmp_path, documents):
        with pytest.raises(InvalidInputError, match=message):
            read(*arguments)


@pytest.fixture
def squad(tmp_path):
    (tmp_path / "squad.json").write_text(json.dumps(SQUAD))
    return tmp_path / "squad.json"


def source(hard_negatives=4, **settings):
    values = {"output": "x", "train": [settings], "stages": [{"task": "answers", "steps": 1}]}
    return open_source(checked(values, "test").train[0], hard_negatives)


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_episodes_have_k_documents_with_the_right_one_among_hard_ones(squad, count):
    opened = source(kind="squad", path=str(squad))
    places = set()
    for number in range(12):
        episode = opened.episode(number, random.Random(number), count, 2)
        assert len(episode.documents) == len(set(episode.documents)) == count
        for asked in episode.asked:
            assert len(asked.gold) == min(count, 1)
            for place, text in enumerate(episode.documents):
                assert (asked.answer in text) == (place in asked.gold)
            places |= set(asked.gold)
    assert places == set(range(count)) or count == 5  # shuffled


def test_wrong_documents_are_those_most_like_the_question(squad):
    opened = source(1, kind="squad", path=str(squad))
    group = readers.squad(squad)[4]
    corpus = readers.squad(squad).corpus()
    fitting = [text for text in corpus if "Mayor11" not in text and "Orm1" not in text]
    nearest = BM25(corpus).nearest(group.questions[0][0], len(corpus))
    hardest = next(corpus[i] for i in nearest if corpus[i] in fitting)
    seen = set()
    for seed in range(20):
        episode = opened.episode(4, random.Random(seed), 2, 2)
        if episode.asked[0].question == group.questions[0][0]:
            seen |= set(episode.documents) - set(group.documents)
    assert seen == {hardest}


def test_no_wrong_document_holds_any_of_the_answers(tmp_path):
    rows = [
        {"documents": [f"The {what} opened in {year}."], "question": "When did it open?", "answers": answers}
        for what, year, answers in (("bridge", "May 1900", ["May 1900", "1900"]), ("road", "June 1900", ["June 1900"]))
    ] + [{"documents": ["The pool opened in 1950."], "question": "When did the pool open?", "answers": ["1950"]}]
    path = str(write_lines(tmp_path / "q.jsonl", rows))
    for hard in (1, 2, 100):
        opened = source(hard, kind="jsonl", path=path)
        wrong = {text for seed in range(9) for text in opened.episode(0, random.Random(seed), 2, 1).documents}
        assert wrong == {"The bridge opened in May 1900.", "The pool opened in 1950."}


def test_any_document_is_drawn_without_a_search_where_there_are_no_more_than_hard_ones(squad):
    opened = source(12, kind="squad", path=str(squad))
    drawn = {text for seed in range(40) for text in opened.episode(0, random.Random(seed), 3, 1).documents}
    assert len(drawn) > 8
    assert "_index" not in vars(opened)


def test_bm25_against_its_formula():
    import math

    texts = ["red fox", "blue blue whale in the sea", "a red rose"]
    index = BM25(texts)
    length = [2, 6, 3]
    idf = math.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    score = [idf * 2.2 / (1 + 1.2 * (0.25 + 0.75 * n / (11 / 3))) for n in (length[0], length[2])]
    assert index.nearest("red", 3) == [0, 2]
    assert score[0] > score[1]
    assert index.nearest("nothing of it", 3) == []
    assert index.nearest("rose red", 1) == [2]


def test_facts_ask_about_any_document_and_what_none_says():
    opened = source(kind="facts", facts=[2, 3], unknown=0.5)
    assert isinstance(opened, FactsSource)
    golds = set()
    unknown = 0
    for number in range(40):
        episode = opened.episode(number, random.Random(number), 3, 3)
        assert len(episode.documents) == 3
        for asked in episode.asked:
            golds |= set(asked.gold)
            unknown += not asked.gold
            for place in asked.gold:
                assert asked.answer in episode.documents[place]
    assert golds == {0, 1, 2}
    assert 8 < unknown < 32
    [closed] = opened.episode(0, random.Random(0), 0, 1).asked
    assert closed.gold == ()


def test_swapped_documents_ask_about_both_of_their_values():
    values = {"output": "x", "stages": [{"task": "answers", "steps": 1}]}
    config = checked(values | {"train": [{"kind": "swapped", "facts": [2, 2], "unknown": 0}]}, "test")
    source = open_source(config.train[0], 4)
    for number in range(20):
        episode = source.episode(number, random.Random(number), 3, 6)
        assert episode == source.episode(number, random.Random(number), 3, 6)
        assert len(set(episode.documents)) == 3
        assert sorted(asked.gold for asked in episode.asked) == [(0,), (0,), (1,), (1,), (2,), (2,)]
        assert all(asked.answer in episode.documents[asked.gold[0]] for asked in episode.asked)
    passage = source.passage(0, random.Random(0))
    assert passage == source.passage(0, random.Random(0)) != source.passage(0, random.Random(1))
    with pytest.raises(InvalidInputError, match="two rising numbers of at least 2"):
        checked(values | {"train": [{"kind": "swapped", "facts": [1, 2]}]}, "test")


def test_mixtures_read_every_episode_once_an_epoch_in_another_order_each(squad, tmp_path):
    rows = [{"documents": [f"A{i}."], "question": f"Q{i}?", "answers": [f"a{i}"]} for i in range(25)]
    lines = write_lines(tmp_path / "q.jsonl", rows)
    one = Mixture([(source(kind="squad", path=str(squad)), 1.0)], "0")
    epochs = [[one.episode(n + 12 * epoch, {1: 1.0}, 2).documents for n in range(12)] for epoch in range(2)]
    assert all(len(set(epoch)) == 12 for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert len(one) == 12
    two = Mixture([(source(kind="squad", path=str(squad)), 3.0), (source(kind="jsonl", path=str(lines)), 1.0)], "0")
    drawn = [two.episode(n, {1: 1.0}, 2) for n in range(100)]
    from_lines = [episode.documents for episode in drawn if episode.documents[0].startswith("A")]
    assert len(from_lines) == len(set(from_lines)) == 25
    assert len(two) == 100
    assert [two.episode(n, {1: 1.0}, 2) for n in reversed(range(100))] == drawn[::-1]
    assert Mixture([(source(kind="squad", path=str(squad)), 1.0)], "1").episode(0, {1: 1.0}, 2) != one.episode(
        0, {1: 1.0}, 2
    )


def test_a_long_document_is_cut_around_its_answer(tmp_path):
    from cmt_memory.training.config import Episodes, Stage
    from cmt_memory.training.units import Units
    from tests.training.helpers import trainable

    filler = "The weather in the valley was calm on that day and nobody spoke. " * 30
    row = {"documents": [filler + "The code of the door is 7731. " + filler], "question": "Code?", "answers": ["7731"]}
    lines = write_lines(tmp_path / "long.jsonl", [row])
    model = trainable()
    mixture = Mixture([(source(kind="jsonl", path=str(lines)), 1.0)], "0")
    stage = Stage(task="answers", steps=1, batch=1)
    unit = Units(model.lm, mixture, stage, Episodes(document_tokens=64), [2], 1, "0")[0]
    [ids] = unit.documents
    assert len(ids) <= 64
    assert "7731" in model.lm.tokenizer.decode(ids)


def test_units_say_which_tokens_tell_an_answer():
    from cmt_memory.training.config import Episodes, Stage
    from cmt_memory.training.units import Units
    from tests.training.helpers import trainable

    model = trainable()
    mixture = Mixture([(source(kind="facts", facts=[3, 5], unknown=0.5), 1.0)], "0")
    stage = Stage(task="answers", steps=1, batch=4, documents={2: 1.0})
    unit = Units(model.lm, mixture, stage, Episodes(document_tokens=2000), [4], 1, "0")[0]
    decode = model.lm.tokenizer.decode
    for row in unit.rows:
        assert {place for place, *_ in row.told} == set(row.gold)
        for place, start, end in row.told:
            said, answer = decode(unit.documents[place][start:end]), decode(row.answer, skip_special_tokens=True)
            assert answer.strip() in said
            assert len(said) <= len(answer) + 3  # the token that an answer begins or ends with may hold more
    assert any(row.told for row in unit.rows)
    assert not all(row.told for row in unit.rows)


def test_what_is_cut_off_is_not_asked(tmp_path):
    """A long document is cut around the first answer, as a document with its end; the others must be in it too."""
    from cmt_memory.training.config import Episodes, Stage
    from cmt_memory.training.units import Units
    from tests.training.helpers import trainable

    filler = "The weather in the valley was calm on that day and nobody spoke. " * 30
    context = f"The door's code is 7731. Its colour is blue. {filler} The lock's code is 5520."
    asked = [("Door?", "7731"), ("Colour?", "blue"), ("Lock?", "5520")]
    qas = [{"question": question, "answers": [{"text": answer}]} for question, answer in asked]
    (tmp_path / "s.json").write_text(json.dumps({"data": [{"paragraphs": [{"context": context, "qas": qas}]}]}))
    mixture = Mixture([(source(kind="squad", path=str(tmp_path / "s.json")), 1.0)], "0")
    lm = trainable().lm
    units = Units(
        lm, mixture, Stage(task="answers", steps=20, batch=1), Episodes(document_tokens=64, questions=3), [2], 20, "0"
    )
    counts = set()
    for number in range(20):
        unit = units[number]
        text = lm.tokenizer.decode(unit.documents[0])
        assert len(unit.documents[0]) <= 64
        assert text.endswith("\n\n")
        assert all(lm.tokenizer.decode(row.answer).strip() in text for row in unit.rows)
        counts.add(len(unit.rows))
    assert counts == {1, 2}


def test_the_batches_of_a_step_are_of_like_length():
    """Processes share a step, so each waits for the one with the longest documents."""
    from tests.training.helpers import fact_units

    def spread(accumulation):
        units = fact_units(batch=2, steps=16, gradient_accumulation=accumulation)
        longest = [max(map(len, units[number].documents)) for number in range(16)]
        return sum(abs(longest[at] - longest[at + 1]) for at in range(0, 16, 2))

    assert spread(2) < spread(1) / 2


def test_a_stage_draws_from_its_own_ratios():
    from tests.training.helpers import fact_units

    def drawn(**stage):
        units = fact_units(batch=1, steps=24, **stage)
        return {units[number].ratio for number in range(24)}

    assert drawn() == {2, 4, 8}
    assert drawn(ratios=(2, 8)) == {2, 8}
    values = {"output": "out", "train": [{"kind": "facts"}], "ratios": [2, 4, 8]}
    with pytest.raises(InvalidInputError, match=r"stages\.0\.ratios` has \[3\], which the run's `ratios` do not have"):
        checked(values | {"stages": [{"task": "answers", "steps": 1, "ratios": [3, 8]}]}, "test")
