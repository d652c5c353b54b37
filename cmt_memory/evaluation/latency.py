"""Time to first token with memories, with text and with nothing, at a real model's size."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast, Qwen2Config

from cmt_memory.documents import Mode
from cmt_memory.errors import CMTError, InvalidInputError
from cmt_memory.evaluation.measuring import machine, median, spread
from cmt_memory.model import CMTModel
from cmt_memory.model.latent import calibration_texts
from cmt_memory.model.memory import Memory
from cmt_memory.retrieval.encoders import Encoder, Vectors, resolve_encoder
from cmt_memory.store import CMTMemoryStore

MODES: tuple[Mode, ...] = ("none", "memory", "text")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHAPES: dict[str, dict[str, Any]] = {
    "0.5b": {
        "hidden_size": 896,
        "num_hidden_layers": 24,
        "num_attention_heads": 14,
        "num_key_value_heads": 2,
        "intermediate_size": 4864,
        "vocab_size": 151_936,
        "tie_word_embeddings": True,
    },
    "7b": {
        "hidden_size": 3584,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "intermediate_size": 18_944,
        "vocab_size": 152_064,
        "tie_word_embeddings": False,
    },
    "tiny": {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 128,
        "vocab_size": 4096,
        "tie_word_embeddings": True,
    },
}
"""Qwen2.5-0.5B's and 7B's shapes, from their published configurations, and one for tests."""

_TEXT_VOCABULARY = 4000
_QUESTION_TOKENS = (16, 20)
_STAGES = ("encode", "search", "load", "prefix", "forward")


@dataclass(frozen=True, slots=True)
class RandomModel:
    """The LM of a measurement, and how it compresses.

    Args:
        shape: a key of `SHAPES`; the weights are random, which takes as long as trained ones.
        dtype: a key of `DTYPES`.
        device: where the LM runs; a CUDA device if there is one, unless given.
        ratio: document tokens per slot.
        latent: numbers per slot.
        encoder: retrieval encoder, as `CMTMemoryStore` takes it.
    """

    shape: str = "0.5b"
    dtype: str = "float32"
    device: str | None = None
    ratio: int = 16
    latent: int | Literal["full"] = 256
    encoder: str | None = "auto"

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        for name, value, known in (("shape", self.shape, SHAPES), ("dtype", self.dtype, DTYPES)):
            if value not in known:
                raise InvalidInputError(f"{name} must be one of {', '.join(known)}, not {value!r}.")


@dataclass(frozen=True, slots=True)
class LatencySettings(RandomModel):
    """What to measure, beside a `RandomModel`.

    Args:
        documents: documents in the store and in every answer.
        document_tokens: the LM's tokens in each, about.
        repetitions: distinct questions, each asked once in each mode.
    """

    documents: int = 4
    document_tokens: int = 512
    repetitions: int = 20

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        RandomModel.__post_init__(self)
        if self.repetitions < 1 or self.documents < 1 or self.document_tokens < 32:
            raise InvalidInputError("repetitions and documents must be at least 1, document_tokens at least 32.")


def measure_latency(settings: LatencySettings, on_question: Callable[[], None] | None = None) -> dict[str, Any]:
    """Ask distinct questions in every mode, in turn, and time the first token.

    The clock runs from the question's text to the first token's id: question encoder, search, reading memories from
    the store on disk, their way to keys and values, and the LM. No assembled prefix is kept between questions. The
    order of modes rotates, and ratios are taken question by question, so that a machine that slows down slows all.

    Args:
        settings: what to measure.
        on_question: called after each question.

    Returns:
        `ttft_ms` by mode, `text_over_memory` and `memory_over_none` (medians), `spread` with their 10th and 90th
        percentiles, `breakdown_ms` of the memory mode by stage (medians), and what was measured on what.

    Raises:
        CMTError: the encoder cannot be loaded, or a question did not find every document.
    """
    rng = random.Random(0)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    lm, tokenizer = random_lm(settings.shape, settings.dtype, device)
    documents = [sentences(rng, tokenizer, settings.document_tokens - 2) for _ in range(settings.documents)]
    questions = [_question(rng, tokenizer) for _ in range(settings.repetitions + 1)]
    model = CMTModel.from_llm(lm, tokenizer=tokenizer, ratio=settings.ratio, latent=settings.latent, fit_on=documents)
    with tempfile.TemporaryDirectory(prefix="cmt-memory-bench-", ignore_cleanup_errors=True) as folder:
        encoder = _timed(resolve_encoder(settings.encoder))
        with CMTMemoryStore(folder, model, encoder=encoder, passage_tokens=settings.document_tokens) as store:
            store.add_documents(documents)
            source = TimedSource(store)
            store.generator.source = source
            _one_question(store, questions[0], MODES, encoder, source)
            asked = []
            for number, question in enumerate(questions[1:]):
                first = number % len(MODES)
                order = (*MODES[first:], *MODES[:first])
                asked.append(_one_question(store, question, order, encoder, source))
                if on_question is not None:
                    on_question()
            stats = store.stats()
    return _report(settings, asked, stats, device)


def random_lm(shape: str, dtype: str, device: str) -> tuple[Any, PreTrainedTokenizerFast]:
    """A Qwen2 model of a published shape with random weights, and a tokenizer of its vocabulary's size.

    The tokenizer is a byte-level BPE trained on the text shipped with the package, so that its tokens are about as
    long as real ones; the rest of the vocabulary is filled up.
    """
    size = SHAPES[shape]["vocab_size"]
    tokenizer = _tokenizer(size)
    config = Qwen2Config(
        **SHAPES[shape],
        max_position_embeddings=32_768,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=DTYPES[dtype])
    return model.eval(), tokenizer


def _tokenizer(size: int) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=min(_TEXT_VOCABULARY, size),
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(calibration_texts(), trainer)
    state = json.loads(core.to_str())
    vocabulary = state["model"]["vocab"]
    vocabulary |= {f"<unused{number}>": number for number in range(len(vocabulary), size)}
    full = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(tokenizer_object=full, bos_token="<s>", eos_token="</s>")


def sentences(rng: random.Random, tokenizer: PreTrainedTokenizerFast, tokens: int, start: str = "The") -> str:
    """Words of the shipped text in random order, as sentences, `tokens` of them or a few less."""
    known = [word for text in calibration_texts() for word in text.split() if word.isalpha()]
    text = start
    while True:
        longer = f"{text} {rng.choice(known)}" + ("." if rng.random() < 0.1 else "")
        if len(tokenizer.encode(longer, add_special_tokens=False)) >= tokens:
            return text + "."
        text = longer


def _question(rng: random.Random, tokenizer: PreTrainedTokenizerFast) -> str:
    while True:
        asked = sentences(rng, tokenizer, _QUESTION_TOKENS[1], start="What is the").replace(".", "") + "?"
        if len(tokenizer.encode(asked)) in range(_QUESTION_TOKENS[0], _QUESTION_TOKENS[1] + 1):
            return asked


class TimedEncoder:
    """An encoder that counts its seconds on questions.

    Args:
        encoder: the encoder.
    """

    def __init__(self, encoder: Encoder) -> None:
        self._encoder = encoder
        self.id, self.dimension = encoder.id, encoder.dimension
        self.seconds = 0.0

    def encode_documents(self, texts: Sequence[str]) -> Vectors:
        """As the encoder does."""
        return self._encoder.encode_documents(texts)

    def encode_query(self, text: str) -> Vectors:
        """As the encoder does, on the clock."""
        started = time.perf_counter()
        vector = self._encoder.encode_query(text)
        self.seconds += time.perf_counter() - started
        return vector


class TimedSource:
    """A store that counts the seconds of finding and reading memories.

    Args:
        store: the store.
    """

    def __init__(self, store: CMTMemoryStore) -> None:
        self._store = store
        self.seconds = 0.0

    def memory_keys(self, passages: Sequence[str]) -> list[str]:
        """As the store does, on the clock."""
        started = time.perf_counter()
        keys = self._store.memories.memory_keys(passages)
        self.seconds += time.perf_counter() - started
        return keys

    def load_memories(self, passages: Sequence[str]) -> list[Memory]:
        """As the store does, on the clock."""
        started = time.perf_counter()
        memories = self._store.memories.load_memories(passages)
        self.seconds += time.perf_counter() - started
        return memories


def _timed(encoder: Encoder | None) -> TimedEncoder | None:
    return None if encoder is None else TimedEncoder(encoder)


def _one_question(
    store: CMTMemoryStore,
    question: str,
    order: Sequence[Mode],
    encoder: TimedEncoder | None,
    source: TimedSource,
) -> dict[str, Any]:
    """Milliseconds to the first token by mode, and the memory mode's stages."""
    took: dict[str, Any] = {"question_tokens": len(store.model.lm.tokenizer.encode(question))}
    for mode in order:
        store.generator.prefixes.clear()
        before = (0.0 if encoder is None else encoder.seconds, source.seconds)
        answer = store.ask(question, k=len(store), mode=mode, max_new_tokens=1)
        if mode != "none" and len(answer.hits) != len(store):
            raise CMTError(f"The question {question!r} used {len(answer.hits)} of {len(store)} documents.")
        timings = answer.timings
        took[mode] = 1000 * timings["first_token"]
        took[f"{mode}_prompt_tokens"] = answer.usage.prompt_tokens
        if mode == "memory":
            encoding = 0.0 if encoder is None else encoder.seconds - before[0]
            loading = source.seconds - before[1]
            took["memory_slots"] = answer.usage.memory_slots
            seconds = {
                "encode": encoding,
                "search": timings["search"] - encoding,
                "load": loading,
                "prefix": timings["prefix"] - loading,
                "forward": timings["first_token"] - timings["search"] - timings["prefix"],
            }
            took["stages"] = {stage: 1000 * seconds[stage] for stage in _STAGES}
    return took


def _report(
    settings: LatencySettings, asked: list[dict[str, Any]], stats: dict[str, Any], device: str
) -> dict[str, Any]:
    times = {mode: [row[mode] for row in asked] for mode in MODES}
    ratios = {
        "text_over_memory": [row["text"] / row["memory"] for row in asked],
        "memory_over_none": [row["memory"] / row["none"] for row in asked],
    }
    return {
        "ttft_ms": {mode: median(values, 2) for mode, values in times.items()},
        **{name: median(values, 3) for name, values in ratios.items()},
        "spread": {
            "ttft_ms": {mode: spread(values, 2) for mode, values in times.items()},
            **{name: spread(values, 3) for name, values in ratios.items()},
        },
        "breakdown_ms": {stage: median([row["stages"][stage] for row in asked], 2) for stage in _STAGES},
        "prompt_tokens": {mode: median([row[f"{mode}_prompt_tokens"] for row in asked], 1) for mode in MODES},
        "memory_slots": median([row["memory_slots"] for row in asked], 1),
        "question_tokens": [min(r["question_tokens"] for r in asked), max(r["question_tokens"] for r in asked)],
        "bytes_per_document": {
            "memory": round(stats["payload_bytes"] / settings.documents),
            "text": round(stats["text_bytes"] / settings.documents),
        },
        "settings": asdict(settings) | {"device": device, "encoder": stats["encoder"]},
        "machine": machine(device),
    }
