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


def test_ingest_and_storage_have_the_keys_a_script_reads(cmt, tmp_path):
    shape = ("--shape", "tiny", "--documents", "3", "--latent", "32", "--encoder", "none", "--json")
    result = json.loads(cmt("bench", "ingest", *shape, "--rounds", "2").stdout)
    assert min(result["tokens_per_s"].values()) > 0
    assert result["spread"]["share"]["p10"] <= result["share"] <= result["spread"]["share"]["p90"]
    storage = json.loads(cmt("bench", "storage", *shape).stdout)
    kept = storage["bytes_per_document"]
    assert storage["bytes_per_store"] > 32 * 2 * 2 * 16 * 2
    assert 32 * 32 <= kept["payload"] < 2 * 32 * 32
    assert kept["payload"] < kept["text"]
    assert kept["store"] > kept["payload"] + kept["text"]
    assert kept["full_kv"] == 512 * 2 * 2 * 2 * 16 * 4


def test_search_finds_what_is_nearest(cmt, tmp_path):
    size = ("--memories", "300", "--questions", "10", "--store", tmp_path / "store")
    result = json.loads(cmt("bench", "search", *size, "--json").stdout)
    assert result["recall"] > 0.9
    assert set(result["search_ms"]) == {"hybrid", "dense", "first"}
    assert all(took["p50"] <= took["p95"] for took in result["search_ms"].values())
    assert result["rebuilt_per_s"] > 0
    assert result["peak_rss_mb"] > 10
    assert "recall of the index" in cmt("bench", "search", *size).stdout


def test_an_output_folder_that_is_not_there_is_told_before_measuring(cmt, tmp_path):
    done = cmt("bench", "ingest", "--output", tmp_path / "none" / "x.json", code=2)
    assert "does not exist" in done.stderr
