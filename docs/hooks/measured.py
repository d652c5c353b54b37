"""Tables of what benchmarks measured, one function for each kind of file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import results

Lines = tuple[tuple[str, ...], list[tuple[str, ...]]]


def table(name: str) -> str:
    """A table by its name, what was measured with which settings above it, and where it comes from below."""
    stems, made = TABLES[name]
    found = {stem: results.read(stem) for stem in stems if results.there(stem)}
    if not found:
        return results.absent(stems)
    header, lines = made(found)
    return f"{results.rows(header, lines)}\n\n{results.origin(list(found))}"


def _latency(found: dict[str, Any]) -> Lines:
    lines = []
    for one in found.values():
        spread = one["spread"]["ttft_ms"]
        times = [
            results.between(*(f"{ms:,.0f}" for ms in (one["ttft_ms"][mode], spread[mode]["p10"], spread[mode]["p90"])))
            for mode in ("none", "memory", "text")
        ]
        over = one["spread"]["text_over_memory"]
        ratio = results.between(*(f"{times:.1f}" for times in (one["text_over_memory"], over["p10"], over["p90"])))
        lines.append((_model(one), *times, ratio))
    return (
        ("LM", "question alone, ms", "with memories, ms", "with the text, ms", "text over memories"),
        sorted(lines),
    )


def _model(one: dict[str, Any]) -> str:
    settings = one["settings"]
    return f"Qwen2.5-{settings['shape'].upper()}'s shape, {settings['dtype']}, {settings['device']}"


def _settings(one: dict[str, Any]) -> str:
    """Of a model that memories are made by, and of its documents."""
    settings = one["settings"]
    return (
        f"{settings['documents']} documents of {settings['document_tokens']} tokens, ratio {settings['ratio']}, latent "
        f"{settings['latent']}"
    )


def _ingest(found: dict[str, Any]) -> Lines:
    lines = []
    for one in found.values():
        share = one["spread"]["share"]
        rates = one["tokens_per_s"]
        lines.append(
            (
                _model(one),
                _settings(one),
                f"{rates['store']:,.0f}",
                f"{rates['bare_forward']:,.0f}",
                results.between(*(f"{part:.0%}" for part in (one["share"], share["p10"], share["p90"]))),
            )
        )
    return ("LM", "documents", "tokens/s into the store", "the LM's forward pass alone", "share"), lines


def _storage(found: dict[str, Any]) -> Lines:
    [one] = found.values()
    each = one["bytes_per_document"]
    names = {
        "payload": "its memory",
        "store": "all it adds to the store's folder: memory, text, words, vector, index",
        "text": "its text",
        "full_kv": "its full keys and values",
    }
    settings = f"a document of {one['settings']['document_tokens']} tokens, ratio {one['settings']['ratio']}"
    lines = [(meaning, f"{each[name]:,.0f}") for name, meaning in names.items()]
    once = ("once for a store (most of it the latent's projection)", f"{one['bytes_per_store']:,.0f}")
    return (f"{settings}, latent {one['settings']['latent']}, {one['settings']['slot_dtype']}", "bytes"), [*lines, once]


def _search(found: dict[str, Any]) -> Lines:
    def both(one: dict[str, Any], name: str) -> str:
        return f"{one['search_ms'][name]['p50']:.1f} / {one['search_ms'][name]['p95']:.1f}"

    every = sorted(found.values(), key=lambda one: one["settings"]["memories"])
    questions = every[0]["settings"]["questions"]
    lines: list[tuple[str, ...]] = [
        ("search by vectors and words, median / p95, ms", *(both(one, "hybrid") for one in every)),
        ("search by vectors alone, ms", *(both(one, "dense") for one in every)),
        ("the first questions after opening, ms", *(both(one, "first") for one in every)),
        (f"recall of the {every[0]['settings']['k']} nearest", *(f"{one['recall']:.3f}" for one in every)),
        ("opening, s", *(f"{one['open_s']:.2f}" for one in every)),
        ("opening to the first hits, s", *(f"{one['first_search_s']:.1f}" for one in every)),
        ("index made anew, s", *(f"{one['rebuild_s']:,.0f}" for one in every)),
        ("peak memory, MB", *(f"{one['peak_rss_mb']:,}" for one in every)),
        ("store on disk, MB", *(f"{one['bytes']['disk_bytes']['total'] / 1e6:,.0f}" for one in every)),
    ]
    header = (f"{questions} questions", *(f"{one['settings']['memories']:,} memories" for one in every))
    return header, lines


def _untrained(found: dict[str, Any]) -> Lines:
    [one] = found.values()
    lines = []
    for arm in one["gates"]["names"]:
        low, high = arm["share_95"]
        lines.append(
            (
                _arm_name(arm),
                f"{arm['exact_match']:.3f}",
                results.between(*(f"{part:.2f}" for part in (arm["share_of_text"], low, high))),
            )
        )
    return (f"{one['questions']} questions, {one['model']}", "exact match", "share of the text's"), lines


def _arm_name(arm: dict[str, Any]) -> str:
    fixed = {"text": "text in the prompt", "none": "no document", "shuffled": "another document's memory"}
    if arm["arm"] in fixed:
        return fixed[arm["arm"]]
    latent = f'latent="{arm["latent"]}"' if arm["latent"] == "full" else f"latent={arm['latent']}"
    rest = ", ".join(str(arm[name]) for name in ("compressor", "slot_dtype") if name in arm)
    return f"ratio {arm['ratio']}, `{latent}`{', ' + rest if rest else ''}"


def _bundled(found: dict[str, Any]) -> Lines:
    [one] = found.values()
    meanings = {
        "names": "new names and values",
        "phrasings": "said in ways not seen in training",
        "one_of_four": "in one of four documents",
        "seen": "names seen in training",
        "unanswerable": "not in the document, and said so",
        "closed_book": "no document",
        "squad_validation": "SQuAD, validation",
        "handwritten": "documents written by hand",
    }
    lines = [
        (
            meanings.get(name, name.replace("_", " ")),
            f"{values['questions']:,}",
            f"{values['exact_match']:.1%} ± {values['margin_95']:.1%}",
            f"{values['f1']:.3f}",
        )
        for name, values in one["results"].items()
        if "exact_match" in values
    ]
    return ("questions on facts, from the text", "questions", "exact match", "token F1"), lines


def _confidence(found: dict[str, Any]) -> Lines:
    [one] = found.values()
    lines: list[tuple[str, ...]] = []
    for ratio, made in one["results"]["facts"]["ratios"].items():
        for arm, figures in made["arms"].items():
            read, back = figures["read_text"], figures["recovered"]
            right = results.between(*(f"{figures['em'][end]:.1%}" for end in ("value", "low", "high")))
            lines.append((f"ratio {ratio}, {arm}", right, f"{read:.0%}", "–" if back is None else f"{back:.0%}"))
        lines.append((f"ratio {ratio}, calibration error", f"{made['confidence']['ece']:.1%}", "", ""))
        for name, figures in made["confidence"]["auroc"].items():
            lines.append((f"ratio {ratio}, AUROC, {name}", _auroc(figures), "", ""))
    for name, figures in one["results"].get("squad", {}).get("auroc", {}).items():
        lines.append((f"SQuAD, AUROC, {name}", _auroc(figures), "", ""))
    return ("held-out questions", "right, or figure", "text read for", "of the loss recovered"), lines


def _auroc(figures: dict[str, float]) -> str:
    return results.between(*(f"{figures[end]:.2f}" for end in ("value", "low", "high")))


def _kills(found: dict[str, Any]) -> Lines:
    [one] = found.values()
    phases = ", ".join(f"{count} in {phase}" for phase, count in one["by_phase"].items())
    names = {
        "acknowledged_changes": "changes that had been acknowledged",
        "documents_checked": "documents compared afterwards",
        "openings_that_repaired": "openings that had something to put right",
        "of_these_rebuilds": "of these, index made anew",
        "interrupted_recompressions_finished": "interrupted recompressions taken up and finished",
    }
    lines: list[tuple[str, ...]] = [(f"kills ({phases})", f"{one['kills']:,}")]
    lines += [(meaning, f"{one[name]:,}") for name, meaning in names.items()]
    return ("soak", "count"), [*lines, ("changes or documents lost or damaged", f"{len(one['failures'])}")]


def _step(found: dict[str, Any]) -> Lines:
    lines = []
    for one in found.values():
        settings = one["settings"]
        what = (
            f"{_model(one)}, batch {settings['batch']}, {settings['document_tokens']} tokens, ratio {settings['ratio']}"
        )
        for attention in ("sdpa", "eager"):
            took = one[attention]
            lines.append(
                (
                    what,
                    attention,
                    f"{took['step_s']:.2f}",
                    f"{took['document_tokens_per_s']:,}",
                    f"{took['tflops']:.2f}",
                )
            )
    return ("LM", "attention", "s a step", "document tokens/s", "TFLOP/s"), lines


TABLES: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any]], Lines]]] = {
    "cmt_tiny_lm": (("cmt_tiny_lm",), _bundled),
    "confidence": (("confidence",), _confidence),
    "facts_memory": (("facts_memory",), _untrained),
    "ingest": (("ingest",), _ingest),
    "latency": (("latency_0.5b_fp32", "latency_0.5b_bf16"), _latency),
    "search": (("search_100k", "search_1m"), _search),
    "soak_kills": (("soak_kills",), _kills),
    "storage": (("storage",), _storage),
    "training_step": (("training_step_0.5b_cpu",), _step),
}
"""Which files a table is made of, and how."""
