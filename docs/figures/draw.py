"""Draw the figures of README and concepts: `python docs/figures/draw.py` writes the SVG files beside this one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from shapes import arrow, box, cells, drawing, panel, store, words


def idea() -> str:
    """The front page's picture."""
    write = [
        panel(1, 1, 518, 148, "write: once a document"),
        box(16, 42, 100, 60, "document"),
        arrow((116, 72), (150, 72)),
        box(150, 42, 100, 60, "frozen LM", "reads it"),
        arrow((250, 72), (284, 72)),
        box(284, 42, 100, 60, "memory", ""),
        cells(300, 76, 4, "slot"),
        arrow((384, 72), (418, 72)),
        store(418, 38, 86, 68, "store"),
        words(16, 130, "ratio: document tokens a slot · latent: numbers a slot", "soft small"),
    ]
    read = [
        panel(1, 163, 518, 236, "read: every question"),
        box(16, 204, 100, 60, "search", "in the store"),
        arrow((116, 234), (150, 234)),
        box(150, 204, 100, 60, "memories", ""),
        cells(158, 238, 2, "slot"),
        cells(200, 238, 2, "other"),
        arrow((250, 234), (284, 234)),
        box(284, 204, 100, 60, "keys and", ""),
        words(334, 246, "values", "ink", "middle"),
        arrow((384, 234), (418, 234)),
        box(418, 200, 86, 128, "frozen LM"),
        box(16, 288, 100, 40, "question"),
        arrow((66, 288), (66, 264)),
        arrow((116, 308), (418, 308)),
        words(250, 300, "no document text in the prompt", "soft small", "middle"),
        arrow((461, 328), (461, 350)),
        box(418, 350, 86, 34, "answer"),
    ]
    return drawing(
        "Each document is compressed once into a memory of a few slots and kept in a store; for every question the "
        "memories found are given to the frozen LM as keys and values, beside the question alone.",
        400,
        [*write, *read],
    )


def write_path() -> str:
    """From a document to slots on the disk."""
    parts = [
        panel(1, 1, 518, 358, "write: from tokens to slots"),
        words(16, 58, "12 tokens", "ink"),
        cells(150, 44, 12, "token", 18, 4),
        arrow((281, 68), (281, 92)),
        box(150, 92, 262, 44, "frozen LM, all layers at once"),
        words(16, 112, "one pass", "ink"),
        words(16, 129, "after the head", "soft small"),
        arrow((281, 136), (281, 160)),
        words(16, 182, "keys and values", "ink"),
        words(16, 199, "keys before rotation", "soft small"),
        cells(150, 162, 12, "slot", 18, 4, rows=2),
        *(arrow((x, 208), (x, 238)) for x in (192, 280, 368)),
        words(16, 250, "ratio 4", "ink"),
        words(16, 267, "four positions a slot", "soft small"),
        *(cells(x, 240, 1, "slot", 26) for x in (179, 267, 355)),
        arrow((281, 272), (281, 298)),
        words(16, 318, "latent, int8", "ink"),
        words(16, 335, "d numbers a slot", "soft small"),
        store(224, 296, 114, 54, "store"),
        words(426, 182, "per layer,", "soft small"),
        words(426, 199, "per position", "soft small"),
        words(426, 250, "3 slots, in", "soft small"),
        words(426, 267, "the middle of", "soft small"),
        words(426, 284, "their spans", "soft small"),
    ]
    return drawing(
        "Write path: the frozen LM reads twelve tokens once; the keys and values of all layers are reduced to one slot "
        "for every four positions, to d numbers a slot, and kept as int8.",
        360,
        parts,
    )


def read_path() -> str:
    """From a question to an answer."""
    parts = [
        panel(1, 1, 518, 398, "read: from a question to an answer"),
        box(16, 42, 120, 40, "question"),
        arrow((136, 62), (190, 62)),
        box(190, 42, 150, 40, "search"),
        words(352, 58, "vectors and words,", "soft small"),
        words(352, 75, "top-k of the store", "soft small"),
        arrow((265, 82), (265, 106)),
        box(190, 106, 150, 44, "", ""),
        cells(206, 121, 3, "slot"),
        cells(274, 121, 3, "other"),
        words(352, 124, "slots of the memories", "soft small"),
        words(352, 141, "found, from the disk", "soft small"),
        arrow((265, 150), (265, 174)),
        box(190, 174, 150, 40, "ψ: join them"),
        words(352, 190, "in order, or by the", "soft small"),
        words(352, 207, "question (the paper)", "soft small"),
        arrow((265, 214), (265, 238)),
        box(190, 238, 150, 40, "π: slots to K, V"),
        words(352, 254, "of every layer, keys", "soft small"),
        words(352, 271, "rotated to their places", "soft small"),
        arrow((265, 278), (265, 302)),
        box(190, 302, 150, 40, "frozen LM"),
        arrow((76, 82), (76, 322), (190, 322)),
        words(86, 300, "the prompt:", "soft small"),
        words(86, 345, "the question", "soft small"),
        words(86, 362, "and nothing else", "soft small"),
        arrow((340, 322), (394, 322)),
        box(394, 302, 110, 40, "answer"),
    ]
    return drawing(
        "Read path: the question finds memories, ψ joins their slots, π turns them into keys and values of every "
        "layer, and the frozen LM answers with only the question in its prompt.",
        400,
        parts,
    )


def prefix() -> str:
    """What stands before a question: text against a prefix."""
    text = [
        panel(1, 1, 518, 166, "text in the prompt"),
        cells(16, 44, 2, "token", 16, 3, rows=3),
        cells(60, 44, 18, "other", 16, 3, rows=3),
        cells(408, 44, 5, "token", 16, 3, rows=3),
        words(16, 122, "head", "soft small"),
        words(60, 122, "documents: every token, in every layer,", "ink"),
        words(60, 140, "worked out again at each question", "ink"),
        words(408, 122, "question", "soft small"),
    ]
    memory = [
        panel(1, 181, 518, 178, "memories as a prefix"),
        cells(16, 224, 2, "slot", 16, 3, rows=3),
        cells(60, 224, 3, "slot", 16, 3, rows=3),
        cells(123, 224, 2, "slot", 16, 3, rows=3),
        cells(408, 224, 5, "token", 16, 3, rows=3),
        words(16, 302, "head", "soft small"),
        words(60, 302, "slots: keys and values that are there", "ink"),
        words(60, 320, "already; the LM attends to them", "ink"),
        words(408, 302, "question", "soft small"),
        words(176, 250, "positions that are free", "soft small"),
        words(16, 346, "columns: positions · rows: layers of the LM", "soft small"),
    ]
    return drawing(
        "With text in the prompt every document token is worked out in every layer at each question; a prefix holds "
        "fewer positions whose keys and values are there already.",
        360,
        [*text, *memory],
    )


FIGURES: dict[str, Callable[[], str]] = {
    "idea": idea,
    "write-path": write_path,
    "read-path": read_path,
    "prefix": prefix,
}

if __name__ == "__main__":
    for name, made in FIGURES.items():
        Path(__file__).with_name(f"{name}.svg").write_text(made(), "utf-8")
