"""BM25 in memory, to mine documents that look like the answer and are not."""

from __future__ import annotations

import re
from array import array
from collections import Counter
from collections.abc import Sequence

import numpy as np

_WORDS = re.compile(r"\w+")
_K1, _B = 1.2, 0.75


class BM25:
    """Okapi BM25 over texts that fit into memory (Robertson and Zaragoza, 2009).

    Args:
        texts: the documents, in an order that `nearest` counts in.

    Examples:
        >>> BM25(["a red fox", "the blue whale", "a red red rose"]).nearest("red rose", 2)
        [2, 0]
    """

    def __init__(self, texts: Sequence[str]) -> None:
        found: dict[str, tuple[array[int], array[int]]] = {}
        lengths = np.zeros(len(texts))
        for number, text in enumerate(texts):
            counts = Counter(words(text))
            lengths[number] = counts.total()
            for word, count in counts.items():
                documents, times = found.setdefault(word, (array("i"), array("i")))
                documents.append(number)
                times.append(count)
        self._postings = found
        self._norm = _K1 * (1 - _B + _B * lengths / max(float(lengths.mean()) if len(texts) else 1.0, 1e-9))
        self._size = len(texts)

    def nearest(self, query: str, count: int) -> list[int]:
        """The `count` best documents that share a word with the query, best first; ties in the texts' order."""
        scores = np.zeros(self._size)
        for word in sorted(set(words(query))):
            if word not in self._postings:
                continue
            documents, times = (np.frombuffer(part, dtype=np.intc) for part in self._postings[word])
            idf = np.log1p((self._size - len(documents) + 0.5) / (len(documents) + 0.5))
            scores[documents] += idf * times * (_K1 + 1) / (times + self._norm[documents])
        best = np.argsort(-scores, kind="stable")[:count]
        return [int(number) for number in best if scores[number] > 0]


def words(text: str) -> list[str]:
    """The words of a text in lower case."""
    return _WORDS.findall(text.lower())
