"""Whole evaluations: data, resuming, and what is refused."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from cmt_memory.errors import CMTError, InvalidInputError
from cmt_memory.evaluation import experiments
from cmt_memory.evaluation.config import EvalConfig
from cmt_memory.evaluation.data import read_data
from cmt_memory.evaluation.experiments import run_evaluation
from cmt_memory.evaluation.growth import ANSWERED
from cmt_memory.evaluation.records import ANSWERS, RETRIEVAL, Records
from cmt_memory.evaluation.report import write_report
from cmt_memory.settings import check_settings
from tests.evaluation.helpers import TOWNS, squad_file, town
from tests.tiny import save_tiny


@pytest.fixture(scope="module")
def lm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    save_tiny(folder)
    return folder


def config(output, lm, squad, **changes):
    values = {
        "output": str(output),
        "models": [{"model": str(lm), "ratios": [1, 4], "latent": 24, "name": "tiny"}],
        "data": {"kind": "squad", "path": str(squad)},
        "questions": 8,
        "k": 1,
        "encoder": "none",
        "max_new_tokens": 3,
        "batch": 3,
        "resamples": 100,
        "device": "cpu",
    }
    return check_settings(values | changes, "test", EvalConfig)


def lines(folder, name=ANSWERS):
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


class StoppedError(Exception):
    """Ends a run in the middle."""


def test_a_run_that_was_stopped_ends_as_one_that_was_not(lm, tmp_path, monkeypatch):
    data = squad_file(tmp_path / "squad.json")
    whole = run_evaluation(config(tmp_path / "whole", lm, data))
    record, calls = experiments._record, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 14:  # in the second batch of the second condition
            raise StoppedError
        return record(*args)

    monkeypatch.setattr(experiments, "_record", stopping)
    with pytest.raises(StoppedError):
        run_evaluation(config(tmp_path / "parts", lm, data))
    monkeypatch.setattr(experiments, "_record", record)
    before = lines(tmp_path / "parts")
    assert len(before) == 11  # the batch that was under way is not among them
    with (tmp_path / "parts" / ANSWERS).open("a") as file:
        file.write('{"condition": "tor')  # what a kill leaves of a line
    parts = run_evaluation(config(tmp_path / "parts", lm, data))
    after = lines(tmp_path / "parts")
    assert after[:11] == before

    def sorted_lines(folder, name):
        return sorted(lines(folder, name), key=lambda r: (r.get("condition", ""), r["question"]))

    for name in (ANSWERS, RETRIEVAL):
        assert sorted_lines(tmp_path / "parts", name) == sorted_lines(tmp_path / "whole", name)
    assert parts["results"] == whole["results"]
    assert parts["retrieval"] == whole["retrieval"]
    assert len(after) == 24  # the LM's own arms and two ratios
    _check_results(whole, after)
    _check_figures(lambda: run_evaluation(config(tmp_path / "whole", lm, data)), tmp_path / "whole" / ANSWERS)
    with pytest.raises(InvalidInputError, match=r"another k, slot_dtype: choose another"):
        run_evaluation(config(tmp_path / "whole", lm, data, k=2, slot_dtype="float16"))
    other = [{"model": str(lm), "ratios": [4], "latent": 16, "name": "tiny"}]
    with pytest.raises(InvalidInputError, match="another model gave under this name"):
        run_evaluation(config(tmp_path / "whole", lm, data, models=other))


def _check_results(results, records):
    """Figures are those of the records."""
    one, four = results["results"]
    assert (one["ratio"], four["ratio"]) == (1, 4)
    assert set(one["unavailable"]) == {"truncated", "extract", "extract_bytes"}
    assert set(four["arms"]) == set(results["arms"])
    at_four = [r["replies"] for r in records if r["condition"] == "tiny at ratio 4"]
    texts = [r["replies"]["text"] for r in records if r["ratio"] is None]
    assert four["arms"]["text"]["positions"] == pytest.approx(sum(r["positions"] for r in texts) / 8, abs=1e-2)
    assert all(r["truncated"]["positions"] == r["memory"]["positions"] for r in at_four)
    assert all(r["extract"]["positions"] <= r["memory"]["positions"] for r in at_four)
    assert four["arms"]["memory"]["positions"] < one["arms"]["memory"]["positions"]
    assert results["retrieval"][four["lm"]]["recall@1"]["value"] == 1


def _check_figures(run, path):
    """Figures of answers whose scores are known: text is always right, memory in three of four, none in one."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        for arm, reply in record["replies"].items():
            place = record["question"] % 4
            reply["f1"] = float({"text": True, "memory": place < 3, "none": place < 1}.get(arm, False))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    written = path.read_bytes()
    asked = {record["question"] for record in records}
    memory, none = (sum(n % 4 < most for n in asked) / len(asked) for most in (3, 1))
    four = run()["results"][1]
    assert path.read_bytes() == written  # nothing was answered again
    assert 0 < none < memory < 1
    assert four["arms"]["memory"]["f1"]["value"] == pytest.approx(memory, abs=1e-4)
    assert four["arms"]["none"]["f1"]["value"] == pytest.approx(none, abs=1e-4)
    kept = four["share_kept"]["memory"]["f1"]
    assert kept["raw"]["value"] == pytest.approx(memory, abs=1e-4)
    assert kept["normalised"]["value"] == pytest.approx((memory - none) / (1 - none), abs=1e-4)
    assert four["memory_minus"]["text"]["f1"]["value"] == pytest.approx(memory - 1, abs=1e-4)


def test_squad_has_all_answers_and_documents(tmp_path):
    data = read_data(config(tmp_path, "x", squad_file(tmp_path / "squad.json"), questions=None))
    assert list(data.documents.values()) == [town(name) for name in TOWNS]
    assert data.questions[1].answers == ("Tom Ulmer", "Ulmer")
    assert [q.gold for q in data.questions[:3]] == [("d0",), ("d0",), ("d1",)]
    fewer = read_data(config(tmp_path, "x", tmp_path / "squad.json", documents=2, questions=3))
    assert (len(fewer.documents), len(fewer.questions), fewer.available) == (2, 3, 4)
    assert {q.gold[0] for q in fewer.questions} == {"d0", "d1"}
    assert fewer == read_data(config(tmp_path, "x", tmp_path / "squad.json", documents=2, questions=3))


def test_jsonl_questions_need_all_their_documents(tmp_path):
    path = tmp_path / "q.jsonl"
    asked = [{"documents": ["A.", "B."], "question": "Q?", "answers": ["x", "y"]}]
    asked += [{"documents": ["B."], "question": "R?", "answers": ["z"]}]
    path.write_text("\n".join(map(json.dumps, asked)))
    made = read_data(config(tmp_path, "x", "x", data={"kind": "jsonl", "path": str(path)}))
    assert [(q.gold, q.answers) for q in made.questions] == [(("d0", "d1"), ("x", "y")), (("d1",), ("z",))]
    with pytest.raises(InvalidInputError, match="raise `documents`"):
        read_data(config(tmp_path, "x", "x", data={"kind": "jsonl", "path": str(path)}, documents=1))


def test_facts_are_held_out_and_the_same_each_time(tmp_path):
    made = read_data(config(tmp_path, "x", "x", data={"kind": "facts", "count": 5, "facts": [3, 3]}, questions=None))
    again = read_data(config(tmp_path, "x", "x", data={"kind": "facts", "count": 5, "facts": [3, 3]}, questions=None))
    assert made.digest == again.digest
    assert len(made.documents) == 5
    assert {q.gold for q in made.questions} == {(f"d{i}",) for i in range(5)}
    assert all(q.kind for q in made.questions)
    other = read_data(config(tmp_path, "x", "x", data={"kind": "facts", "count": 5, "facts": [3, 3]}, seed=1))
    assert other.digest != made.digest


SWAPPED = {"kind": "swapped", "pairs": 5}


def test_pairs_are_whole_and_the_same_each_time(tmp_path):
    made = read_data(config(tmp_path, "x", "x", data=SWAPPED, questions=6))
    assert made == read_data(config(tmp_path, "x", "x", data=SWAPPED, questions=6))
    assert (len(made.documents), len(made.questions), made.available) == (10, 6, 10)
    for one, other in zip(made.questions[::2], made.questions[1::2], strict=True):
        assert one.text == other.text
        assert one.answers != other.answers
        assert (one.gold, one.partner) == ((other.partner,), *other.gold)
        assert all(q.answers[0] in made.documents[q.gold[0]] for q in (one, other))
        assert one.answers[0] in made.documents[other.gold[0]]
    with_half_a_pair = read_data(config(tmp_path, "x", "x", data=SWAPPED, documents=3, questions=None))
    assert len(with_half_a_pair.questions) == 2
    with pytest.raises(InvalidInputError, match="'swapped' needs pairs"):
        config(tmp_path, "x", "x", arms=["memory", "swapped"])
    assert "swapped" not in config(tmp_path, "x", "x").compared


def test_a_pair_is_right_where_both_answers_are(lm, tmp_path):
    def run():
        values = {"data": SWAPPED, "models": [{"model": str(lm), "ratios": [2], "latent": 24, "name": "tiny"}]}
        return run_evaluation(config(tmp_path / "out", lm, "x", questions=None, **values))

    run()
    path = tmp_path / "out" / ANSWERS
    records = [json.loads(line) for line in path.read_text().splitlines()]
    own = {record["question"]: record["replies"] for record in records if record["ratio"]}
    for number, replies in own.items():  # the partner's memory is read as the partner's own question reads it
        assert replies["swapped"]["text"] == own[number ^ 1]["memory"]["text"]
        assert "oracle_memory" not in replies
    for record in records:
        for arm, reply in record["replies"].items():
            reply["em"] = float({"text": True, "memory": record["question"] in (0, 1, 2, 4)}.get(arm, False))
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    results = run()
    [result] = results["results"]
    found = {arm: (values["em"]["value"], values["pair"]["value"]) for arm, values in result["arms"].items()}
    assert (found["memory"], found["text"], found["swapped"]) == ((0.4, 0.2), (1, 1), (0, 0))
    assert (results["retrieval"], results["data"]["drawn_together"]) == ({}, 5)
    page = write_report(results, tmp_path / "out").with_suffix(".md").read_text()
    assert "| tiny | 2 | memory | 0.400 [" in page
    assert "Retrieval" not in page
    assert "before its own document" in page


GROWING = {"retention": {"sizes": [2, 4, 6], "questions": 3}, "noise": {"shares": [0.5, 1.0], "questions": 4}}


def test_stores_that_grow_and_first_tokens(lm, tmp_path):
    data = squad_file(tmp_path / "squad.json")
    models = [{"model": str(lm), "ratios": [2], "latent": 24, "name": "tiny"}]

    def run():
        return run_evaluation(config(tmp_path / "out", lm, data, models=models, ttft_questions=2, **GROWING))

    results = run()
    grown = {(found["experiment"], found["arm"]): found for found in results["growth"]}
    assert set(grown) == {(name, arm) for name in ("retention", "noise") for arm in ("text", "memory")}
    assert [p["documents"] for p in grown["retention", "memory"]["points"]] == [2, 4, 6]
    assert [(p["documents"], p["added"]) for p in grown["noise", "text"]["points"]] == [(6, 0), (9, 0.5), (12, 1)]
    [timed] = results["ttft_ms"]
    assert (timed["ratio"], timed["questions"]) == (2, 2)
    assert set(timed["arms"]) == {"none", "text", "memory", "truncated", "extract"}
    assert all(0 < took["p10"] <= took["median"] <= took["p90"] for took in timed["arms"].values())
    records = lines(tmp_path / "out", ANSWERED)
    assert len(records) == 2 * (3 * 3 + 3 * 4)
    replies = {}
    for record in records:  # the same passages are read once
        key = record["condition"], record["growth"], record["question"], tuple(record["hits"])
        assert replies.setdefault(key, record["reply"]) == record["reply"]
    early = [r for r in records if r["size"] == 2]
    assert early
    assert all(
        name.rpartition("#")[0] in ("d0", "d1") for r in early for name in r["hits"]
    )  # nothing later is there yet
    pages = [path.name for path in write_report(results, tmp_path / "out").parent.glob("*.png")]
    assert "ttft_f1.png" in pages
    _check_growth(run, tmp_path / "out" / ANSWERED)
    assert {p.name for p in (tmp_path / "out").glob("*.png")} >= {"retention.png", "noise.png"}


def _check_growth(run, path):
    """Shares of answers whose scores are known: all right at first, then half of them."""
    records = [json.loads(line) for line in path.read_text().splitlines()]
    for record in records:
        record["reply"]["f1"] = float(record["size"] in (2, 6) or record["question"] % 2)
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    results = run()
    assert len(path.read_text().splitlines()) == len(records)  # nothing was answered again
    for found in results["growth"]:
        first, then, *_ = found["points"]
        assert first["f1_kept"]["value"] == 1
        assert then["f1_kept"]["value"] == pytest.approx(then["f1"]["value"])
        assert then["f1"]["value"] < 1
    text = write_report(results, path.parent).with_suffix(".md").read_text()
    assert "## Retention" in text
    assert "| tiny | 2 | memory | 9 (+50%) |" in text


def test_what_grows_must_be_there(lm, tmp_path):
    data = squad_file(tmp_path / "squad.json")
    with pytest.raises(InvalidInputError, match=r"go up to 9, but there are 6 documents"):
        run_evaluation(config(tmp_path / "out", lm, data, retention={"sizes": [2, 9]}))
    few = {"shares": [1.0], "data": {"kind": "squad", "path": str(data), "part": [0, 1]}}
    with pytest.raises(InvalidInputError, match=r"noise\.data has 6 documents, and 12 are needed"):
        run_evaluation(config(tmp_path / "out", lm, data, noise=few | {"shares": [2.0]}))
    with pytest.raises(InvalidInputError, match="rising numbers"):
        config(tmp_path, lm, data, noise={"shares": [0.4, 0.2]})
    with pytest.raises(InvalidInputError, match="pairs of documents are not searched"):
        config(tmp_path, lm, data, data=SWAPPED, **GROWING)


def test_a_model_that_is_not_there(tmp_path):
    data = squad_file(tmp_path / "squad.json")
    with pytest.raises(CMTError, match="cannot be loaded"):
        run_evaluation(config(tmp_path / "out", tmp_path / "nothing", data))


def test_damaged_records_are_told(tmp_path):
    records = Records(tmp_path / "r", {"k": 1})
    records.append("a.jsonl", [{"x": "é"}])
    assert records.read("a.jsonl") == [{"x": "é"}]
    (tmp_path / "r/a.jsonl").write_text("nonsense\n")
    with pytest.raises(CMTError, match="delete"):
        records.read("a.jsonl")
    (tmp_path / "r/run.json").write_text("{")
    with pytest.raises(CMTError, match="cannot be read"):
        Records(tmp_path / "r", {"k": 1})


def test_evaluating_does_not_load_the_trainer():
    code = (
        "import sys, cmt_memory.evaluation.experiments, cmt_memory.evaluation.report as r;"
        "bad = [m for m in sys.modules if m in ('transformers.trainer', 'cmt_memory.training.trainer')];"
        "assert not bad, bad"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
