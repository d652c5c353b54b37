"""Search by words: which words of a question to look for, and how much of its weight a passage holds."""

from __future__ import annotations

import math
import sqlite3
import threading
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import accumulate
from typing import TYPE_CHECKING

from cmt_memory.bank.database import TOKENIZER
from cmt_memory.errors import CMTError

if TYPE_CHECKING:
    from cmt_memory.bank.bank import MemoryBank

_ALL_WORDS_UP_TO = 10_000
_COMMON = 0.05
_MOST_WORDS = 256
_MOST_WALKED = 20_000
_FREQUENT = 1_000
_K1, _B = 1.2, 0.75
# Counting a word means walking all its passages, so large banks count each one rarely.
_DRIFT = 0.02
_MOST_KEPT = 50_000


class Words:
    """The lexicon's own tokenizer, so that question and index agree on what a word is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
        self._connection.execute(f"CREATE VIRTUAL TABLE texts USING fts5 (text, content='', tokenize='{TOKENIZER}')")
        self._connection.execute("CREATE VIRTUAL TABLE words USING fts5vocab (texts, 'row')")
        self._connection.execute("CREATE VIRTUAL TABLE places USING fts5vocab (texts, 'instance')")

    def of(self, text: str) -> list[str]:
        """The distinct words of a text, lower-cased and without accents, in alphabetical order."""
        with self._lock:
            self._connection.execute("INSERT INTO texts (rowid, text) VALUES (1, ?)", (text,))
            words = [row[0] for row in self._connection.execute("SELECT term FROM words")]
            self._connection.execute("INSERT INTO texts (texts) VALUES ('delete-all')")
        return words

    def counts(self, texts: Sequence[str], words: Sequence[str]) -> list[dict[str, int]]:
        """How often each of some words occurs in each text; words that do not are left out."""
        found: list[dict[str, int]] = [{} for _ in texts]
        sql = "SELECT doc, count(*) FROM places WHERE term = ? GROUP BY doc"
        with self._lock:
            self._connection.executemany("INSERT INTO texts (rowid, text) VALUES (?, ?)", enumerate(texts))
            for word in words:
                for place, count in self._connection.execute(sql, (word,)):
                    found[place][word] = count
            self._connection.execute("INSERT INTO texts (texts) VALUES ('delete-all')")
        return found


class QuestionWords:
    """Which words of a question to search for, and what each weighs.

    Args:
        bank: The bank whose passages are counted.
    """

    def __init__(self, bank: MemoryBank) -> None:
        self._bank = bank
        self._counts: dict[str, int] = {}
        self._counted_at = (-1, 0)

    def weigh(self, words: list[str]) -> tuple[dict[str, float], list[str], list[str]]:
        """The idf of each word, the words to search for, and words that only weigh beside them, rarest first.

        The idf is BM25's, ``log(1 + (N - n + 0.5) / (n + 0.5))`` for a word in ``n`` of ``N`` passages. In a bank
        of more than 10,000 passages, words found in over 5 % of them are not searched for unless none remain, and
        once the rarest are found in 20,000 passages together, the rest only weigh: ranking walks every passage that
        has a word searched for. Of very long questions the 256 rarest words are used.
        """
        total = self._bank.count_passages()
        counts = self._count(words, total)
        weights = {word: math.log1p((total - counts[word] + 0.5) / (counts[word] + 0.5)) for word in words}
        found = {word: count for word, count in counts.items() if count}
        if total > _ALL_WORDS_UP_TO:
            found = {word: count for word, count in found.items() if count <= _COMMON * total} or found
        used = sorted(found, key=lambda word: (found[word], word))[:_MOST_WORDS]
        searched = len(used)
        if total > _ALL_WORDS_UP_TO:
            walked = list(accumulate(found[word] for word in used))
            searched = max(1, bisect_right(walked, _MOST_WALKED))
        return weights, used[:searched], used[searched:]

    def warm_up(self) -> None:
        """Count all frequent words of a large bank in the background, which the first questions then need not."""

        def count() -> None:
            with suppress(CMTError):  # a closed bank needs no counts, a damaged one tells at the first question
                changes, total = self._bank.changes(), self._bank.count_passages()
                known = self._bank.frequent_words(max(1, total // _FREQUENT))
                self._counts, self._counted_at = known, (changes, total)

        if self._bank.count_passages() > _ALL_WORDS_UP_TO:
            threading.Thread(target=count, name="cmt-memory-words").start()

    def _count(self, words: list[str], total: int) -> dict[str, int]:
        """Passages with each word; in a large bank as counted before, while its size is nearly the same.

        Of a word in too many passages to bring any in, the first of them are counted.
        """
        changes = self._bank.changes()
        known, (counted_changes, counted_total) = self._counts, self._counted_at
        near = total > _ALL_WORDS_UP_TO and abs(total - counted_total) <= _DRIFT * total
        if (changes != counted_changes and not near) or len(known) > _MOST_KEPT:
            known = self._counts = {}
            self._counted_at = (changes, total)
        most = min(int(_COMMON * total), _MOST_WALKED) if total > _ALL_WORDS_UP_TO else None
        if missing := [word for word in words if word not in known]:
            # Not that a word is in none: the next document may bring it.
            known.update(self._bank.word_counts(missing, most))
        return {word: min(known.get(word, 0), total) for word in words}


def idf_share(weights: Mapping[str, float], words: set[str]) -> float:
    """The share of a question's idf weight carried by the words of a passage, in [0, 1]."""
    whole = sum(weights.values())
    return sum(weight for word, weight in weights.items() if word in words) / whole if whole else 0.0


def bm25(weights: Mapping[str, float], counts: Sequence[Mapping[str, int]], lengths: Sequence[int]) -> list[float]:
    """BM25 of texts, with `k1` 1.2 and `b` 0.75 as FTS5's, their lengths compared with one another.

    Args:
        weights: The idf of each word of the question.
        counts: How often each text has each of them.
        lengths: Of the texts, in any unit.
    """
    mean = sum(lengths) / max(1, len(lengths))
    norms = [_K1 * (1 - _B + _B * length / mean) if mean else _K1 for length in lengths]
    return [
        sum(weights[word] * count * (_K1 + 1) / (count + norm) for word, count in some.items())
        for some, norm in zip(counts, norms, strict=True)
    ]
