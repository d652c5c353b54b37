"""Measure how well an LM answers from the text of synthetic fact documents, with real greedy generation.

``python benchmarks/lm_facts.py --model cmt_memory/assets/cmt-tiny/lm --output benchmarks/results/cmt_tiny_lm.json``

Every prompt is head + documents + question + tail, each segment tokenised apart. SQuAD validation comes from
``$CMT_DATA/squad/dev-1.1.json.gz`` (the public ``dev-v1.1.json``, gzipped) where that exists, and hand-written facts
from ``tests/data/handwritten_facts.jsonl``.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import os
import platform
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from cmt_memory.squad import normalise, token_f1
from cmt_memory.training.facts import FactWorld

TAIL = "\nAnswer:"
GATES = {"names": 0.95, "phrasings": 0.85, "one_of_four": 0.85}


@dataclass(frozen=True, slots=True)
class Case:
    """One question over documents, with the answers that count as right."""

    documents: tuple[str, ...]
    question: str
    answers: tuple[str, ...]
    kind: str


def fact_cases(name: str, questions: int) -> list[Case]:
    """Draw the cases of a gate from the evaluation pools; no seed of the training run is used."""
    split = "train" if name == "seen" else "eval"
    phrasings = "heldout" if name == "phrasings" else "train"
    count = 4 if name == "one_of_four" else 1
    cases: list[Case] = []
    index = 0
    while len(cases) < questions:
        world = FactWorld(random.Random(f"benchmark/{name}/{index}"), split, phrasings)
        index += 1
        documents = [world.document(8) for _ in range(count)]
        texts = tuple(d.text for d in documents)
        if name == "closed_book":
            cases += [Case((), q.text, (q.answer,), q.kind) for d in documents for q in d.questions]
        elif name == "unanswerable":
            cases += [Case(texts, q.text, (q.answer,), q.kind) for d in documents for q in d.unanswerable]
        elif count > 1:
            asked = [q for d in documents for q in d.questions]
            cases += [Case(texts, q.text, (q.answer,), q.kind) for q in random.Random(index).sample(asked, 8)]
        else:
            cases += [Case(texts, q.text, (q.answer,), q.kind) for d in documents for q in d.questions]
    return cases[:questions]


def squad_cases(path: Path, questions: int) -> list[Case]:
    """Return a seeded sample of SQuAD-validation questions with their paragraph."""
    articles = json.loads(gzip.decompress(path.read_bytes()))["data"]
    every = [
        Case((p["context"],), q["question"].strip(), tuple(a["text"] for a in q["answers"]), "squad")
        for article in articles
        for p in article["paragraphs"]
        for q in p["qas"]
    ]
    return random.Random(0).sample(every, min(questions, len(every)))


def handwritten_cases(path: Path) -> list[Case]:
    """Return the committed hand-written questions."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [
        Case((line["document"],), q["question"], (q["answer"],), "handwritten")
        for line in lines
        for q in line["questions"]
    ]


@torch.no_grad()
def answer(model: Any, tokenizer: Any, cases: Sequence[Case], new_tokens: int, batch: int = 16) -> list[str]:
    """Answer cases by greedy ``generate``, in batches of like length, padded on the left."""
    tail = tokenizer(TAIL, add_special_tokens=False)["input_ids"]

    def encode(text: str) -> list[int]:
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])

    prompts = []
    for case in cases:
        ids = [tokenizer.bos_token_id]
        for text in case.documents:
            ids += encode(f"{text}\n\n")
        prompts.append(ids + encode(case.question) + tail)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    texts = [""] * len(prompts)
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        width = max(len(prompts[i]) for i in chosen)
        ids = torch.full((len(chosen), width), tokenizer.pad_token_id)
        mask = torch.zeros_like(ids)
        for row, i in enumerate(chosen):
            ids[row, width - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, width - len(prompts[i]) :] = 1
        out = model.generate(
            input_ids=ids.to(model.device),
            attention_mask=mask.to(model.device),
            max_new_tokens=new_tokens,
            do_sample=False,
        )
        for row, i in enumerate(chosen):
            texts[i] = tokenizer.decode(out[row, width:], skip_special_tokens=True).strip()
    return texts


def score(cases: Sequence[Case], texts: Sequence[str], strict: bool) -> dict[str, Any]:
    """Return exact match (as it is written if ``strict``, else by SQuAD's rules), F1, an interval and kinds."""

    def exact(text: str, case: Case) -> bool:
        return text in case.answers if strict else normalise(text) in {normalise(a) for a in case.answers}

    right = [exact(text, case) for text, case in zip(texts, cases, strict=True)]
    share = sum(right) / len(right)
    margin = 1.96 * (share * (1 - share) / len(right)) ** 0.5
    kinds: dict[str, list[bool]] = collections.defaultdict(list)
    for ok, case in zip(right, cases, strict=True):
        kinds[case.kind].append(ok)
    result: dict[str, Any] = {"questions": len(cases), "exact_match": round(share, 4), "margin_95": round(margin, 4)}
    result["f1"] = round(sum(token_f1(t, c.answers) for t, c in zip(texts, cases, strict=True)) / len(cases), 4)
    if len(kinds) > 1:
        result["kinds"] = {k: {"n": len(v), "exact_match": round(sum(v) / len(v), 4)} for k, v in sorted(kinds.items())}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--questions", type=int, default=1000, help="questions of each gate")
    parser.add_argument("--squad-questions", type=int, default=500)
    parser.add_argument("--only", nargs="*", help="names of gates")
    parser.add_argument("--errors", type=Path, help="write wrong answers of the synthetic gates here")
    options = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=torch.float32).eval()
    started = time.perf_counter()
    names = ["names", "phrasings", "one_of_four", "seen", "unanswerable", "closed_book"]
    runs: dict[str, tuple[list[Case], bool, int]] = {n: (fact_cases(n, options.questions), True, 32) for n in names}
    squad = Path(os.environ.get("CMT_DATA", "data")) / "squad" / "dev-1.1.json.gz"
    if squad.exists():
        runs["squad_validation"] = (squad_cases(squad, options.squad_questions), False, 32)
    written = Path("tests/data/handwritten_facts.jsonl")
    if written.exists():
        runs["handwritten"] = (handwritten_cases(written), True, 32)
    results: dict[str, Any] = {}
    for name, (cases, strict, new_tokens) in runs.items():
        if options.only and name not in options.only:
            continue
        texts = answer(model, tokenizer, cases, new_tokens)
        results[name] = score(cases, texts, strict)
        if name in GATES:
            results[name] |= {"gate": GATES[name], "passes": results[name]["exact_match"] >= GATES[name]}
        print(name, json.dumps({k: v for k, v in results[name].items() if k != "kinds"}), flush=True)
        if options.errors and name not in ("handwritten", "squad_validation"):
            wrong = [(c, t) for c, t in zip(cases, texts, strict=True) if t not in c.answers]
            with options.errors.open("a", encoding="utf-8") as file:
                for case, text in wrong[:60]:
                    said = "~~".join(case.documents)
                    file.write(f"## {name}/{case.kind}\n{said}\nQ {case.question}\n= {case.answers[0]}\n? {text}\n\n")
    report = {
        "model": options.model,
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": "float32 computation on the stored bfloat16 weights",
        "decoding": "greedy generate, 32 new tokens at most",
        "environment": {
            "torch": torch.__version__,
            "python": platform.python_version(),
            "threads": torch.get_num_threads(),
        },
        "seconds": round(time.perf_counter() - started, 1),
        "results": results,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
