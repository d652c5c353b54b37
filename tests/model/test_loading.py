"""Loading an LM by hub id, by path, with devices and dtypes, as users do."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from cmt_memory import CMTGenerator, CMTModel
from cmt_memory.errors import InvalidInputError
from tests.tiny import DOCUMENTS, QUESTION, save_tiny, tiny_lm, tokenizer

ASK = """
import sys
from cmt_memory import CMTMemoryStore, CMTModel
model = CMTModel.from_llm("someone/tiny-qwen", ratio=4, latent=16)
with CMTMemoryStore(sys.argv[1], model, encoder=None) as store:
    store.add_documents([sys.argv[2]])
    answer = store.ask("What is the code of the blue locker?", max_new_tokens=8)
print(model.config.lm, answer.grounded, model.fingerprint["lm"], answer.text, sep="|")
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("lm")
    save_tiny(path, "qwen2", "chat")
    return path


def test_a_hub_id_is_loaded_from_the_hubs_cache(folder, tmp_path):
    """The layout that a download leaves, read with the network off."""
    snapshot = tmp_path / "hub" / "models--someone--tiny-qwen" / "snapshots" / "abc123"
    snapshot.mkdir(parents=True)
    for file in folder.iterdir():
        (snapshot / file.name).write_bytes(file.read_bytes())
    refs = tmp_path / "hub" / "models--someone--tiny-qwen" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc123")
    hub = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "CMT_CACHE": str(tmp_path)}
    command = [sys.executable, "-c", ASK, str(tmp_path / "store"), DOCUMENTS[0]]
    done = subprocess.run(
        command, env=os.environ | hub, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2]
    )
    name, grounded, digest, _ = done.stdout.strip().split("|")
    assert (name, grounded) == ("someone/tiny-qwen", "True")
    assert digest == CMTModel.from_llm(str(folder)).fingerprint["lm"]


@pytest.mark.parametrize(
    "how",
    [
        {"device": "cpu"},
        {"device_map": "cpu"},
        {"device_map": {"": "cpu"}},
        {"dtype": "bfloat16"},
        {"dtype": torch.float16},
        {"dtype": "auto"},
        {"attn_implementation": "eager"},
        {"attn_implementation": "sdpa"},
    ],
    ids=str,
)
def test_devices_dtypes_and_attention(folder, how):
    model = CMTModel.from_llm(str(folder), **how)
    expected = {"bfloat16": torch.bfloat16, torch.float16: torch.float16}.get(how.get("dtype"), torch.float32)
    assert model.lm.dtype == expected
    [memory] = model.compress(DOCUMENTS[:1])
    assert memory.slots.dtype == expected
    generator = CMTGenerator(model)
    memory_answer = generator.generate(QUESTION, [memory], max_new_tokens=12)
    assert memory_answer.usage.memory_slots == memory.n_tokens
    if expected == torch.float32:
        assert memory_answer.text == generator.generate(QUESTION, texts=DOCUMENTS[:1], max_new_tokens=12).text


def test_a_relative_folder_is_found_from_elsewhere(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(folder.parent)
    model = CMTModel.from_llm(folder.name, ratio=4, latent=16)
    model.save_pretrained(tmp_path / "cmt")
    monkeypatch.chdir(tmp_path)
    assert CMTModel.from_pretrained("cmt").fingerprint == model.fingerprint


def test_device_and_device_map_are_not_given_together(folder):
    with pytest.raises(InvalidInputError, match="device_map"):
        CMTModel.from_llm(str(folder), device="cpu", device_map="auto")


def test_a_copy_of_the_lm_keeps_the_files_dtype(folder, tmp_path):
    half = tmp_path / "half"
    tiny_lm("qwen2").to(torch.bfloat16).save_pretrained(half)
    tokenizer("chat").save_pretrained(half)
    model = CMTModel.from_llm(str(half), ratio=4, latent=16)
    assert model.lm.dtype == torch.float32
    model.save_pretrained(tmp_path / "cmt", include_lm=True)
    copied = tmp_path / "cmt" / "lm" / "model.safetensors"
    assert copied.stat().st_size == (half / "model.safetensors").stat().st_size
    assert CMTModel.from_pretrained(tmp_path / "cmt").fingerprint == model.fingerprint
