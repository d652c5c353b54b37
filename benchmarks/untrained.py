"""What untrained compression keeps: pooled against kept positions, and sizes of the latent, on real text.

    python benchmarks/untrained.py --llm cmt-tiny --texts squad-train-contexts.txt --output untrained.json

Texts are separated by form feeds or blank lines. Any LM and any text will do; nothing is trained or tuned.
"""

from __future__ import annotations

import argparse
import json
import platform
from dataclasses import asdict
from pathlib import Path

import torch

from cmt_memory import CMTModel
from cmt_memory.model.agreement import next_token_agreement


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
    settings = [{"ratio": 1, "latent": size} for size in options.latents]
    settings += [
        {"ratio": ratio, "latent": "full", "compressor": name}
        for ratio in options.ratios
        for name in ("pooled", "kept")
    ]
    base = CMTModel.from_llm(options.llm)
    rows = []
    for setting in settings:
        model = CMTModel.from_llm(base.lm.model, tokenizer=base.lm.tokenizer, **setting)
        measured = next_token_agreement(model, texts, context=options.context, continuation=options.continuation)
        row = setting | {name: round(value, 4) for name, value in asdict(measured).items()}
        row["share"] = round(measured.share, 4)
        print(json.dumps(row), flush=True)
        rows.append(row)
    if options.output:
        facts = {
            "llm": options.llm,
            "texts": options.texts.name,
            "context": options.context,
            "torch": torch.__version__,
        }
        machine = {"machine": platform.machine(), "threads": torch.get_num_threads()}
        options.output.write_text(json.dumps(facts | machine | {"rows": rows}, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
