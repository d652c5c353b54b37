"""Committed results: reading them, single values, and the line that says where they come from."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[2] / "benchmarks" / "results"

COMMANDS = {
    "cmt_tiny_lm": "python benchmarks/lm_facts.py --model cmt_memory/assets/cmt-tiny/lm --output {file}",
    "facts_memory": "python benchmarks/facts_memory.py --model cmt-tiny --questions 160 --gates names --output {file}",
    "ingest": "cmt-memory bench ingest --output {file}",
    "latency_0.5b_bf16": "cmt-memory bench latency --dtype bfloat16 --output {file}",
    "latency_0.5b_fp32": "cmt-memory bench latency --output {file}",
    "search_100k": "cmt-memory bench search --memories 100000 --output {file}",
    "search_1m": "cmt-memory bench search --memories 1000000 --output {file}",
    "soak_kills": "make soak",
    "storage": "cmt-memory bench storage --documents 64 --output {file}",
    "training_step_0.5b_cpu": "python benchmarks/training_step.py --shape 0.5b --batch 1 --steps 3 --output {file}",
}
"""The command that gives a file again, where the file does not say so itself."""


_NUMBERS = re.compile(r"[\d.,%±/–+ -]*")


def there(stem: str) -> bool:
    """Whether a file of results is there."""
    return (RESULTS / f"{stem}.json").is_file()


def read(stem: str) -> dict[str, Any]:
    """A file of results, by its name without `.json`."""
    found: dict[str, Any] = json.loads((RESULTS / f"{stem}.json").read_text("utf-8"))
    return found


def value(stem: str, path: str, form: str = "{}") -> str:
    """One figure of a file.

    Args:
        stem: the file.
        path: keys joined by dots; a place of a list by its number.
        form: how it is written, as `str.format` takes it.
    """
    if not there(stem):
        return "(not measured yet)"
    found = reduce(lambda at, key: at[int(key)] if isinstance(at, list) else at[key], path.split("."), read(stem))
    return form.format(found)


def command(stem: str) -> str:
    """The command that gives a file again."""
    file = f"benchmarks/results/{stem}.json"
    own = read(stem).get("command") if there(stem) else None
    if own:
        name = str(own).rpartition(" ")[2]  # the run recorded the file's name alone
        here = (RESULTS.parent / name).is_file()
        return str(own).replace(name, f"benchmarks/{name}") if here else str(own)
    return COMMANDS.get(stem, f"cmt-memory eval --config benchmarks/{stem}.yaml").format(file=file)


def absent(stems: Sequence[str]) -> str:
    """What stands where nothing was measured."""
    wanted = " and ".join(f"`benchmarks/results/{stem}.json`" for stem in stems)
    return f'!!! note "Not measured yet"\n\n    {wanted} is made by `{command(stems[0])}`.'


def _facts(found: dict[str, Any]) -> list[str]:
    """Machine, seed and the like, as recorded."""
    machine = found.get("machine", {})
    if isinstance(machine, str):
        machine = {"device": machine}
    machine = machine | found.get("environment", {})
    named = {name: found[name] for name in ("threads", "torch", "chromadb") if name in found}
    facts = []
    for name, value in (machine | named).items():
        if name in ("device", "platform"):
            facts.append(str(value))
        elif name in ("threads", "cpus"):
            unit = "thread" if name == "threads" else "CPU"
            facts.append(f"{value} {unit}{'s' if value != 1 else ''}")
        else:
            facts.append(f"{name.capitalize() if name == 'python' else name} {value}")
    if "seed" in found:
        facts.append(f"seed {found['seed']}")
    if "seeds" in found:
        facts.append("seeds " + ", ".join(map(str, found["seeds"])))
    if "version" in found:
        facts.append(f"cmt-memory {found['version']}")
    return facts


def origin(stems: Sequence[str]) -> str:
    """From which command and machine figures come, as a paragraph of Markdown."""
    lines: dict[str, list[str]] = {}
    for stem in stems:
        lines.setdefault(", ".join(_facts(read(stem))), []).append(f"`{command(stem)}`")
    told = "; ".join(f"{', '.join(made)} on {machine}" for machine, made in lines.items())
    return f"{told}.\n{{ .origin }}"


def origin_html(stems: Sequence[str]) -> str:
    """The commands alone, in HTML, for the caption of a figure."""
    return "Again by " + ", ".join(f"<code>{html.escape(command(stem))}</code>" for stem in stems) + "."


def between(value: str, low: str, high: str) -> str:
    """A figure with its interval or spread below, for a cell of a table."""
    return f"{value}<br><small>{low} – {high}</small>"


def rows(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table, numbers to the right."""
    numeric = [
        bool(lines) and all(_NUMBERS.fullmatch(line[i].partition("<br>")[0]) for line in lines)
        for i in range(len(header))
    ]
    rule = ["---:" if number else "---" for number in numeric]
    escaped = [[_cell(cell) for cell in line] for line in (header, rule, *lines)]
    return "\n".join("| " + " | ".join(line) + " |" for line in escaped)


def _cell(text: str) -> str:
    """A cell in one line; a bar outside of code must not end it."""
    parts = re.split(r"(`[^`]*`)", text.replace("\n", " "))
    return "".join(part if part.startswith("`") else part.replace("|", "\\|") for part in parts)
