"""What every measurement reports: medians, spreads and the machine."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers


def median(values: Sequence[float], digits: int) -> float:
    """The median, rounded."""
    return round(float(np.median(values)), digits)


def spread(values: Sequence[float], digits: int) -> dict[str, float]:
    """The 10th and 90th percentile, rounded."""
    low, high = np.percentile(values, [10, 90])
    return {"p10": round(float(low), digits), "p90": round(float(high), digits)}


def machine(device: str) -> dict[str, Any]:
    """What the measurement ran on."""
    return {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else _processor(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
