"""`cmt-memory eval`."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from cmt_memory.evaluation.config import EvalConfig
from tests.evaluation.helpers import squad_file


def run_file(tmp_path, lm, **changes):
    values = {
        "output": str(tmp_path / "out"),
        "models": [{"model": str(lm), "ratios": [2, 4], "latent": 24, "name": "tiny <b>&"}],
        "data": {"kind": "squad", "path": str(squad_file(tmp_path / "squad.json"))},
        "questions": 4,
        "k": 1,
        "encoder": "none",
        "max_new_tokens": 2,
        "resamples": 100,
        "device": "cpu",
    }
    path = tmp_path / "eval.yaml"
    path.write_text(yaml.safe_dump(values | changes))
    return path


class Page(HTMLParser):
    """Tags that are left open, and everything that would be fetched."""

    def __init__(self):
        super().__init__()
        self.sources, self.tables, self.words = [], 0, []

    def handle_starttag(self, tag, attrs):
        self.tables += tag == "table"
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        assert tag not in ("script", "link", "iframe", "b")

    def handle_data(self, data):
        self.words.append(data)


def test_a_run_and_its_report(cmt, lm, tmp_path):
    path = run_file(tmp_path, lm)
    results = json.loads(cmt("eval", "--config", path, "--json").stdout)
    out = tmp_path / "out"
    assert results == json.loads((out / "results.json").read_text())
    assert results["command"] == "cmt-memory eval --config eval.yaml"
    assert [result["ratio"] for result in results["results"]] == [2, 4]
    assert len((out / "questions.jsonl").read_text().splitlines()) == 12
    text = (out / "report.html").read_text()
    page = Page()
    page.feed(text)
    said = " ".join(page.words)
    assert page.sources
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert not re.search(r"https?:|url\(|@import|//[a-z]", re.sub(r"base64,[^\"]*", "", text))
    assert page.tables == 5  # overview, two ratios, times, retrieval
    for expected in ("tiny <b>& at ratio 4", "Seed 0", "Preliminary", "recall@1", "eval.yaml", "extract_bytes"):
        assert expected in said
    markdown = (out / "report.md").read_text()
    for plot in re.findall(r"\]\((.*\.png)\)", markdown):
        assert (out / plot).read_bytes().startswith(b"\x89PNG")
    assert markdown.count("| memory |") == 2
    again = cmt("eval", "--config", path)
    assert re.search(r"tiny <b>& at ratio 2: F1 memory [\d.]+%, text [\d.]+%, none [\d.]+%", again.stdout)
    assert "report.html" in again.stdout


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"modles": 1}, "modles is not a key here; allowed: arms, batch"),
        ({"models": [{"model": "x", "ratios": [0]}]}, "models.0.ratios.0: input should be greater than or equal to 1"),
        ({"models": [{"model": "x"}, {"model": "x"}]}, "two are called 'x'"),
        ({"data": {"kind": "facts", "cuont": 2}}, "cuont is not a key here; allowed: count, facts, kind"),
        ({"data": {"kind": "squad"}}, "data.squad.path is missing"),
        ({"data": {"kind": "squad", "path": "$NOT_SET/x"}}, "environment variable that is not set"),
        ({"arms": ["memory", "txt"]}, "arms: there is no arm 'txt'; allowed: none, text"),
        ({"arms": ["extract"]}, "measured against 'memory'"),
        ({"question_format": "{question} {x}"}, "question_format: must hold {question} once"),
    ],
)  # fmt: skip
def test_a_wrong_file_is_told_before_anything_is_loaded(cmt, tmp_path, change, said):
    done = cmt("eval", "--config", run_file(tmp_path, "no such LM", **change), code=2)
    assert said in " ".join(done.stderr.split())
    assert not (tmp_path / "out").exists()


def test_what_goes_wrong_later_is_one_line(cmt, tmp_path):
    done = cmt("eval", "--config", run_file(tmp_path, tmp_path / "nothing"), code=1)
    assert "cannot be loaded" in done.stderr
    assert "Traceback" not in done.stderr
    cmt("eval", "--config", tmp_path / "none.yaml", code=2)


def test_ctrl_c_says_how_to_go_on(cmt, lm, tmp_path, monkeypatch):
    def interrupt(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("cmt_memory.evaluation.experiments.run_evaluation", interrupt)
    said = cmt("eval", "--config", run_file(tmp_path, lm), code=1).stderr
    assert "Interrupted: what was answered is in" in said


def test_help_teaches(cmt):
    text = " ".join(cmt("eval", "--help").stdout.split())
    for said in (
        "data: {kind: squad",
        "goes on when the same command",
        "report.html",
        "questions.jsonl",
        "Exit code 2",
    ):
        assert said in text


def test_the_published_schema_is_the_one_that_is_checked():
    """Made by `EvalConfig.model_json_schema()`, so that editors complete and check the YAML."""
    published = Path("docs/reference/eval-config.schema.json").read_text("utf-8")
    assert json.loads(published) == EvalConfig.model_json_schema()
