"""Which precision a device computes faster in."""

from __future__ import annotations

from typing import Literal

import torch


def takes_bfloat16(setting: bool | Literal["auto"], device: torch.device) -> bool:
    """Tell whether to compute in bfloat16.

    A CPU without tile registers (Intel AMX) takes up to twice as long for bfloat16 as for float32; one with them is
    faster. The same processor always gets the same answer, so that a resumed run computes as before.

    Args:
        setting: What the configuration says; ``auto`` asks for what is faster.
        device: Where to compute.
    """
    if setting != "auto":
        return setting
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_amx_tile_supported())
