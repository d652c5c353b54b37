"""From token ids to text as they come: incremental decoding, stop strings, and the watch over a running answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase, StoppingCriteria


class TextStream:
    """Decodes one answer token by token into pieces that, joined, are the final text.

    A piece is held back while it could still change: an unfinished character, white space that may turn out to
    be the end, or the beginning of a stop string. Leading white space is dropped.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, stop: Sequence[str], eos: Iterable[int]) -> None:
        self._tokenizer = tokenizer
        self._stop = tuple(stop)
        self._ids: list[int] = []
        self._window = 0
        self._read = 0
        self._pending = ""
        self._ended = False
        self._eos = frozenset(eos)
        self.text = ""
        self.stopped = False

    @property
    def n_tokens(self) -> int:
        """Tokens generated, an end-of-sequence token not counted."""
        return len(self._ids)

    @property
    def n_steps(self) -> int:
        """Tokens generated, with an end-of-sequence token."""
        return len(self._ids) + self._ended

    @property
    def complete(self) -> bool:
        """Whether the answer ended by itself: end of sequence or a stop string."""
        return self._ended or self.stopped

    def push(self, ids: Sequence[int]) -> str:
        """Take new token ids and return the piece of text that is now certain."""
        for token_id in ids:
            if self.complete:
                return ""
            if token_id in self._eos:
                self._ended = True
                return ""
            self._ids.append(token_id)
        before = self._decode(self._window, self._read)
        now = self._decode(self._window, len(self._ids))
        if len(now) <= len(before) or now.endswith("\ufffd"):
            return ""
        self._window, self._read = self._read, len(self._ids)
        self._pending += now[len(before) :]
        return self._release(final=False)

    def finish(self) -> str:
        """The rest, when no more tokens come."""
        if self.stopped:
            return ""
        before = self._decode(self._window, self._read)
        self._pending += self._decode(self._window, len(self._ids))[len(before) :]
        return self._release(final=True)

    def _decode(self, start: int, stop: int) -> str:
        return str(self._tokenizer.decode(self._ids[start:stop], skip_special_tokens=True))

    def _release(self, *, final: bool) -> str:
        if not self.text:
            self._pending = self._pending.lstrip()
        cuts = [cut for stop in self._stop if (cut := self._pending.find(stop)) >= 0]
        if cuts:
            self.stopped = True
            piece, self._pending = self._pending[: min(cuts)].rstrip(), ""
        elif final:
            piece, self._pending = self._pending.rstrip(), ""
        else:
            keep = len(self._pending.rstrip()) - self._held_back(self._pending.rstrip())
            keep = min(keep, len(self._pending) - self._held_back(self._pending))
            piece = self._pending[:keep].rstrip()
            self._pending = self._pending[len(piece) :]
        self.text += piece
        return piece

    def _held_back(self, text: str) -> int:
        """How many last characters could be the beginning of a stop string."""
        longest = 0
        for stop in self._stop:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest


class Watch(StoppingCriteria):
    """Sees every new token of a running `generate`: times the first, decodes, stops rows, cancels.

    Args:
        streams: one a row.
        prompt_length: how many ids of `input_ids` are the prompt.
        on_piece: called with (row, piece) for every certain piece of text.
        started: `time.perf_counter()` at the request.
    """

    def __init__(
        self,
        streams: Sequence[TextStream],
        prompt_length: int,
        started: float,
        on_piece: Callable[[int, str], None] | None = None,
    ) -> None:
        self.streams = streams
        self.first_token: float | None = None
        self.cancelled = False
        self._seen = prompt_length
        self._started = started
        self._on_piece = on_piece

    def __call__(self, input_ids: Tensor, scores: Tensor, **kwargs: object) -> Tensor:
        """Which rows are done."""
        if self.first_token is None:
            self.first_token = time.perf_counter() - self._started
        new = input_ids[:, self._seen :].tolist()
        self._seen = input_ids.shape[1]
        for row, ids in enumerate(new):
            piece = self.streams[row].push(ids)
            if piece and self._on_piece is not None:
                self._on_piece(row, piece)
        done = [self.cancelled or stream.stopped for stream in self.streams]
        return torch.tensor(done, device=input_ids.device)
