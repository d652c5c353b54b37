"""The maps' start: what answers depend on is kept before what varies most."""

from __future__ import annotations

import pytest
import torch

from cmt_memory import CMTModel
from cmt_memory.training.config import Objectives
from cmt_memory.training.learner import Learner
from cmt_memory.training.sensitivity import _FLOOR, _Metric, weigh_maps
from tests.tiny import tiny_model
from tests.training.helpers import TEXTS, start, units


def loss_of(model: CMTModel, asked) -> float:
    made = Learner(model, Objectives(), 4096).eval()
    with torch.no_grad():
        return sum(float(made.answered(unit)) for unit in asked) / len(asked)


@pytest.mark.parametrize("count", [5, 40])
def test_the_metric_is_the_root_of_what_the_gradients_say(count):
    torch.manual_seed(0)
    gradients, rows = torch.randn(count, 12) * torch.logspace(-3, 0, 12), torch.randn(7, 12)
    metric = _Metric(gradients)
    scaled = gradients / gradients.square().mean().sqrt()
    squared = scaled.T @ scaled / count + _FLOOR * torch.eye(12)
    assert torch.allclose(metric.times(metric.times(rows)), rows @ squared, atol=1e-4)
    assert torch.allclose(metric.divided(metric.times(rows)), rows, atol=1e-3)  # float32, stretched by 30


def test_fewer_numbers_lose_less_of_other_questions():
    """On the bundled LM; the questions that are asked are not those that the maps were fitted by."""
    model = start(CMTModel.from_llm("cmt-tiny"), TEXTS, latent=64, causal=True, rank=1)
    mine, others = ([u[i] for i in range(6)] for u in (units(model, seed="fit"), units(model, seed="asked")))
    before = loss_of(model, others)
    weigh_maps(model, mine, 4096)
    assert loss_of(model, others) < before - 0.3


def test_maps_of_full_size_lose_nothing():
    base = tiny_model("llama", "plain")
    whole = start(base, TEXTS, latent=base.lm.layout.width, rank=1)
    asked = [units(whole)[i] for i in range(4)]
    full = loss_of(whole, asked)
    weigh_maps(whole, asked, 4096)
    assert loss_of(whole, asked) == pytest.approx(full, abs=1e-4)


def test_a_model_is_as_it_was_but_for_its_maps():
    model = start(tiny_model("llama", "plain"), TEXTS, latent=24, rank=2)
    names = set(model.compressor.state_dict()) | set(model.aligner.state_dict())
    before = {name: tensor.clone() for name, tensor in model.compressor.state_dict().items()}
    parts = model.compressor.down, model.aligner
    weigh_maps(model, [units(model)[0]], 4096)
    assert (model.compressor.down, model.aligner) == parts
    assert set(model.compressor.state_dict()) | set(model.aligner.state_dict()) == names
    changed = {name for name, t in model.compressor.state_dict().items() if not torch.equal(t, before[name])}
    assert changed == {"down.components", "down.scale", "down.bias"}
    assert all(parameter.grad is None for parameter in model.compressor.parameters())
