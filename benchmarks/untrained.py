"""What untrained compression keeps: pooled against kept positions, and latents of raw and scaled PCA, on real text.

    python benchmarks/untrained.py --llm cmt-tiny --texts squad-train-contexts.txt --output untrained.json

Texts are separated by form feeds or blank lines. Any LM and any text will do; nothing is trained or tuned.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from cmt_memory import CMTModel
from cmt_memory.model.agreement import next_token_agreement
from cmt_memory.model.latent import calibration_texts, collect_rows, fit_projection, rows_that_fit, take_tokens
from cmt_memory.model.parts import COMPRESSORS


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--llm", default="cmt-tiny")
    parser.add_argument("--texts", type=Path, required=True)
    parser.add_argument("--number", type=int, default=60, help="texts to use")
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--continuation", type=int, default=64)
    parser.add_argument("--ratios", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--latents", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    raw = options.texts.read_text("utf-8")
    texts = [t.strip() for t in raw.split("\f" if "\f" in raw else "\n\n")]
    length = 6 * (options.context + options.continuation)
    texts = [t for t in texts if len(t) >= length // 2][: options.number]
    base = CMTModel.from_llm(options.llm)
    lm = base.lm
    arms: list[tuple[dict[str, Any], CMTModel]] = []
    rows = collect_rows(lm, take_tokens(lm, calibration_texts(), rows_that_fit(lm.layout.width)))
    for size, scaled in product(options.latents, (False, True)):
        projection = fit_projection(rows.clone(), size, lm.layout.block_sizes(), scaled=scaled)
        facts = {"ratio": 1, "latent": size, "scaled": scaled, "variance": round(projection.variance_kept(rows), 4)}
        arms.append((facts, base.with_state(base.config.model_copy(update={"latent": size}), projection.tensors())))
    for ratio, name in product(options.ratios, COMPRESSORS):
        facts = {"ratio": ratio, "latent": "full", "compressor": name}
        arms.append((facts, CMTModel.from_llm(lm.model, tokenizer=lm.tokenizer, **facts)))
    results = []
    for facts, model in arms:
        measured = next_token_agreement(model, texts, context=options.context, continuation=options.continuation)
        row = facts | {name: round(value, 4) for name, value in asdict(measured).items()}
        row["share"] = round(measured.share, 4)
        print(json.dumps(row), flush=True)
        results.append(row)
    if options.output:
        facts = {
            "llm": options.llm,
            "texts": options.texts.name,
            "context": options.context,
            "torch": torch.__version__,
        }
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads()}
        options.output.write_text(json.dumps(facts | machine | {"rows": results}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
