"""How sure the LM was of the tokens that it chose, from the logits that decoding makes anyway."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import LogitsProcessor


class Certainty(LogitsProcessor):
    """Keeps the log-probability of every chosen token.

    It stands before all other processors, so it sees what the LM says whatever is made of it (temperature, contrast),
    and it waits for no device before the answers are there.

    Args:
        prompt_length: how many ids of `input_ids` are the prompt.
    """

    def __init__(self, prompt_length: int) -> None:
        self._length = prompt_length
        self._logits: Tensor | None = None
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Note `[B, vocabulary]` logits and return them as they are."""
        self._settle(input_ids)
        self._logits = scores
        return scores

    def finish(self, output: Tensor, lengths: Sequence[int]) -> list[dict[str, float]]:
        """What each row's answer was chosen with, by name.

        All are log-probabilities: `mean` of all tokens of the answer, `least` of the least likely one, `first` of the
        one that it begins with.

        Args:
            output: `[B, prompt + answer]` all ids.
            lengths: tokens of each answer, with an end-of-sequence token.
        """
        self._settle(output)
        chosen = torch.stack(self._chosen, dim=1).cpu()
        return [_summary(chosen[row, :length]) for row, length in enumerate(lengths)]

    def _settle(self, ids: Tensor) -> None:
        """Look up the token that was chosen from the last logits, now that it is known."""
        place = self._length + len(self._chosen)
        if self._logits is None or ids.shape[1] <= place:
            return
        logits = self._logits.float()
        self._chosen.append(logits.gather(1, ids[:, place : place + 1])[:, 0] - logits.logsumexp(-1))
        self._logits = None


def _summary(chosen: Tensor) -> dict[str, float]:
    return {"mean": float(chosen.mean()), "least": float(chosen.min()), "first": float(chosen[0])}
