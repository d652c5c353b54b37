"""The same fact questions from memories and from text: what each setting keeps, nothing trained.

    python benchmarks/facts_memory.py --model cmt-tiny --output benchmarks/results/facts_memory.json

Held-out names and values, 8 facts, one document; every arm has the same LM, questions, prompts and greedy decoding.
`shuffled` injects another document's memory, `none` nothing.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lm_facts import Case, fact_cases

from cmt_memory import CMTGenerator, CMTModel
from cmt_memory.bank.codec import SlotDtype, decode_memory, encode_memory
from cmt_memory.model import Memory

BATCH = 16
SETTINGS: list[dict[str, Any]] = [
    {"ratio": 1, "latent": "full"},
    {"ratio": 1, "latent": 256},
    {"ratio": 1, "latent": 256, "slot_dtype": "float16"},
    {"ratio": 1, "latent": 256, "slot_dtype": "int8"},
    {"ratio": 1, "latent": 128},
    {"ratio": 2, "compressor": "pooled", "latent": "full"},
    {"ratio": 2, "compressor": "kept", "latent": "full"},
    {"ratio": 4, "compressor": "pooled", "latent": "full"},
    {"ratio": 4, "compressor": "kept", "latent": "full"},
    {"ratio": 8, "compressor": "pooled", "latent": "full"},
    {"ratio": 8, "compressor": "kept", "latent": "full"},
    {"ratio": 16, "compressor": "pooled", "latent": "full"},
    {"ratio": 16, "compressor": "kept", "latent": "full"},
]


def right_answers(
    model: CMTModel, cases: Sequence[Case], memories: Sequence[Sequence[Memory]] | None, texts: bool = False
) -> list[bool]:
    """Whether each case is answered exactly, in batches; memories or texts may be missing."""
    generator = CMTGenerator(model, prefix_cache_bytes=0)
    right = []
    for start in range(0, len(cases), BATCH):
        some = cases[start : start + BATCH]
        completions = generator.batch(
            [case.question for case in some],
            None if memories is None else memories[start : start + BATCH],
            texts=[case.documents for case in some] if texts else None,
            max_new_tokens=32,
        )
        right += [done.text in case.answers for done, case in zip(completions, some, strict=True)]
    return right


def compressed(model: CMTModel, cases: Sequence[Case], slot_dtype: SlotDtype = "native") -> list[list[Memory]]:
    """Memories of each case's documents as a store keeps them; a document of several cases is compressed once."""
    distinct = list(dict.fromkeys(text for case in cases for text in case.documents))
    kept = [encode_memory(m.slots, m.positions, m.n_tokens, slot_dtype) for m in model.compress(distinct)]
    memories = dict(zip(distinct, map(decode_memory, kept), strict=True))
    return [[memories[text] for text in case.documents] for case in cases]


def compare(right: Sequence[bool], text: Sequence[bool], none: Sequence[bool]) -> dict[str, Any]:
    """Exact match, share of the text arm's with a paired bootstrap interval, and the normalised share."""
    ours, theirs, bare = (np.array(given, float) for given in (right, text, none))
    draws = np.random.default_rng(0).integers(0, len(ours), (2000, len(ours)))
    shares = ours[draws].mean(1) / np.maximum(theirs[draws].mean(1), 1e-9)
    low, high = np.percentile(shares, [2.5, 97.5])
    return {
        "exact_match": round(float(ours.mean()), 4),
        "share_of_text": round(float(ours.mean() / theirs.mean()), 4),
        "share_95": [round(float(low), 4), round(float(high), 4)],
        "share_normalised": round(float((ours.mean() - bare.mean()) / (theirs.mean() - bare.mean())), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="cmt-tiny", help="name or folder of an LM")
    parser.add_argument("--questions", type=int, default=1000)
    parser.add_argument("--gates", nargs="+", default=["names", "one_of_four"])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    started = time.perf_counter()
    base = CMTModel.from_llm(options.model)
    report: dict[str, Any] = {}
    for gate in options.gates:
        cases = fact_cases(gate, options.questions)
        text = right_answers(base, cases, None, texts=True)
        none = right_answers(base, cases, None)
        rows: list[dict[str, Any]] = [
            {"arm": "text", **compare(text, text, none)},
            {"arm": "none", **compare(none, text, none)},
        ]
        for setting in SETTINGS:
            shape = {name: value for name, value in setting.items() if name != "slot_dtype"}
            model = CMTModel.from_llm(base.lm.model, tokenizer=base.lm.tokenizer, **shape)
            memories = compressed(model, cases, setting.get("slot_dtype", "native"))
            rows.append(setting | {"arm": "memory", **compare(right_answers(model, cases, memories), text, none)})
            if setting == SETTINGS[0]:
                shuffled = memories[8:] + memories[:8]
                rows.append(setting | {"arm": "shuffled", **compare(right_answers(model, cases, shuffled), text, none)})
            print(gate, json.dumps(rows[-1]), flush=True)
        report[gate] = rows
    facts = {
        "model": options.model,
        "questions": options.questions,
        "torch": torch.__version__,
        "machine": platform.machine(),
        "threads": torch.get_num_threads(),
        "seconds": round(time.perf_counter() - started),
    }
    if options.output:
        options.output.write_text(json.dumps(facts | {"gates": report}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
