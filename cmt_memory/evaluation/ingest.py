"""Adding documents: tokens a second against the LM's bare forward pass, and bytes of what is kept."""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from cmt_memory.errors import InvalidInputError
from cmt_memory.evaluation.latency import RandomModel, random_lm, sentences
from cmt_memory.evaluation.measuring import machine, median, spread
from cmt_memory.model import CMTModel
from cmt_memory.model.modeling import length_batches
from cmt_memory.retrieval.encoders import resolve_encoder
from cmt_memory.store import CMTMemoryStore


@dataclass(frozen=True, slots=True)
class IngestSettings(RandomModel):
    """What to measure, beside a `RandomModel`.

    Args:
        slot_dtype: how slots are kept.
        documents: documents of a round.
        document_tokens: the LM's tokens in each, about.
        rounds: times that each way is measured, in turn.
    """

    slot_dtype: Literal["int8", "float16", "native"] = "int8"
    documents: int = 16
    document_tokens: int = 512
    rounds: int = 3

    def __post_init__(self) -> None:
        """Refuse what is not known."""
        RandomModel.__post_init__(self)
        if self.rounds < 1 or self.documents < 1 or self.document_tokens < 32:
            raise InvalidInputError("rounds and documents must be at least 1, document_tokens at least 32.")


def measure_ingest(settings: IngestSettings, on_round: Callable[[], None] | None = None) -> dict[str, Any]:
    """Add new documents through the whole path, and run the bare decoder over as many, in turn.

    The bare pass has the same tokens in the same batches, no vocabulary head and no cache.

    Args:
        settings: what to measure.
        on_round: called after each round.

    Returns:
        `tokens_per_s` of both ways, `share` (the store's over the bare pass's, by round, median), its `spread`, and
        what was measured on what.
    """
    ours, bare = [], []
    with _Made(settings) as made, made.store() as store:
        store.add_documents(made.documents(2))
        for _ in range(settings.rounds):
            texts = made.documents(settings.documents)
            tokens = sum(len(made.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
            bare.append(tokens / _bare(made.model, texts))
            started = time.perf_counter()
            store.add_documents(texts)
            ours.append(tokens / (time.perf_counter() - started))
            if on_round is not None:
                on_round()
        encoder = store.stats()["encoder"]
    shares = [a / b for a, b in zip(ours, bare, strict=True)]
    return {
        "tokens_per_s": {"store": median(ours, 1), "bare_forward": median(bare, 1)},
        "share": median(shares, 3),
        "spread": {"share": spread(shares, 3)},
        "settings": asdict(settings) | {"device": made.device, "encoder": encoder},
        "machine": machine(made.device),
    }


def measure_storage(settings: IngestSettings, on_round: Callable[[], None] | None = None) -> dict[str, Any]:
    """Add documents, `rounds` times as many, and see what the closed store takes after the first two and after all.

    Args:
        settings: what to measure.
        on_round: called after each round.

    Returns:
        `bytes_per_document` of payload, of the store (what each document adds to its folder), of text and of the
        full keys and values; `bytes_per_store`, which it takes once; and what was measured on what.
    """
    with _Made(settings) as made:
        with made.store() as store:
            store.add_documents(made.documents(2))
        small = made.on_disk()
        with made.store() as store:
            for _ in range(settings.rounds):
                store.add_documents(made.documents(settings.documents))
                if on_round is not None:
                    on_round()
            stats = store.stats()
        further = settings.rounds * settings.documents
        added = (made.on_disk() - small) / further
        model = made.model
    return {
        "bytes_per_document": {
            "payload": round(stats["payload_bytes"] / (further + 2)),
            "store": round(added),
            "text": round(stats["text_bytes"] / (further + 2)),
            "full_kv": settings.document_tokens * model.lm.layout.width * model.lm.dtype.itemsize,
        },
        "bytes_per_store": round(small - 2 * added),
        "settings": asdict(settings) | {"device": made.device, "encoder": stats["encoder"]},
        "machine": machine(made.device),
    }


class _Made:
    """A random model, documents for it, and a folder for a store, which goes at the end."""

    def __init__(self, settings: IngestSettings) -> None:
        self._settings, self._rng = settings, random.Random(0)
        self.device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
        lm, self.tokenizer = random_lm(settings.shape, settings.dtype, self.device)
        self.model = CMTModel.from_llm(
            lm, tokenizer=self.tokenizer, ratio=settings.ratio, latent=settings.latent, fit_on=self.documents(4)
        )
        self._folder = tempfile.TemporaryDirectory(prefix="cmt-memory-bench-", ignore_cleanup_errors=True)

    def documents(self, count: int) -> list[str]:
        tokens = self._settings.document_tokens - 2
        return [sentences(self._rng, self.tokenizer, tokens) for _ in range(count)]

    def store(self) -> CMTMemoryStore:
        return CMTMemoryStore(
            self._folder.name,
            self.model,
            encoder=resolve_encoder(self._settings.encoder),
            passage_tokens=self._settings.document_tokens,
            slot_dtype=self._settings.slot_dtype,
        )

    def on_disk(self) -> int:
        """Bytes of the closed store's files."""
        return sum(path.stat().st_size for path in Path(self._folder.name).rglob("*") if path.is_file())

    def __enter__(self) -> _Made:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()


@torch.no_grad()
def _bare(model: CMTModel, texts: Sequence[str]) -> float:
    """Seconds of the decoder's forward pass over the texts, in the batches that compressing takes."""
    lm = model.lm
    documents = [[*lm.prompt.head_ids, *lm.encode_document(text)] for text in texts]
    padded = []
    for batch in length_batches([len(ids) for ids in documents]):
        longest = max(len(documents[i]) for i in batch)
        padded.append(torch.tensor([documents[i] + [0] * (longest - len(documents[i])) for i in batch]))
    decoder = lm.model.get_decoder()
    started = time.perf_counter()
    for ids in padded:
        decoder(input_ids=ids.to(lm.device), use_cache=False)
    if lm.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started
