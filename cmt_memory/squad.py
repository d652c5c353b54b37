"""SQuAD's rules for whether an answer is right."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise(text: str) -> str:
    """Lower case without ASCII punctuation, articles and extra whitespace: SQuAD's `normalize_answer`.

    Source: the official script `evaluate-v2.0.py` (Rajpurkar et al., arXiv 1806.03822).

    Examples:
        >>> normalise("The  U.S. Open,  a tournament")
        'us open tournament'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the prediction is one of the gold answers after `normalise`, else 0.

    As in the official v2.0 script, gold answers of which nothing is left do not count, and if that is all of them the
    right prediction is one of which nothing is left either.

    Examples:
        >>> exact_match("the Louvre.", ["Louvre", "the museum"])
        1.0
    """
    said = normalise(prediction)
    return max(float(said == normalise(answer)) for answer in golds(answers))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """The best token F1 over the gold answers, after `normalise`; gold answers count as in `exact_match`.

    Examples:
        >>> token_f1("in the Louvre museum", ["Louvre"])
        0.5
    """
    return max(_f1(normalise(prediction).split(), normalise(answer).split()) for answer in golds(answers))


def golds(answers: Sequence[str]) -> Sequence[str]:
    """The gold answers that count: those of which `normalise` leaves something, or one of which it leaves nothing."""
    return [answer for answer in answers if normalise(answer)] or [""]


def _f1(said: list[str], gold: list[str]) -> float:
    if not said or not gold:
        return float(said == gold)
    same = sum((Counter(said) & Counter(gold)).values())
    return 2 * same / (len(said) + len(gold))
