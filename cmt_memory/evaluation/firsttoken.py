"""Time to first token in the arms of an evaluation, a question at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from cmt_memory.evaluation.arms import Arms, Case
from cmt_memory.evaluation.measuring import median, spread

TIMED = ("none", "text", "memory", "truncated", "extract")
"""Arms that are timed; a memory is made before, as a store has it, and read from its bytes on the clock."""


def time_first_tokens(arms: Arms, wanted: Sequence[str], cases: Iterable[Case]) -> Iterable[dict[str, float]]:
    """Milliseconds from a question and what was found for it to the first token, by arm, for each case.

    Tokenising, reading memories from their bytes, and choosing sentences count; the search, which is the same for all
    arms, does not. The arms take turns at going first, and each is warmed up.

    Args:
        arms: which answer with one token.
        wanted: names of arms.
        cases: questions, each timed alone.
    """
    for number, case in enumerate(cases):
        [memory] = arms.answer("memory", [case])  # makes the memories, which the clock is not to see
        calls: dict[str, Callable[[], object]] = {
            arm: lambda arm=arm, case=case, memory=memory: arms.answer(arm, [case], [memory])  # type: ignore[misc]
            for arm in wanted
        }
        if number == 0:
            for call in calls.values():
                call()
        turn = number % len(wanted)
        took = {}
        for arm in (*wanted[turn:], *wanted[:turn]):
            started = time.perf_counter()
            calls[arm]()
            took[arm] = 1000 * (time.perf_counter() - started)
        yield took


def times(measured: Sequence[dict[str, float]]) -> dict[str, dict[str, Any]]:
    """Median, 10th and 90th percentile of each arm, in milliseconds."""
    return {
        arm: {"median": median([row[arm] for row in measured], 2), **spread([row[arm] for row in measured], 2)}
        for arm in measured[0]
    }
