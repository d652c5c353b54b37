"""The bundled model: small, stock, and as good from memories as from the text."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import cmt_memory
from cmt_memory import CMTGenerator, CMTMemoryStore, CMTModel

ASSETS = Path(cmt_memory.__file__).parent / "assets"
LINES = (ASSETS / "demo" / "documents.jsonl").read_text("utf-8").splitlines()
DOCUMENTS = {line["id"]: line["text"] for line in map(json.loads, LINES)}
QUESTIONS = [json.loads(line) for line in (ASSETS / "demo" / "questions.jsonl").read_text("utf-8").splitlines()]


def test_it_is_small_and_holds_no_pickle():
    files = [path for path in (ASSETS / "cmt-tiny").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 14e6
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".md"}


def test_it_is_a_stock_llama():
    config = json.loads((ASSETS / "cmt-tiny" / "lm" / "config.json").read_text("utf-8"))
    assert config["architectures"] == ["LlamaForCausalLM"]
    assert "auto_map" not in config


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda question: question["document"])
def test_lossless_memories_answer_as_the_text_does(question):
    model = CMTModel.from_llm("cmt-tiny")
    document = DOCUMENTS[question["document"]]
    generator = CMTGenerator(model)
    answer = generator.generate(question["question"], model.compress([document]), max_new_tokens=16)
    assert answer.text == generator.generate(question["question"], texts=[document], max_new_tokens=16).text


def test_the_bundled_checkpoint_is_the_default_model(tmp_path):
    saved = json.loads((ASSETS / "cmt-tiny" / "config.json").read_text("utf-8"))
    with CMTMemoryStore(tmp_path / "s", encoder=None) as store:
        assert store.model.config.lm == "cmt-tiny"
        assert store.model.fingerprint["lm"] == saved["fingerprint"]["lm"]
        assert store.model.config.latent == saved["latent"]
        store.add_documents(list(DOCUMENTS.values()))
        answer = store.ask(QUESTIONS[0]["question"], k=1, max_new_tokens=16)
        assert answer.grounded
        assert answer.usage.memory_slots > 0
    other = CMTModel.from_pretrained("cmt-tiny", ratio=4)
    assert other.config.ratio == 4
    assert other.compressor.name == CMTModel.from_llm("cmt-tiny", ratio=4).compressor.name
