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
        `tokens_per_s` of both ways, `share` (the store's over the bare pass's, by round, median), its `spread`,
        `bytes_per_document` of payload, whole store, text and the full keys and values, and what was measured on what.
    """
    rng = random.Random(0)
    device = settings.device or ("cuda" if torch.cuda.is_available() else "cpu")
    lm, tokenizer = random_lm(settings.shape, settings.dtype, device)

    def documents() -> list[str]:
        return [sentences(rng, tokenizer, settings.document_tokens - 2) for _ in range(settings.documents)]

    model = CMTModel.from_llm(
        lm, tokenizer=tokenizer, ratio=settings.ratio, latent=settings.latent, fit_on=documents()[:4]
    )
    ours, bare = [], []
    with tempfile.TemporaryDirectory(prefix="cmt-memory-bench-", ignore_cleanup_errors=True) as folder:
        with CMTMemoryStore(
            folder,
            model,
            encoder=resolve_encoder(settings.encoder),
            passage_tokens=settings.document_tokens,
            slot_dtype=settings.slot_dtype,
        ) as store:
            store.add_documents(documents()[:2])
            for _ in range(settings.rounds):
                texts = documents()
                tokens = sum(len(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
                bare.append(tokens / _bare(model, texts))
                started = time.perf_counter()
                store.add_documents(texts)
                ours.append(tokens / (time.perf_counter() - started))
                if on_round is not None:
                    on_round()
            stats = store.stats()
        on_disk = sum(path.stat().st_size for path in Path(folder).rglob("*") if path.is_file())
    shares = [a / b for a, b in zip(ours, bare, strict=True)]
    kept = settings.rounds * settings.documents + 2
    return {
        "tokens_per_s": {"store": median(ours, 1), "bare_forward": median(bare, 1)},
        "share": median(shares, 3),
        "spread": {"share": spread(shares, 3)},
        "bytes_per_document": {
            "payload": round(stats["payload_bytes"] / kept),
            "store": round(on_disk / kept),
            "text": round(stats["text_bytes"] / kept),
            "full_kv": settings.document_tokens * model.lm.layout.width * model.lm.dtype.itemsize,
        },
        "settings": asdict(settings) | {"device": device, "encoder": stats["encoder"]},
        "machine": machine(device),
    }


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
