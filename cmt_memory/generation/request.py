"""What a call of the generator asks for, and what comes back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cmt_memory.documents import Usage
from cmt_memory.errors import InvalidInputError
from cmt_memory.generation.prompts import Prompt
from cmt_memory.model.memory import Memory


@dataclass(slots=True)
class Completion:
    """What an LM wrote.

    Attributes:
        text: the answer alone, never the prompt.
        usage: token and slot counts.
        timings: seconds by stage: `prefix`, `first_token` (since the call), `total`.
        finish_reason: `"stop"` (end of sequence or a stop string) or `"length"`.
        memories: how many of the given memories were used, counted from the most relevant.
        signals: how sure the LM was of its tokens, by name, see `Certainty.finish`; empty after a beam search.
    """

    text: str
    usage: Usage = field(default_factory=Usage)
    timings: dict[str, float] = field(default_factory=dict)
    finish_reason: str = "stop"
    memories: int = 0
    signals: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Settings:
    """Decoding settings; see `CMTGenerator.generate`."""

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stop: tuple[str, ...] | str | None = None
    alpha: float = 0.0
    num_beams: int = 1

    def __post_init__(self) -> None:
        """Refuse what no LM could do."""
        _check(
            _is_int(self.max_new_tokens) and self.max_new_tokens >= 1,
            "max_new_tokens",
            self.max_new_tokens,
            "≥ 1",
        )
        _check(_is_number(self.temperature) and self.temperature >= 0, "temperature", self.temperature, "≥ 0")
        _check(_is_number(self.top_p) and 0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _check(
            self.seed is None or (_is_int(self.seed) and 0 <= self.seed < 2**63),
            "seed",
            self.seed,
            "a whole number from 0 to 2**63 - 1, or None",
        )
        _check(_is_number(self.alpha), "alpha", self.alpha, "a finite number")
        _check(_is_int(self.num_beams) and self.num_beams >= 1, "num_beams", self.num_beams, "≥ 1")
        if self.num_beams > 1 and (self.temperature > 0 or self.alpha):
            raise InvalidInputError("Beam search goes with temperature=0 and alpha=0.")


@dataclass(frozen=True, slots=True)
class Row:
    """One question on its way through the LM: its prompt, its memories' keys, and how to load some of them."""

    prompt: Prompt
    keys: tuple[str, ...] = ()
    load: Callable[[int, int], list[Memory]] = lambda start, stop: []
    texts: tuple[str, ...] | None = None


def checked_settings(
    max_new_tokens: int,
    temperature: float,
    top_p: float,
    seed: int | None,
    stop: Sequence[str] | str | None,
    alpha: float,
    num_beams: int = 1,
) -> Settings:
    """Checked settings from the arguments of a call."""
    stops = stop if stop is None or isinstance(stop, str) else tuple(stop) if isinstance(stop, Sequence) else stop
    return Settings(max_new_tokens, temperature, top_p, seed, stops, alpha, num_beams)


def _is_int(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < float("inf")


def _check(fine: bool, name: str, value: object, expected: str) -> None:
    if not fine:
        raise InvalidInputError(f"{name} must be {expected}, not {value!r}.")
