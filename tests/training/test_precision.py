"""`bf16: auto` asks the device, and what is said outright holds."""

import pytest
import torch

from cmt_memory.training.config import TrainConfig
from cmt_memory.training.precision import takes_bfloat16
from cmt_memory.training.trainer import CMTTrainingArguments


@pytest.mark.parametrize("tiles", [True, False])
def test_a_cpu_takes_bfloat16_where_it_has_tiles(monkeypatch, tiles):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    cpu = torch.device("cpu")
    assert takes_bfloat16("auto", cpu) is tiles
    assert takes_bfloat16(True, cpu) is True
    assert takes_bfloat16(False, cpu) is False


@pytest.mark.parametrize("native", [True, False])
def test_a_gpu_takes_bfloat16_where_it_need_not_emulate_it(monkeypatch, native):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation)
    assert takes_bfloat16("auto", torch.device("cuda")) is native


@pytest.mark.parametrize("tiles", [True, False])
def test_a_run_takes_it_from_its_settings(monkeypatch, tmp_path, tiles):
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: tiles)
    stage = {"task": "answers", "steps": 1}
    config = TrainConfig(output=str(tmp_path), train=[{"kind": "facts"}], stages=[stage], device="cpu", bf16="auto")
    assert CMTTrainingArguments.of(config, config.stages[0], tmp_path, 1).bf16 is tiles
