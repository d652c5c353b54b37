"""What LangChain's interfaces add to a store's own calls, measured side by side in one process.

`python -m benchmarks.langchain_overhead --output benchmarks/results/langchain_overhead.json` (with langchain-cmt
installed, or on the path). Each pair of calls is made in turn, in changing order, so that a busy machine disturbs both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from langchain_cmt import ChatCMT, CMTRetriever, CMTVectorStore
from langchain_core.documents import Document

from cmt_memory import CMTMemoryStore

QUESTION = "What is the code of locker 17?"
MOST_MS = 5.0
MOST_PERCENT = 5.0


def texts(count: int, first: int = 0) -> list[str]:
    """Documents of two sentences, no two alike."""
    return [
        f"Locker {n} is on floor {n % 7}. The code of locker {n} is {1000 + 37 * n}."
        for n in range(first, first + count)
    ]


def side_by_side(own: Callable[[], Any], through: Callable[[], Any], repetitions: int) -> dict[str, float]:
    """Medians in ms of both calls, and of the difference within each pair, by the wall and in the process's CPU time.

    The CPU time is what the interface costs where other processes take turns with this one.
    """
    calls = (("own", own), ("through", through))
    own()
    through()
    wall: dict[str, list[float]] = {"own": [], "through": []}
    cpu: dict[str, list[float]] = {"own": [], "through": []}
    for turn in range(repetitions):
        for name, call in calls[:: 1 if turn % 2 else -1]:
            started, worked = time.perf_counter(), time.process_time()
            call()
            wall[name].append(1000 * (time.perf_counter() - started))
            cpu[name].append(1000 * (time.process_time() - worked))
    return {
        "own_ms": round(statistics.median(wall["own"]), 3),
        "through_ms": round(statistics.median(wall["through"]), 3),
        "added_ms": round(_added(wall), 3),
        "added_cpu_ms": round(_added(cpu), 3),
        "pairs": repetitions,
    }


def _added(times: dict[str, list[float]]) -> float:
    return statistics.median(b - a for a, b in zip(times["own"], times["through"], strict=True))


def adding(folder: Path, documents: int, rounds: int) -> dict[str, float]:
    """Seconds for adding as many documents to a store and through a vector store, in turns."""
    wall: dict[str, list[float]] = {"own": [], "through": []}
    cpu: dict[str, list[float]] = {"own": [], "through": []}
    with CMTMemoryStore(folder / "own") as plain, CMTMemoryStore(folder / "through") as wrapped:
        calls = (("own", plain.add_documents), ("through", CMTVectorStore(wrapped).add_documents))
        for turn in range(rounds + 1):
            some = [Document(text) for text in texts(documents, turn * documents)]
            for name, call in calls[:: 1 if turn % 2 else -1]:
                started, worked = time.perf_counter(), time.process_time()
                call(some)
                if turn:  # the first round warms up
                    wall[name].append(time.perf_counter() - started)
                    cpu[name].append(time.process_time() - worked)
    return {
        "documents": documents,
        "rounds": rounds,
        "own_s": round(statistics.median(wall["own"]), 4),
        "through_s": round(statistics.median(wall["through"]), 4),
        "added_percent": round(100 * _added(wall) / statistics.median(wall["own"]), 2),
        "added_cpu_percent": round(100 * _added(cpu) / statistics.median(cpu["own"]), 2),
    }


def main() -> None:
    """Measure, print and keep the result; fail where more is added than the limits say."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    with TemporaryDirectory() as name:
        folder = Path(name)
        with CMTMemoryStore(folder / "asked") as store:
            store.add_documents(texts(64))
            retriever, chat = CMTRetriever(store=store, k=4), ChatCMT(store=store, k=4, max_tokens=8)
            result: dict[str, Any] = {
                "search": side_by_side(
                    lambda: store.search(QUESTION, k=4), lambda: retriever.invoke(QUESTION), given.repetitions
                ),
                "ask": side_by_side(
                    lambda: store.ask(QUESTION, k=4, max_new_tokens=8), lambda: chat.invoke(QUESTION), given.repetitions
                ),
            }
        result["add_documents"] = adding(folder, given.documents, given.rounds)
    print(json.dumps(result, indent=2))
    if given.output is not None:
        given.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    slow = [name for name in ("search", "ask") if result[name]["added_ms"] > MOST_MS]
    if slow or result["add_documents"]["added_percent"] > MOST_PERCENT:
        raise SystemExit(f"More than {MOST_MS} ms or {MOST_PERCENT} % was added.")


if __name__ == "__main__":
    main()
