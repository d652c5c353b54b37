"""What LlamaIndex's parts add to the store's own calls, measured in turns in the same run.

    python -m benchmarks.llama_index_overhead --documents 1000 --rounds 50 --output benchmarks/results/llama_index.json

The bounds are 5 ms for retrieving and answering, and 5 % for adding.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llama_index.core import StorageContext, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.llms.cmt import CMTLLM
from llama_index.response_synthesizers.cmt import as_query_engine
from llama_index.retrievers.cmt import CMTRetriever
from llama_index.vector_stores.cmt import CMTVectorStore

from cmt_memory import CMTMemoryStore, CMTModel

QUESTION = "What is the code of locker {}?"


def in_turns(ours: Callable[[int], Any], theirs: Callable[[int], Any], rounds: int) -> dict[str, float]:
    """Medians of both in milliseconds, each asked first every other time, and of their differences."""
    seconds: list[list[float]] = [[], []]
    for number in range(rounds + 2):
        taken = [0.0, 0.0]
        for place in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            (ours, theirs)[place](number)
            taken[place] = time.perf_counter() - started
        if number >= 2:  # the first ones fill caches
            for place in (0, 1):
                seconds[place].append(taken[place])
    added = [1e3 * (their - our) for our, their in zip(*seconds, strict=True)]
    return {
        "store_ms": 1e3 * statistics.median(seconds[0]),
        "llama_index_ms": 1e3 * statistics.median(seconds[1]),
        "added_ms": statistics.median(added),
    }


def adding(model: CMTModel, documents: int, rounds: int) -> dict[str, float]:
    """Seconds to add the same new texts to a store by itself and through an index, in turns."""
    taken: dict[str, list[float]] = {"store": [], "llama_index": []}
    for number in range(rounds):
        for way in ("store", "llama_index") if number % 2 else ("llama_index", "store"):
            nodes = [TextNode(id_=f"n{i}", text=f"The code of locker {i} is {7 * i}.") for i in range(documents)]
            with tempfile.TemporaryDirectory() as folder, CMTMemoryStore(folder, model) as store:
                vector_store = CMTVectorStore(store=store)
                context = StorageContext.from_defaults(vector_store=vector_store)
                index = VectorStoreIndex([], storage_context=context, embed_model=vector_store.embed_model)
                started = time.perf_counter()
                if way == "store":
                    store.add_documents(nodes)
                else:
                    index.insert_nodes(nodes)
                taken[way].append(time.perf_counter() - started)
    ours, theirs = (min(taken[way]) for way in ("store", "llama_index"))
    return {"store_s": ours, "llama_index_s": theirs, "added_share": theirs / ours - 1}


def measure(model: CMTModel, documents: int, rounds: int, adding_rounds: int) -> dict[str, Any]:
    """All of the comparisons."""
    with tempfile.TemporaryDirectory() as folder, CMTMemoryStore(folder, model) as store:
        texts = [f"The code of locker {i} is {7 * i}." for i in range(documents)]
        store.add_documents(texts, ids=[f"n{i}" for i in range(documents)])
        retriever, llm = CMTRetriever(store, similarity_top_k=4), CMTLLM(store=store, max_new_tokens=8)
        engine = as_query_engine(store, similarity_top_k=4, max_new_tokens=8)
        named = {"memory_ids": ["n1", "n2"], "max_new_tokens": 8}
        results: dict[str, Any] = {
            "documents": documents,
            "rounds": rounds,
            "retrieve": in_turns(
                lambda i: store.search(QUESTION.format(i), k=4),
                lambda i: retriever.retrieve(QUESTION.format(i)),
                rounds,
            ),
            "complete": in_turns(
                lambda i: store.ask(QUESTION.format(i), **named),
                lambda i: llm.complete(QUESTION.format(i), memory_ids=["n1", "n2"]),
                rounds,
            ),
            "query": in_turns(
                lambda i: store.ask(QUESTION.format(i), k=4, max_new_tokens=8),
                lambda i: engine.query(QUESTION.format(i)),
                rounds,
            ),
        }
    return results | {"add": adding(model, documents, adding_rounds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--documents", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=50)
    parser.add_argument("--adding-rounds", type=int, default=5)
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    results = measure(CMTModel.from_pretrained("cmt-tiny"), given.documents, given.rounds, given.adding_rounds)
    print(json.dumps(results, indent=1))
    if given.output is not None:
        given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
