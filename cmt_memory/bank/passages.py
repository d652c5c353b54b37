"""Long documents into passages, measured in the language model's own tokens."""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from typing import Any, NamedTuple

from cmt_memory.errors import InvalidInputError

_MIN_TOKENS = 8
# Tokenised in blocks, so that a long text without spaces costs linear time with any tokenizer.
_BLOCK = 20_000
_SLOW_PIECE = re.compile(r"\s*+\S{1,12}|\s+")
_PARAGRAPH = re.compile(r"\n[^\S\n]*+\n\s*+")
_SENTENCE = re.compile(
    r"(?<=[.!?…])[\"'”’»)\]]*+\s++(?![a-z])|(?<=[。！？；])[”’」』）》]*+|\n(?=[^\S\n]*(?:[-*•#]|\d+[.)])\s)"
)
_WORD = re.compile(r"\s+")
# A cut is looked for in the last part of a window only, so that passages stay near the size asked for.
_TAIL = 0.3
_BLANK_LINE = "\n\n"
_SLACK = 2


class Passage(NamedTuple):
    """A stretch of a document.

    Args:
        start: First character in the document's text.
        end: One past the last character.
        n_tokens: Tokens of the passage when tokenised alone.
    """

    start: int
    end: int
    n_tokens: int


def split_passages(text: str, tokenizer: Any, passage_tokens: int = 512, overlap: int = 64) -> list[Passage]:
    """Split a text into passages of at most ``passage_tokens`` tokens.

    A passage ends at the last paragraph, else sentence, else line or word that ends in the last third of
    its window, and the next one begins up to ``overlap`` tokens earlier, at a sentence where there is one.
    Together they hold every character that is not whitespace. A passage with the blank line that follows it
    in a prompt has at most two tokens more; only a single character that is longer by itself exceeds that.

    With a tokenizer that has no offsets (a slow one), windows are measured in words and pieces of words and
    each passage is then checked by tokenising it.

    Args:
        text: The document.
        tokenizer: A ``transformers`` tokenizer.
        passage_tokens: Largest size of a passage, at least 8.
        overlap: Tokens shared by neighbouring passages, less than ``passage_tokens``.

    Raises:
        InvalidInputError: ``passage_tokens`` or ``overlap`` is out of range.

    Examples:
        >>> split_passages("A short note.", tokenizer)  # doctest: +SKIP
        [Passage(start=0, end=13, n_tokens=4)]
    """
    _check_sizes(passage_tokens, overlap)
    if not text.strip():
        return []
    if len(text) <= 8 * passage_tokens:
        whole = _measure(text, *_strip(text, 0, len(text)), tokenizer, passage_tokens)
        if whole is not None:
            return [whole]
    return _Splitter(text, tokenizer, passage_tokens, overlap).split()


def _check_sizes(passage_tokens: int, overlap: int) -> None:
    for name, value in (("passage_tokens", passage_tokens), ("passage_overlap", overlap)):
        if isinstance(value, bool) or not isinstance(value, int):
            raise InvalidInputError(f"{name} is {value!r}; expected an int.")
    if passage_tokens < _MIN_TOKENS:
        raise InvalidInputError(f"passage_tokens is {passage_tokens}; expected at least {_MIN_TOKENS}.")
    if not 0 <= overlap < passage_tokens:
        raise InvalidInputError(
            f"passage_overlap is {overlap}; expected 0 or more and less than passage_tokens ({passage_tokens})."
        )


def _strip(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + len(piece) - len(piece.lstrip()), end - (len(piece) - len(piece.rstrip()))


def _count(tokenizer: Any, text: str) -> int:
    return len(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def _measure(text: str, start: int, end: int, tokenizer: Any, limit: int) -> Passage | None:
    """The passage if it fits ``limit`` by its own tokens, with the blank line after it counted too."""
    count = _count(tokenizer, text[start:end])
    if count > limit or _count(tokenizer, text[start:end] + _BLANK_LINE) > limit + _SLACK:
        return None
    return Passage(start, end, count)


class _Splitter:
    """One text with its token and sentence boundaries."""

    def __init__(self, text: str, tokenizer: Any, limit: int, overlap: int) -> None:
        self.text, self.tokenizer, self.limit, self.overlap = text, tokenizer, limit, overlap
        # edges[i] is a character where a cut splits no token; before[i] the tokens in front of it.
        self.edges, self.before = _edges(text, tokenizer)
        self.paragraphs = [match.end() for match in _PARAGRAPH.finditer(text)]
        self.sentences = sorted({*self.paragraphs, *(match.end() for match in _SENTENCE.finditer(text))})
        self.words = [match.end() for match in _WORD.finditer(text)]

    def split(self) -> list[Passage]:
        passages: list[Passage] = []
        start, covered, length = 0, 0, len(self.text.rstrip())
        while covered < length:
            found = self._end(start, covered)
            if found is None and start < covered:
                start = covered
                found = self._end(start, covered)
            covered, passage = found or self._one_step(start)
            if passage is not None:
                passages.append(passage)
                start = passage.start
            start = self._overlap_start(start, covered)
        return passages

    def _end(self, start: int, covered: int) -> tuple[int, Passage | None] | None:
        """End beyond ``covered`` of the passage that begins at ``start``, or None where none fits."""
        budget = self.limit
        while (hard := self._forward(start, budget)) > covered:
            end = self._cut(max(covered, self._forward(start, int(budget * (1 - _TAIL)))), hard)
            first, last = _strip(self.text, start, end)
            if first >= last:
                return end, None
            if last <= covered:  # beyond what there is already it adds whitespace only
                return None
            passage = _measure(self.text, first, last, self.tokenizer, self.limit)
            if passage is not None:
                return end, passage
            budget -= max(1, budget // 16)
        return None

    def _one_step(self, start: int) -> tuple[int, Passage | None]:
        """A single indivisible piece, longer than the limit though it is: nothing may be left out."""
        end = self.edges[bisect_right(self.edges, start)]
        first, last = _strip(self.text, start, end)
        if first >= last:
            return end, None
        return end, Passage(first, last, _count(self.tokenizer, self.text[first:last]))

    def _cut(self, low: int, high: int) -> int:
        """Best place to end in ``(low, high]``: a paragraph, else a sentence, else a word, else ``high``."""
        if high >= len(self.text):
            return high
        for places in (self.paragraphs, self.sentences, self.words):
            index = bisect_right(places, high) - 1
            if index >= 0 and places[index] > low:
                return places[index]
        return high

    def _overlap_start(self, start: int, end: int) -> int:
        """Where the next passage begins: a sentence, else a word, at most ``overlap`` tokens before ``end``."""
        if not self.overlap or end >= len(self.text):
            return end
        target = self.before[bisect_left(self.edges, end)] - self.overlap
        low = max(self.edges[bisect_left(self.before, target)], start + 1)
        for places in (self.sentences, self.words):
            index = bisect_left(places, low)
            if index < len(places) and places[index] < end:
                return places[index]
        return min(end, self.edges[bisect_left(self.edges, low)])  # a cut may lie inside a piece, before its edge

    def _forward(self, start: int, tokens: int) -> int:
        """The last edge that is at most ``tokens`` tokens after ``start``."""
        target = self.before[bisect_left(self.edges, start)] + tokens
        return self.edges[bisect_right(self.before, target) - 1]


def _edges(text: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Characters where no token is split, first 0 and last ``len(text)``, and the tokens before each."""
    edges, before, count = [0], [0], 0
    for begin, end in _blocks(text):
        for piece_start, piece_end, tokens in _pieces(text[begin:end], tokenizer):
            if begin + piece_start > edges[-1]:
                edges.append(begin + piece_start)
                before.append(count)
            count += tokens
            if begin + piece_end > edges[-1]:
                edges.append(begin + piece_end)
                before.append(count)
            else:
                before[-1] = count
    if edges[-1] < len(text):
        edges.append(len(text))
        before.append(count)
    return edges, before


def _blocks(text: str) -> list[tuple[int, int]]:
    """Stretches of about 20,000 characters, ending after a space where there is one."""
    blocks, start = [], 0
    while start < len(text):
        end = min(start + _BLOCK, len(text))
        space = text.rfind(" ", start + _BLOCK // 2, end)
        if end < len(text) and space > 0:
            end = space
        blocks.append((start, end))
        start = end
    return blocks


def _pieces(text: str, tokenizer: Any) -> list[tuple[int, int, int]]:
    """Start, end and tokens of each indivisible piece; the tokens of one character count as one piece."""
    if getattr(tokenizer, "is_fast", False):
        encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        return [(start, end, 1) for start, end in encoded["offset_mapping"]]
    return [(match.start(), match.end(), _count(tokenizer, match.group())) for match in _SLOW_PIECE.finditer(text)]
