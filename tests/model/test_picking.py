"""Slots cut from importance, and heads that pick one token of a slot's."""

from __future__ import annotations

import pytest
import torch

from cmt_memory.model.picking import pick, slot_positions, stretched


def test_shares_add_up_to_the_slots_and_padding_takes_none():
    importance = torch.rand(3, 11) * torch.tensor([[1.0], [50.0], [1e-3]])
    lengths, slots = torch.tensor([11, 7, 4]), torch.tensor([3, 2, 4])
    shares = stretched(importance, lengths, slots)
    torch.testing.assert_close(shares.sum(1), slots.float())
    for row, n in enumerate(lengths.tolist()):
        assert (shares[row, :n] > 0).all()
        assert (shares[row, n:] == 0).all()
        assert torch.equal(shares[row, :n].argsort(), importance[row, :n].argsort())


def test_tokens_of_no_importance_still_take_a_little():
    (shares,) = stretched(torch.tensor([[0.0, 1.0, 0.0, 0.0]]), torch.tensor([4]), torch.tensor([2]))
    assert shares[0] == pytest.approx(float(shares[1]) / 81, rel=1e-4)  # 0.05 * 0.25 against 1 + 0.05 * 0.25


def test_a_head_takes_the_token_that_lies_at_its_place():
    shares = torch.tensor([[0.1, 0.1, 1.6, 0.2, 0.9, 0.1, 0.0]])  # ends at 0.1, 0.2, 1.8, 2.0, 2.9, 3.0
    places, sharpness = torch.tensor([0.05, 0.5, 0.95]), torch.full((3,), 1e3)
    weights = pick(shares, places, sharpness, torch.zeros(1, 7, 3), 3)
    assert weights.shape == (1, 3, 3, 7)
    torch.testing.assert_close(weights.sum(-1), torch.ones(1, 3, 3))
    assert weights.argmax(-1)[0].tolist() == [[0, 2, 2], [2, 2, 3], [4, 4, 5]]
    assert (weights[..., 6] == 0).all()


def test_what_a_head_sees_moves_its_choice_and_no_sharpness_weighs_all_alike():
    shares, scores = torch.full((1, 4), 0.25), torch.zeros(1, 4, 1)
    even = pick(shares, torch.tensor([0.5]), torch.zeros(1), scores, 1)
    torch.testing.assert_close(even[0, 0, 0], torch.full((4,), 0.25))
    scores[0, 3] = 100.0
    assert pick(shares, torch.tensor([0.5]), torch.tensor([8.0]), scores, 1)[0, 0, 0, 3] > 0.99


def test_gradients_move_the_slots():
    importance = torch.rand(2, 9, requires_grad=True)
    shares = stretched(importance, torch.tensor([9, 5]), torch.tensor([3, 2]))
    weights = pick(shares, torch.tensor([0.3, 0.8]), torch.full((2,), 8.0), torch.zeros(2, 9, 2), 3)
    (weights * torch.randn_like(weights)).sum().backward()
    assert importance.grad is not None
    assert importance.grad.isfinite().all()
    assert (importance.grad[0] != 0).all()
    assert (importance.grad[1, 5:] == 0).all()


def test_slots_of_even_shares_lie_in_the_middle_of_their_spans():
    assert slot_positions(torch.full((12,), 0.25), 3).tolist() == [1.5, 5.5, 9.5]
    assert slot_positions(torch.tensor([0.5, 1.5, 0.5, 0.5]), 3).tolist() == pytest.approx(
        [0.5, 1.5 - 1 / 6, 2.5], abs=0.2
    )
