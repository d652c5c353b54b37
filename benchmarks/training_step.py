"""A training step of the compressor at a real model's size: tokens a second, and the share of the device's peak.

    python benchmarks/training_step.py --shape 0.5b --peak-tflops 989 --output benchmarks/results/training_step.json

The LM has a published shape and random weights; documents and questions are random tokens, so every batch is as long as
it is said to be. Both attentions take the same steps in turn, and `eager_over_sdpa` is their ratio. Floating point
operations are counted as 4 for each weight and token that reader and LM see (forward, and backward to the activations:
frozen weights have no gradient) plus those of attention, the adapters and the maps left out, so the share of the peak
is a little too low.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from pathlib import Path
from typing import Any

import torch

from cmt_memory import CMTModel
from cmt_memory.evaluation.latency import DTYPES, SHAPES, random_lm
from cmt_memory.evaluation.measuring import machine, median, spread
from cmt_memory.model.config import AdapterConfig
from cmt_memory.model.latent import calibration_texts
from cmt_memory.model.parts import start_parts
from cmt_memory.training.config import Objectives, Stage
from cmt_memory.training.learner import Learner
from cmt_memory.training.units import AnswerUnit, Row

ATTENTIONS = ("sdpa", "eager")
QUESTION_TOKENS, ANSWER_TOKENS = 20, 6


def learner_of(options: argparse.Namespace, device: str) -> Learner:
    """Parts to be trained around an LM with random weights."""
    lm, tokenizer = random_lm(options.shape, options.dtype, device)
    base = CMTModel.from_llm(lm, tokenizer=tokenizer, ratio=1)
    latent = min(options.latent, base.lm.layout.width)
    settings = {"ratio": options.ratio, "latent": latent, "compressor": "adapted", "adapter": AdapterConfig()}
    made = base.config.model_copy(update=settings | {"fingerprint": {}})
    parts = start_parts(base.lm, made, [options.ratio], calibration_texts())
    model = CMTModel(base.lm, made, parts.compressor, parts.aggregator, parts.aligner)
    return Learner(model, Objectives(), options.batch * options.document_tokens)


def unit_of(options: argparse.Namespace, rng: random.Random, vocabulary: int) -> AnswerUnit:
    """Random documents, each with questions about it alone."""

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.randrange(300, min(vocabulary, 4000)) for _ in range(count))

    documents = tuple(tokens(options.document_tokens) for _ in range(options.batch))
    rows = [
        Row((at,), (at,), (), tokens(QUESTION_TOKENS), tokens(ANSWER_TOKENS))
        for at in range(options.batch)
        for _ in range(options.questions)
    ]
    return AnswerUnit(options.ratio, documents, tuple(rows))


def operations(options: argparse.Namespace, learner: Learner) -> float:
    """Floating point operations of a step."""
    shape = SHAPES[options.shape]
    weights = sum(p.numel() for p in learner.model.lm.decoder.parameters())
    embedding = shape["vocab_size"] * shape["hidden_size"]
    per_token = weights - embedding
    read, asked = options.batch * options.document_tokens, options.batch * options.questions
    prefix = options.document_tokens / options.ratio
    length = QUESTION_TOKENS + ANSWER_TOKENS
    attention = 2 * shape["num_hidden_layers"] * shape["hidden_size"]
    seen = read * options.document_tokens + asked * length * (prefix + length / 2)
    linear = 4 * (per_token * (read + asked * length) + embedding * asked * ANSWER_TOKENS)
    return linear + 3 * attention * 2 * seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="0.5b")
    parser.add_argument("--dtype", choices=DTYPES, default="bfloat16")
    parser.add_argument("--device", help="a CUDA device if there is one, unless given")
    parser.add_argument("--batch", type=int, default=8, help="documents of a step")
    parser.add_argument("--questions", type=int, default=2, help="questions about each document")
    parser.add_argument("--document-tokens", type=int, default=512)
    parser.add_argument("--ratio", type=int, default=8)
    parser.add_argument("--latent", type=int, default=256)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--peak-tflops", type=float, help="the device's peak in this dtype, for its share")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    learner = learner_of(options, device)
    learner.choose(Stage(task="answers", steps=1))
    optimizer = torch.optim.AdamW(list(learner.chosen()), lr=1e-4)
    rng = random.Random(0)
    half = options.dtype != "float32"

    def step(attention: str, unit: AnswerUnit) -> float:
        learner.model.lm.model.set_attn_implementation(attention)
        started = time.perf_counter()
        with torch.autocast(device.partition(":")[0], DTYPES[options.dtype] if half else None, enabled=half):
            loss = learner(unit)["loss"]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        loss.item()  # waits for the device
        return time.perf_counter() - started

    units = [unit_of(options, rng, SHAPES[options.shape]["vocab_size"]) for _ in range(options.steps + 2)]
    seconds: dict[str, list[float]] = {attention: [] for attention in ATTENTIONS}
    for number, unit in enumerate(units):
        for attention in ATTENTIONS if number % 2 else ATTENTIONS[::-1]:
            took = step(attention, unit)
            if number >= 2:
                seconds[attention].append(took)
    needed = operations(options, learner)
    report: dict[str, Any] = {}
    for attention, took in seconds.items():
        rate = needed / (sum(took) / len(took)) / 1e12
        report[attention] = {
            "step_s": median(took, 4),
            "spread_s": spread(took, 4),
            "document_tokens_per_s": round(options.batch * options.document_tokens * len(took) / sum(took)),
            "tflops": round(rate, 3),
            **({"model_flops_utilisation": round(rate / options.peak_tflops, 4)} if options.peak_tflops else {}),
        }
    ratios = [eager / sdpa for eager, sdpa in zip(seconds["eager"], seconds["sdpa"], strict=True)]
    report["eager_over_sdpa"] = {"median": median(ratios, 3), "spread": spread(ratios, 3)}
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    report |= {"settings": settings | {"device": device}, "machine": machine(device)}
    text = json.dumps(report, indent=2)
    print(text)
    if options.output:
        options.output.write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
