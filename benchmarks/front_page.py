"""Writes the README's tables from `benchmarks/results`, so that no figure of the front page is typed.

python -m benchmarks.front_page
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent.parent / "README.md"
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end of table -->)", re.DOTALL)


def _read(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text("utf-8"))
    return found


def _table(*rows: tuple[str, ...]) -> str:
    head, *body = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [head, ("---",) * len(head), *body])


def costs() -> str:
    """What a question and a document cost, as text and as memories."""
    measured, stored = _read("latency_0.5b_fp32"), _read("storage")["bytes_per_document"]
    times, settings, prompt = measured["ttft_ms"], measured["settings"], measured["prompt_tokens"]
    slots = measured["memory_slots"]
    return _table(
        (
            f"{settings['documents']} passages of {settings['document_tokens']} tokens before a question",
            "text in the prompt",
            f"memories, ratio {settings['ratio']}",
            "neither",
        ),
        ("time to the first token", *(f"{times[mode]:,.0f} ms" for mode in ("text", "memory", "none"))),
        (
            "positions in the context",
            f"{prompt['text']:,.0f}",
            f"{prompt['memory'] + slots:,.0f}",
            f"{prompt['none']:,.0f}",
        ),
        ("bytes of a passage", f"{stored['text']:,}", f"{stored['payload']:,}", "0"),
    )


def answers() -> str:
    """How many questions are answered right from memories of each kind, and the share of the text's."""
    measured = _read("facts_memory")
    rows = [("", f"right of {measured['questions']} questions", "share of the text's")]
    for found in measured["gates"]["names"]:
        label = _label(found)
        if label:
            rows.append((label, f"{found['exact_match']:.1%}", f"{found['share_of_text']:.0%}"))
    if (RESULTS / "facts.json").exists():
        rows += _trained(_read("facts"))
    return _table(*rows)


def _label(found: dict[str, Any]) -> str | None:
    """What a row without training is called; None where the front page leaves it out."""
    if found["arm"] in ("text", "none"):
        return {"text": "text in the prompt", "none": "neither"}[found["arm"]]
    if found["arm"] != "memory" or "slot_dtype" in found:
        return None
    match found["ratio"], found["latent"], found.get("compressor"):
        case 1, "full" | 256 as latent, None:
            return f"memory, ratio 1, `latent={json.dumps(latent)}`"
        case 4 as ratio, "full", "kept":
            return f"memory, ratio {ratio}, without training"
    return None


def _trained(results: dict[str, Any]) -> list[tuple[str, ...]]:
    """Rows of a trained compressor before the document that answers, as `cmt-memory eval` has measured it."""
    asked = results["data"]["questions"]
    return [
        (
            f"memory, ratio {found['ratio']}, trained, another LM ({asked:,} questions in unseen wordings)",
            f"{found['arms']['oracle_memory']['em']['value']:.1%}",
            f"{found['share_kept']['oracle_memory']['em']['raw']['value']:.0%}",
        )
        for found in results["results"]
        if found["ratio"] > 1
    ]


TABLES: dict[str, Callable[[], str]] = {"costs": costs, "answers": answers}


def written(page: str) -> str:
    """A page with its tables as they are measured now."""
    return _TABLE.sub(lambda found: found[1] + TABLES[found[2]]() + "\n" + found[3], page)


if __name__ == "__main__":
    README.write_text(written(README.read_text("utf-8")), "utf-8")
