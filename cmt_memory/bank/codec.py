"""Slots of a memory to bytes and back: one small safetensors blob per passage."""

from __future__ import annotations

import json
import struct
from typing import Any, Literal

import torch
from torch import Tensor

from cmt_memory.errors import InvalidInputError, StoreCorruptError
from cmt_memory.model.memory import Memory

SlotDtype = Literal["int8", "float16", "native"]

_GROUP = 256
_NAMES = {
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int8: "I8",
    torch.int16: "I16",
}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_NATIVE = (torch.float32, torch.float16, torch.bfloat16)
# The largest float32 that times 127 is still finite.
_MAX_SCALE = 2.679303e36


def encode_memory(slots: Tensor, positions: Tensor, n_tokens: int, slot_dtype: SlotDtype = "int8") -> bytes:
    """Write the slots of one passage as a safetensors blob.

    ``int8`` keeps one float32 scale per slot and group of 256 dims, so an error is at most half a scale, i.e.
    1/254 of the group's largest value; ``float16`` rounds; ``native`` keeps float32, float16 or bfloat16 bit
    by bit. Positions are exact: half-integers below 16,384 take two bytes each, others four.

    Args:
        slots: ``[slots, dims]``.
        positions: ``[slots]``.
        n_tokens: Tokens of the passage.
        slot_dtype: ``"int8"``, ``"float16"`` or ``"native"``.

    Raises:
        InvalidInputError: Wrong shapes, an unknown ``slot_dtype``, values that are not finite or, for
            ``float16``, beyond 65,504.
    """
    slots = slots.detach().cpu().contiguous()
    positions = positions.detach().cpu().to(torch.float32)
    if slots.ndim != 2 or 0 in slots.shape or positions.shape != slots.shape[:1]:
        raise InvalidInputError(
            f"slots {list(slots.shape)} and positions {list(positions.shape)}; expected [slots, dims] and [slots]."
        )
    if not (bool(torch.isfinite(slots).all()) and bool(torch.isfinite(positions).all())):
        raise InvalidInputError("the memory holds NaN or infinite values; compress in a wider dtype (float32).")
    tensors = {"positions": _pack_positions(positions)}
    if slot_dtype == "int8":
        tensors["scales"], tensors["slots"] = _quantise(slots.to(torch.float32))
    elif slot_dtype == "float16":
        tensors["slots"] = slots.to(torch.float16)
        if not bool(torch.isfinite(tensors["slots"]).all()):
            raise InvalidInputError("slots beyond 65,504 do not fit float16; use slot_dtype='int8' or 'native'.")
    elif slot_dtype == "native":
        if slots.dtype not in _NATIVE:
            raise InvalidInputError(f"slots are {slots.dtype}; native slots are float32, float16 or bfloat16.")
        tensors["slots"] = slots
    else:
        raise InvalidInputError(f"slot_dtype is {slot_dtype!r}; expected 'int8', 'float16' or 'native'.")
    return _serialise(tensors, n_tokens)


def decode_memory(blob: bytes | bytearray) -> Memory:
    """Read what `encode_memory` wrote.

    A ``bytearray`` is used in place: the tensors of a native memory share its storage.

    Returns:
        The memory; its slots are float32 when stored as int8, else of the stored dtype.

    Raises:
        StoreCorruptError: The blob is not a memory.
    """
    buffer = blob if isinstance(blob, bytearray) else bytearray(blob)
    try:
        (length,) = struct.unpack_from("<Q", buffer)
        header: dict[str, Any] = json.loads(buffer[8 : 8 + length])
        n_tokens = int(header.pop("__metadata__")["n_tokens"])
        base = 8 + length
        if base + max(entry["data_offsets"][1] for entry in header.values()) != len(buffer):
            raise ValueError("the length does not match the header")
        tensors = {name: _view(buffer, entry, base) for name, entry in header.items()}
        slots, positions = tensors["slots"], tensors["positions"]
        if slots.dtype == torch.int8:
            slots = _dequantise(slots, tensors["scales"])
        if positions.dtype == torch.int16:
            positions = positions.to(torch.float32).mul_(0.5)
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, struct.error) as error:
        raise StoreCorruptError(f"a stored memory of {len(buffer)} bytes cannot be read: {error}") from error
    return Memory(slots, positions, n_tokens)


def _pack_positions(positions: Tensor) -> Tensor:
    doubled = positions * 2
    if bool(((doubled == doubled.round()) & (doubled >= 0) & (doubled < 2**15)).all()):
        return doubled.to(torch.int16)
    return positions.contiguous()


def _quantise(slots: Tensor) -> tuple[Tensor, Tensor]:
    """Symmetric int8: scales ``[slots, groups]`` float32 and codes ``[slots, dims]``."""
    count, dims = slots.shape
    groups = -(-dims // _GROUP)
    padded = torch.nn.functional.pad(slots, (0, groups * _GROUP - dims)) if groups > 1 else slots
    grouped = padded.view(count, groups, -1)
    scales = (grouped.abs().amax(-1) / 127).clamp_(max=_MAX_SCALE)
    scales[scales == 0] = 1.0
    codes = (grouped / scales.unsqueeze(-1)).round_().clamp_(-127, 127).to(torch.int8)
    return scales, codes.view(count, -1)[:, :dims].contiguous()


def _dequantise(codes: Tensor, scales: Tensor) -> Tensor:
    if scales.shape[1] == 1:
        return codes.to(torch.float32).mul_(scales)
    return codes.to(torch.float32).mul_(scales.repeat_interleave(_GROUP, dim=1)[:, : codes.shape[1]])


def _serialise(tensors: dict[str, Tensor], n_tokens: int) -> bytes:
    header: dict[str, Any] = {"__metadata__": {"n_tokens": str(int(n_tokens))}}
    chunks, offset = [], 0
    # Widest first, as safetensors orders them, so that every tensor is aligned.
    for name, tensor in sorted(tensors.items(), key=lambda item: -item[1].element_size()):
        data = tensor.view(torch.uint8).numpy().tobytes()
        end = offset + len(data)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }
        chunks.append(data)
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join((struct.pack("<Q", len(text)), text, *chunks))


def _view(buffer: bytearray, entry: dict[str, Any], base: int) -> Tensor:
    start, end = entry["data_offsets"]
    dtype = _DTYPES[entry["dtype"]]
    count = (end - start) // dtype.itemsize
    return torch.frombuffer(buffer, dtype=dtype, count=count, offset=base + start).view(entry["shape"])
