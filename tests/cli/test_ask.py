"""`cmt-memory ask`."""

from __future__ import annotations

import json
import shutil

import pytest

QUESTION = "Where is the spare key?"


@pytest.mark.parametrize("mode", ["memory", "text", "none"])
def test_json_says_everything(cmt, store, mode):
    result = cmt("ask", QUESTION, "--store", store, "--mode", mode, "--k", "2", "--json")
    answer = json.loads(result.stdout)
    assert answer["mode"] == mode
    assert answer["grounded"] == (mode != "none")
    assert (answer["usage"]["memory_slots"] > 0) == (mode == "memory")
    assert {"search", "first_token", "total"} <= set(answer["timings"])
    if mode != "none":
        assert answer["hits"][0]["text"].startswith("# Keys")
        assert answer["hits"][0]["metadata"]["source"].endswith("keys.md")


def test_lossless_memory_answers_as_text_does_with_fewer_prompt_tokens(cmt, store):
    asked = {
        mode: json.loads(cmt("ask", QUESTION, "--store", store, "--mode", mode, "--k", "1", "--json").stdout)
        for mode in ("memory", "text")
    }
    assert asked["memory"]["text"] == asked["text"]["text"]
    assert asked["memory"]["usage"]["prompt_tokens"] < asked["text"]["usage"]["prompt_tokens"]


def test_the_answer_alone_is_on_stdout_streamed_or_not(cmt, store):
    whole = cmt("ask", QUESTION, "--store", store)
    streamed = cmt("ask", QUESTION, "--store", store, "--stream")
    assert whole.stdout == streamed.stdout
    assert "keys.md" in whole.stderr
    assert "memory slots" in whole.stderr


def test_a_doubted_answer_is_read_from_the_text(cmt, store):
    text = cmt("ask", QUESTION, "--store", store, "--mode", "text").stdout
    for stream in ((), ("--stream",)):
        result = cmt("ask", QUESTION, "--store", store, "--fallback", "1", *stream)
        assert result.stdout == text
        assert "text after memory:" in result.stderr
        assert "confidence 0." in result.stderr
    answer = json.loads(cmt("ask", QUESTION, "--store", store, "--fallback", "1", "--json").stdout)
    assert (answer["mode"], answer["usage"]["passes"]) == ("text", 2)
    sure = json.loads(cmt("ask", QUESTION, "--store", store, "--fallback", "0", "--json").stdout)
    assert (sure["mode"], sure["usage"]["passes"]) == ("memory", 1)
    assert sure["confidence"] > 0


@pytest.mark.parametrize("wrong", [("--fallback", "1.5"), ("--fallback", "0.5", "--mode", "text")])
def test_a_fallback_that_means_nothing_is_wrong_use(cmt, store, wrong):
    assert "fallback" in cmt("ask", QUESTION, "--store", store, *wrong, code=2).stderr


def test_nothing_relevant_is_said(cmt, store):
    result = cmt("ask", QUESTION, "--store", store, "--min-score", "1.1")
    assert "on its own" in result.stderr


def test_a_moved_model_can_be_named(cmt, lm, store, tmp_path):
    shutil.copytree(lm, tmp_path / "moved")
    first = cmt("ask", QUESTION, "--store", store, "--json").stdout
    second = cmt("ask", QUESTION, "--store", store, "--model", tmp_path / "moved", "--json").stdout
    assert json.loads(first)["text"] == json.loads(second)["text"]


def test_a_model_named_by_a_relative_path_is_found_from_anywhere(cmt, lm, notes, tmp_path, monkeypatch):
    monkeypatch.chdir(lm.parent)
    cmt("add", notes, "--store", tmp_path / "mem", "--model", lm.name, "--encoder", "none")
    monkeypatch.chdir(tmp_path)
    assert json.loads(cmt("ask", QUESTION, "--store", "mem", "--json").stdout)["grounded"]


def test_stdout_is_clean_in_a_real_process(process, store):
    done = process("ask", QUESTION, "--store", store, "--json")
    assert done.returncode == 0
    assert json.loads(done.stdout)["question"] == QUESTION
    assert done.stderr == ""
