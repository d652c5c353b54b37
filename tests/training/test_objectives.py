"""Each objective against its formula, written out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from cmt_memory.training.objectives import (
    answer_loss,
    distillation_loss,
    importance_loss,
    memory_aware_logits,
    pooled,
    self_matching_loss,
)


def softmax(row):
    exps = [math.exp(value) for value in row]
    return [value / sum(exps) for value in exps]


LOGITS = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, -2.0, 3.0, 1.0]])
OTHER = torch.tensor([[0.5, 0.0, 1.0, -0.5], [2.0, 1.0, 0.0, -1.0]])


def test_answer_loss_is_the_mean_negative_log_likelihood():
    expected = -sum(math.log(softmax(row)[target]) for row, target in zip(LOGITS.tolist(), [1, 3], strict=True)) / 2
    assert answer_loss(LOGITS, torch.tensor([1, 3])).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("alpha", [-0.5, 0.0, 0.7])
def test_memory_aware_logits(alpha):
    student, closed = LOGITS.clone().requires_grad_(), OTHER.clone().requires_grad_()
    combined = memory_aware_logits(student, closed, alpha)
    for i in range(2):
        for j in range(4):
            expected = (1 + alpha) * LOGITS[i, j].item() - alpha * OTHER[i, j].item()
            assert combined[i, j].item() == pytest.approx(expected, abs=1e-6)
    combined.sum().backward()
    assert closed.grad is None
    assert torch.allclose(student.grad, torch.full_like(student, 1 + alpha))


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_distillation_is_the_divergence_from_teacher_to_student(temperature):
    expected = 0.0
    for ours, theirs in zip(LOGITS.tolist(), OTHER.tolist(), strict=True):
        p, q = softmax([v / temperature for v in theirs]), softmax([v / temperature for v in ours])
        expected += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True)) / 2
    student, teacher = LOGITS.clone().requires_grad_(), OTHER.clone().requires_grad_()
    loss = distillation_loss(student, teacher, temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * expected, abs=1e-6)
    loss.backward()
    assert teacher.grad is None
    assert student.grad.abs().max() > 0
    assert distillation_loss(OTHER, OTHER).item() == pytest.approx(0, abs=1e-7)


def test_top_k_distillation_counts_the_rest_as_one_outcome():
    expected = 0.0
    for ours, theirs in zip(LOGITS.tolist(), OTHER.tolist(), strict=True):
        p, q = softmax(theirs), softmax(ours)
        top = sorted(range(4), key=lambda i: -p[i])[:2]
        outcomes = [(p[i], q[i]) for i in top] + [(1 - sum(p[i] for i in top), 1 - sum(q[i] for i in top))]
        expected += sum(a * math.log(a / b) for a, b in outcomes) / 2
    top = distillation_loss(LOGITS, OTHER, top_k=2).item()
    whole = distillation_loss(LOGITS, OTHER).item()
    assert top == pytest.approx(expected, abs=1e-6)
    assert top < whole
    assert distillation_loss(LOGITS, OTHER, top_k=4).item() == pytest.approx(whole, abs=1e-6)
    assert distillation_loss(LOGITS, OTHER, top_k=3).item() == pytest.approx(whole, abs=1e-5)  # the rest is one token


def test_self_matching_against_the_formula():
    questions = torch.tensor([[1.0, 0.0], [0.6, 0.8], [0.0, 2.0]])
    memories = torch.tensor([[3.0, 4.0], [0.0, 1.0], [-1.0, 0.0]])
    own, balance = [0, 2, 0], 0.3
    unit = [[0.6, 0.8], [0.0, 1.0], [-1.0, 0.0]]
    asked = [[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]]
    expected = 0.0
    for q, i in zip(asked, own, strict=True):
        cosine = sum(a * b for a, b in zip(q, unit[i], strict=True))
        apart = sum(
            math.exp(-sum((a - b) ** 2 for a, b in zip(unit[i], unit[j], strict=True))) for j in range(3) if j != i
        )
        expected += (-cosine + balance * math.log(apart)) / 3
    loss = self_matching_loss(questions, memories, torch.tensor(own), balance)
    assert loss.item() == pytest.approx(expected, abs=1e-5)


def test_self_matching_survives_large_slots_and_a_single_document():
    large = 1e4 * torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    large.requires_grad_()
    loss = self_matching_loss(large, large, torch.arange(5), 1.0)
    assert math.isfinite(loss.item())
    loss.backward()
    assert torch.isfinite(large.grad).all()
    one = self_matching_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), torch.tensor([0]), 1.0)
    assert one.item() == pytest.approx(0)


def test_pooled_is_what_a_memory_is_searched_by():
    from cmt_memory.model.memory import Memory

    slots = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(pooled(slots), Memory(slots, torch.arange(3.0), 12).pooled)


def test_importance_is_the_share_of_slots_that_answers_get():
    shares = [torch.tensor([0.5, 0.5, 1.0], requires_grad=True), torch.ones(4), torch.tensor([3.0, 1.0])]
    told = [torch.tensor([False, True, True]), torch.zeros(4).bool(), torch.tensor([False, True])]
    loss = importance_loss(shares, told)
    assert loss.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    loss.backward()
    assert shares[0].grad[0] > 0 > shares[0].grad[1]
    assert importance_loss([torch.ones(4)], [torch.zeros(4).bool()]).item() == 0
