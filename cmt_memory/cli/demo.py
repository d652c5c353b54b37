"""`cmt-memory demo`: the main job on the documents and the model that come with the package."""

from __future__ import annotations

import json
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cmt_memory.cli.options import (
    DEFAULT_MODEL,
    debug_option,
    encoder_option,
    json_option,
    latent_option,
    model_option,
    open_store,
    ratio_option,
    store_option,
)
from cmt_memory.cli.output import print_json, size
from cmt_memory.documents import Mode
from cmt_memory.progress import Progress

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from cmt_memory.store import CMTMemoryStore

MODES: tuple[Mode, ...] = ("memory", "text", "none")
_LONGEST_ANSWER = 24
_SMALL_LM = 100_000_000

OWN_LM = """\
from cmt_memory import CMTMemoryStore, CMTModel
model = CMTModel.from_llm("Qwen/Qwen3-0.6B")
store = CMTMemoryStore("mem", model=model)
store.add_documents(["Mara's locker code is 4471."])
print(store.ask("What is Mara's locker code?").text)"""


@click.command(short_help="Try it: bundled documents, questions and model.")
@store_option(required=False, exists=False, help="Keep the store here.  [default: a temporary folder]")
@model_option("LM to use: a hub id, a folder, or cmt-tiny.  [default: cmt-tiny, the bundled one]")
@click.option(
    "--k", type=click.IntRange(min=1), default=1, show_default=True, help="Documents to use for each question."
)
@ratio_option
@latent_option
@encoder_option
@json_option
@debug_option
def demo(
    path: Path | None,
    model: str | None,
    k: int,
    ratio: int | None,
    latent: int | Literal["full"] | None,
    encoder: str | None,
    as_json: bool,
) -> None:
    """Add twelve short documents, then ask the same questions with and without them.

    \b
    Example:  cmt-memory demo
    Keep it:  cmt-memory demo --store mem, then cmt-memory ask "Where is the spare key?" --store mem
    Own LM:   cmt-memory demo --model Qwen/Qwen3-0.6B

    Each question is asked three times: with memories, with the same documents as text in the prompt, and with
    nothing. Runs offline with the bundled model.
    """
    documents, questions = _read("documents"), _read("questions")
    with _folder(path) as folder:
        settings: dict[str, Any] = {"model": model, "ratio": ratio, "latent": latent, "encoder": encoder}
        click.echo("Loading the language model ...", err=True)
        with open_store(folder, **settings) as store:
            started = time.perf_counter()
            with Progress("Compressing", len(documents), unit="documents", show=sys.stderr.isatty()) as bar:
                for document in documents:  # one by one, to see it happen; together is faster
                    store.add_documents(document)
                    bar.advance(1)
            seconds = time.perf_counter() - started
            result = _ask_all(store, questions, k) | {"add_seconds": round(seconds, 3)}
    if as_json:
        print_json(result)
    else:
        _print(result, kept=path, bundled=model in (None, DEFAULT_MODEL))


def _read(name: str) -> list[dict[str, Any]]:
    text = (resources.files("cmt_memory") / "assets" / "demo" / f"{name}.jsonl").read_text("utf-8")
    return [json.loads(line) for line in text.splitlines() if line]


@contextmanager
def _folder(path: Path | None) -> Iterator[Path]:
    if path is not None:
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="cmt-memory-demo-", ignore_cleanup_errors=True) as folder:
        yield Path(folder) / "store"


def _ask_all(store: CMTMemoryStore, questions: list[dict[str, Any]], k: int) -> dict[str, Any]:
    """Every question in every mode, none of them helped by the one before."""
    for mode in MODES:  # the first call of each kind pays for lazy set-up
        store.ask(questions[0]["question"], k=k, mode=mode, max_new_tokens=2)
    asked = []
    for item in questions:
        answers = {}
        for mode in MODES:
            store.generator.prefixes.clear()
            answer = store.ask(item["question"], k=k, mode=mode, max_new_tokens=_LONGEST_ANSWER)
            answers[mode] = {
                "text": answer.text,
                "right": is_right(answer.text, item["answer"]),
                "prompt_tokens": answer.usage.prompt_tokens,
                "memory_slots": answer.usage.memory_slots,
                "ttft_ms": round(1000 * answer.timings["first_token"], 1),
            }
        asked.append({"question": item["question"], "expected": item["answer"], "answers": answers})
    stats = store.stats()
    documents = stats["documents"]
    return {
        "model": stats["model"],
        "parameters": sum(p.numel() for p in store.model.lm.model.parameters()),
        "ratio": stats["ratio"],
        "slots": stats["slots"],
        "latent": stats["latent"],
        "encoder": stats["encoder"],
        "k": k,
        "documents": documents,
        "bytes_per_document": {
            "memory": round(stats["payload_bytes"] / documents),
            "text": round(stats["text_bytes"] / documents),
        },
        "modes": {mode: _summary([item["answers"][mode] for item in asked]) for mode in MODES},
        "questions": asked,
    }


def _summary(answers: list[dict[str, Any]]) -> dict[str, Any]:
    medians = {
        name: statistics.median(answer[name] for answer in answers)
        for name in ("prompt_tokens", "memory_slots", "ttft_ms")
    }
    return {"right": sum(answer["right"] for answer in answers), "asked": len(answers)} | medians


def is_right(answer: str, expected: str) -> bool:
    """Whether the expected words stand in the answer as whole words, whatever their case."""
    found = re.escape(" ".join(expected.casefold().split()))
    return re.search(rf"(?<!\w){found}(?!\w)", " ".join(answer.casefold().split())) is not None


# -- what a newcomer sees ------------------------------------------------------------------------------------------


def _print(result: dict[str, Any], *, kept: Path | None, bundled: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    found = "the document found" if result["k"] == 1 else f"the {result['k']} documents found"
    console.print(
        f"\n{result['documents']} documents of a small bike shop were read once and kept as memories, in "
        f"{result['add_seconds']:.1f} s.\nEach question was then asked three times:\n"
        f"  [bold]memory[/]  memory of {found} is injected; no text in the prompt\n"
        "  [bold]text[/]    the same as text in the prompt, as RAG usually does\n"
        "  [bold]none[/]    the language model alone\n"
    )
    console.print(_answers(result, console))
    console.print(_costs(result))
    console.print(_meaning(result))
    if bundled:
        console.print(_limits(result))
        console.print(OWN_LM + "\n", style="cyan", markup=False)
    if kept is not None:
        console.print(f'The store is kept: cmt-memory ask "Where is the spare key?" --store {kept}', markup=False)


def _answers(result: dict[str, Any], console: Console) -> Table:
    from rich.table import Table
    from rich.text import Text

    right, wrong = ("✓ ", "✗ ") if console.encoding.lower().startswith("utf") else ("+ ", "- ")
    table = Table(title="Answers", title_justify="left", title_style="bold", show_lines=True)
    table.add_column("question, and what is right", ratio=4)
    for mode in MODES:
        table.add_column(mode, ratio=3)
    for item in result["questions"]:
        cells = []
        for mode in MODES:
            answer = item["answers"][mode]
            style = "green" if answer["right"] else "red"
            cells.append(Text((right if answer["right"] else wrong) + _short(answer["text"]), style=style))
        question = Text.assemble(item["question"], (f"\n{item['expected']}", "dim"))
        table.add_row(question, *cells)
    return table


def _short(text: str) -> str:
    line = " ".join(text.split()) or "(nothing)"
    return line if len(line) <= 60 else line[:57] + "..."


def _costs(result: dict[str, Any]) -> Table:
    from rich.table import Table

    table = Table(title="What an answer costs (medians)", title_justify="left", title_style="bold")
    table.add_column("mode", style="bold")
    for name in ("right\nanswers", "prompt\ntokens", "memory\nslots", "first token\nafter", "kept per\ndocument"):
        table.add_column(name, justify="right")
    kept = {mode: size(count) for mode, count in result["bytes_per_document"].items()} | {"none": "nothing"}
    for mode in MODES:
        row = result["modes"][mode]
        table.add_row(
            mode,
            f"{row['right']} of {row['asked']}",
            f"{row['prompt_tokens']:.0f}",
            f"{row['memory_slots']:.0f}",
            f"{row['ttft_ms']:.0f} ms",
            kept[mode],
        )
    return table


def _meaning(result: dict[str, Any]) -> str:
    ratio, latent = result["ratio"], result["latent"]
    if ratio == 1 and latent == "full":
        slots = (
            "A memory here has one slot for each token of its document, with all the keys and values of the model: "
            "large, and nothing is lost. --ratio and --latent make it smaller, at a price that this demo then shows."
        )
    else:
        each = "each token" if ratio == 1 else f"every {ratio} tokens"
        count = f"{result['slots']} slots" if result["slots"] else f"one slot for {each}"
        slots = f"A memory here has {count} of its document, of {latent} numbers."
    right = {mode: row["right"] for mode, row in result["modes"].items()}
    small = ""
    if result["parameters"] < _SMALL_LM:
        small = " On a model this small there is little to save, and whatever else the machine does shows."
    return (
        "\n[bold]What the numbers mean[/]\n"
        f"From the text itself the model got {right['text']} answers right, from memories {right['memory']}. Compare "
        "these two: what the model cannot read in the text, no memory can tell it.\n"
        "Prompt tokens are what the model reads at every question: in memory mode the question alone. Memory "
        "slots are positions whose keys and values come from the store, computed when the document was added. "
        f"{slots}\n"
        f"The times include search.{small} [bold]cmt-memory bench latency[/] measures at a real model's size.\n"
    )


def _limits(result: dict[str, Any]) -> str:
    return (
        "[bold]What the bundled model can and cannot do[/]\n"
        f"cmt-tiny has {result['parameters'] / 1e6:.1f} million parameters, a hundredth of a small LM you would "
        "use. It looks up facts in simple sentences and in Python docstrings: names, places, times, prices, codes. "
        "Where no document tells, it says unknown. "
        "One document at a time is what it reads best (try --k 4). "
        "It is not a chat model: it does not reason, sum up or know the world, and it gets many answers wrong. "
        "It is there so that this runs anywhere, offline. For your own work use your own LM:\n"
    )
