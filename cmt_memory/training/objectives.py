"""What a memory is trained on: each objective is a function of logits or slots to one number.

Answers and predictions come as the rows of one matrix, `[n, V]`, one row for each token to be predicted, whatever
question it belongs to; so every token counts alike.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor


def answer_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy `L(LM(q_i; π(M*)), y_i)` of `[n, V]` logits and `[n]` token ids."""
    return F.cross_entropy(logits.float(), targets)


def memory_aware_logits(with_memory: Tensor, without: Tensor, alpha: float) -> Tensor:
    """`(1+α)·l(y|M*,q) − α·l(y|q)` (CMT, arXiv 2412.07393), `[n, V]`; no gradient flows to the second term.

    With α > 0 it amplifies what the memory changes, with α < 0 it dampens it.
    """
    return (1 + alpha) * with_memory.float() - alpha * without.detach().float()


def distillation_loss(
    student: Tensor, teacher: Tensor, *, top_k: int | None = None, temperature: float = 1.0
) -> Tensor:
    """Mean KL divergence teacher ‖ student over the rows, in nats, times the squared temperature (arXiv 1503.02531).

    Args:
        student: `[n, V]` logits with the memory.
        teacher: `[n, V]` logits of the same LM reading the text; no gradient flows to them.
        top_k: compare the teacher's k most likely tokens one by one and all others as one outcome, which is a lower
            bound of the whole divergence; None compares all.
        temperature: divides both logits.
    """
    ours = (student.float() / temperature).log_softmax(-1)
    theirs = (teacher.detach().float() / temperature).log_softmax(-1)
    if top_k is not None and top_k < theirs.shape[-1]:
        theirs, chosen = theirs.topk(top_k)
        theirs, ours = _with_rest(theirs), _with_rest(ours.gather(-1, chosen))
    return temperature**2 * F.kl_div(ours, theirs, log_target=True, reduction="batchmean")


def _with_rest(log_probabilities: Tensor) -> Tensor:
    """`[n, k]` log-probabilities of some outcomes, and of all others as one more."""
    rest = (1 - log_probabilities.exp().sum(-1, keepdim=True)).clamp(min=1e-7).log()
    return torch.cat([log_probabilities, rest], dim=-1)


def importance_loss(shares: Sequence[Tensor], told: Sequence[Tensor]) -> Tensor:
    """`−log` of the share of a document's slots that goes to tokens of answers, mean over the documents that have any.

    Args:
        shares: what share of a slot each token takes, `[n]` a document; at least one document.
        told: which tokens are answers', `[n]` booleans a document.
    """
    found = [(share, where) for share, where in zip(shares, told, strict=True) if where.any()]
    parts = [(share.sum() / share[where].sum()).log() for share, where in found]
    return torch.stack(parts).mean() if parts else shares[0].sum() * 0


def pooled(slots: Tensor) -> Tensor:
    """`[d]`: the mean of `[k, d]` slots, of length 1, as a search by memories compares them."""
    return F.normalize(slots.float().mean(0), dim=0)


def self_matching_loss(questions: Tensor, memories: Tensor, own: Tensor, balance: float) -> Tensor:
    """`−cos(q_i, M^i) + λ·log Σ_{j≠i} exp(−|M^i − M^j|²)`, mean over the questions (CMT, arXiv 2412.07393).

    The first term draws a question to its document, the second pushes documents apart. Distances are those of vectors
    of length 1, because exp underflows for any others.

    Args:
        questions: `[n, d]` pooled memories of the questions.
        memories: `[m, d]` pooled memories of the batch's documents.
        own: `[n]`, which of them holds each question's answer.
        balance: λ; without effect where the batch has a single document.
    """
    questions, memories = F.normalize(questions.float(), dim=-1), F.normalize(memories.float(), dim=-1)
    mine = memories[own]
    loss = -(questions * mine).sum(-1)
    if len(memories) > 1 and balance:
        distances = (mine[:, None] - memories[None]).square().sum(-1)
        itself = F.one_hot(own, len(memories)).bool()
        loss = loss + balance * (-distances).masked_fill(itself, -torch.inf).logsumexp(-1)
    return loss.mean()
