from __future__ import annotations

import contextlib
import warnings

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from cmt_memory.bank.codec import decode_memory, encode_memory
from cmt_memory.errors import CMTError, InvalidInputError, StoreCorruptError

sizes = st.tuples(st.integers(1, 40), st.sampled_from([1, 7, 64, 256, 257, 600]))
float32 = st.floats(width=32, allow_nan=False, allow_infinity=False)


def some(count: int, dims: int, seed: int, scale: float = 1.0) -> torch.Tensor:
    return torch.randn(count, dims, generator=torch.Generator().manual_seed(seed)) * scale


@given(sizes, st.integers(0, 99), st.sampled_from([1e-40, 1e-6, 1.0, 1e30]))
def test_int8_is_within_half_a_scale(size: tuple[int, int], seed: int, scale: float):
    slots = some(*size, seed, scale)
    memory = decode_memory(encode_memory(slots, torch.arange(size[0]).float(), 9))
    assert memory.slots.dtype == torch.float32
    for start in range(0, size[1], 256):
        group = slots[:, start : start + 256]
        bound = group.abs().amax(1, keepdim=True) / 254 * 1.00001 + 1e-42  # subnormal scales are coarse
        assert bool(((memory.slots[:, start : start + 256] - group).abs() <= bound).all())


@given(st.lists(float32, min_size=1, max_size=20))
def test_int8_of_any_float_is_finite(values: list[float]):
    slots = torch.tensor([values])
    decoded = decode_memory(encode_memory(slots, torch.zeros(1), 1)).slots
    assert bool(torch.isfinite(decoded).all())
    largest = slots.abs().max()
    assert bool(((decoded - slots).abs() <= largest / 200 + 1e-42).all())


@given(sizes, st.integers(0, 99), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_native_is_exact(size: tuple[int, int], seed: int, dtype: torch.dtype):
    slots = some(*size, seed).to(dtype)
    memory = decode_memory(encode_memory(slots, torch.zeros(size[0]), 9, "native"))
    assert memory.slots.dtype == dtype
    assert torch.equal(memory.slots, slots)


def test_float16_rounds():
    slots = some(5, 33, 0)
    memory = decode_memory(encode_memory(slots, torch.zeros(5), 9, "float16"))
    assert torch.equal(memory.slots, slots.half())


@given(st.lists(float32 | st.integers(0, 40_000).map(lambda n: n / 2), min_size=1, max_size=50), st.integers(0, 2**40))
def test_positions_and_token_count_are_exact(positions: list[float], n_tokens: int):
    given_positions = torch.tensor(positions)
    memory = decode_memory(encode_memory(torch.ones(len(positions), 2), given_positions, n_tokens))
    assert torch.equal(memory.positions, given_positions)
    assert memory.positions.dtype == torch.float32
    assert memory.n_tokens == n_tokens


def test_it_is_small_and_a_safetensors_file():
    blob = encode_memory(some(32, 256, 0), torch.arange(32) * 16 + 7.5, 512)
    assert len(blob) < 8_800
    assert safetensors.torch.load(blob)["slots"].shape == (32, 256)


def test_views_and_gradients_are_taken_as_they_are():
    slots = some(6, 8, 0).T[2:4].requires_grad_()
    assert torch.equal(decode_memory(encode_memory(slots, torch.zeros(2), 1, "native")).slots, slots)


def test_a_native_memory_shares_its_buffer_without_a_warning():
    buffer = bytearray(encode_memory(some(4, 8, 0), torch.zeros(4), 1, "native"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        memory = decode_memory(buffer)
    buffer[-4:] = b"\0\0\0\0"
    assert 0 in (memory.slots[-1, -1], memory.positions[-1])


@pytest.mark.parametrize(
    ("slots", "positions", "slot_dtype", "told"),
    [
        (torch.ones(2), torch.ones(2), "int8", r"slots \[2\]"),
        (torch.ones(0, 4), torch.ones(0), "int8", r"slots \[0, 4\]"),
        (torch.ones(2, 4), torch.ones(3), "int8", r"positions \[3\]"),
        (torch.tensor([[float("nan")]]), torch.ones(1), "int8", "NaN"),
        (torch.tensor([[float("inf")]]), torch.ones(1), "native", "infinite"),
        (torch.ones(1, 1), torch.tensor([float("nan")]), "int8", "NaN"),
        (torch.tensor([[70_000.0]]), torch.ones(1), "float16", "65,504"),
        (torch.ones(1, 1, dtype=torch.int64), torch.ones(1), "native", "torch.int64"),
        (torch.ones(1, 1), torch.ones(1), "int4", "slot_dtype is 'int4'"),
    ],
)
def test_what_cannot_be_kept_is_refused(slots: torch.Tensor, positions: torch.Tensor, slot_dtype: str, told: str):
    with pytest.raises(InvalidInputError, match=told):
        encode_memory(slots, positions, 1, slot_dtype)  # type: ignore[arg-type]


@pytest.mark.parametrize("blob", [b"", b"\0" * 8, b"\xff" * 64, b"{}" * 50])
def test_junk_is_refused(blob: bytes):
    with pytest.raises(StoreCorruptError):
        decode_memory(blob)


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_memory_never_escapes_as_another_error(data: st.DataObject):
    blob = bytearray(encode_memory(some(3, 8, 0), torch.arange(3).float(), 3))
    place = data.draw(st.integers(0, len(blob) - 1))
    blob[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(blob)))
    for damaged in (blob, blob[:cut]):
        with contextlib.suppress(CMTError):
            decode_memory(bytearray(damaged))
