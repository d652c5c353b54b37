"""`cmt-memory bench …`."""

from __future__ import annotations

import json

import pytest


@pytest.mark.parametrize("encoder", ["auto", "none"])
def test_latency_has_the_keys_a_script_reads(cmt, tmp_path, encoder):
    output = tmp_path / "latency.json"
    args = ("--shape", "tiny", "--repetitions", "3", "--encoder", encoder, "--output", output)
    result = json.loads(cmt("bench", "latency", *args, "--json").stdout)
    assert result == json.loads(output.read_text())
    assert set(result["ttft_ms"]) == {"none", "memory", "text"}
    assert all(took > 0 for took in result["ttft_ms"].values())
    assert result["spread"]["ttft_ms"]["text"]["p10"] <= result["ttft_ms"]["text"]
    assert result["text_over_memory"] > 0
    assert result["memory_over_none"] > 0
    assert set(result["breakdown_ms"]) == {"encode", "search", "load", "prefix", "forward"}
    assert (result["breakdown_ms"]["encode"] > 0) == (encoder == "auto")
    assert result["prompt_tokens"]["memory"] == result["prompt_tokens"]["none"]
    assert 2000 < result["prompt_tokens"]["text"] < 2100
    assert 120 <= result["memory_slots"] <= 128
    assert 16 <= min(result["question_tokens"]) <= max(result["question_tokens"]) <= 20


def test_latency_for_people(cmt):
    text = cmt("bench", "latency", "--shape", "tiny", "--repetitions", "1", "--encoder", "none").stdout
    assert "documents as memories" in text
    assert "faster than text" in text
