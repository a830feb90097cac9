"""Both kernels against torch's own conversions, and against one another."""

import inspect

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unetscope.checkpoints.dtypes import DTYPES, F16, F32
from unetscope.checkpoints.errors import UnetscopeError
from unetscope.checkpoints.kernels import compiled, kernel, reference
from unetscope.checkpoints.kernels.definitions import SIGNATURES

FLOATS = ["F16", "BF16", "F8_E4M3", "F8_E5M2", "F32"]
KERNELS = [compiled, reference]
BOTH = pytest.mark.parametrize("kernels", KERNELS, ids=["numba", "numpy"])


def torch_dtype(name):
    return getattr(torch, DTYPES[name].torch)


def every_value(name) -> np.ndarray:
    """All bit patterns of a format (a sample of fp32's), as bytes."""
    size = DTYPES[name].size
    if size == 4:
        return np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32).view(np.uint8)
    return np.arange(2 ** (8 * size)).astype(f"<u{size}").view(np.uint8)


def hard_values() -> np.ndarray:
    """fp32 values around every rounding boundary of the narrow formats, and random bits."""
    out = [np.random.default_rng(1).integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)]
    for name in ("F16", "F8_E4M3", "F8_E5M2"):
        exact = torch.from_numpy(every_value(name)).view(torch_dtype(name)).float().numpy()
        exact = np.sort(exact[np.isfinite(exact)])
        middle = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
        out += [exact, middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    out.append(np.float32([0.0, -0.0, 448, 449, 464, 465, 480, 57344, 61439, 61440, 65504, 65519, 65520, 1e38, 3.4e38]))
    values = np.concatenate(out)
    return values[~np.isnan(values)]


@pytest.mark.one_by_one
@BOTH
@pytest.mark.parametrize("name", FLOATS)
def test_decoding_every_bit_pattern_equals_torch(kernels, name):
    source = every_value(name)
    out = np.empty(source.size // DTYPES[name].size, np.float32)
    kernels.decode(source, DTYPES[name], out)
    expected = torch.from_numpy(source).view(torch_dtype(name)).float().numpy()
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


@pytest.mark.one_by_one
@BOTH
@pytest.mark.parametrize("name", FLOATS)
def test_encoding_rounds_as_torch_does_and_counts_what_is_not_finite(kernels, name):
    values = hard_values()
    out = np.empty(values.size * DTYPES[name].size, np.uint8)
    bad = kernels.encode(values, DTYPES[name], out)
    largest = 448 if name == "F8_E4M3" else np.inf  # E4M3 has no infinity: 464 and more would be 480
    expected = torch.from_numpy(values).clamp(-largest, largest).to(torch_dtype(name)).float()
    got = torch.from_numpy(out).view(torch_dtype(name)).float()
    assert torch.equal(got, expected)
    beyond = np.abs(values) > 464 if name == "F8_E4M3" else ~torch.isfinite(expected).numpy()
    assert bad == beyond.sum()


@pytest.mark.parametrize("name", FLOATS)
@pytest.mark.parametrize("anchor", [-1, 0, 1])
@settings(max_examples=25, deadline=None)
@given(inputs=st.integers(2, 6), size=st.integers(1, 5000), seed=st.integers(0, 2**32 - 1))
def test_both_kernels_combine_to_the_same_bytes(name, anchor, inputs, size, seed):
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((inputs, size)) * 10.0 ** rng.integers(-6, 2)).astype(np.float32)
    values[:, ::7] = values[0, ::7]
    values[:, ::11] *= -0.0
    dtype = DTYPES[name]
    sources = torch.from_numpy(values).to(torch_dtype(name))
    rows = sources.view(torch.uint8).numpy()
    coefficients = rng.standard_normal(inputs).astype(np.float32)
    out = [np.empty(size * dtype.size, np.uint8) for _ in KERNELS]
    before = rows.tobytes()
    bad = [k.linear(rows, dtype, coefficients, anchor, o, dtype) for k, o in zip(KERNELS, out, strict=True)]
    assert bad[0] == bad[1]
    assert rows.tobytes() == before
    assert out[0].tobytes() == out[1].tobytes()
    # Worked out in numpy, one fp32 operation at a time, and rounded by torch.
    x = sources.float().numpy()
    first = max(anchor, 0)
    base = x[first] if anchor >= 0 else np.zeros(size, np.float32)
    total = np.zeros(size, np.float32) if anchor >= 0 else coefficients[0] * x[0]
    for i in range(inputs):
        if i != first:
            total = total + coefficients[i] * (x[i] - base)
    expected = np.where(total == 0, base, base + total) if anchor >= 0 else total
    largest = 448 if name == "F8_E4M3" else np.inf
    rounded = torch.from_numpy(expected.astype(np.float32)).clamp(-largest, largest).to(torch_dtype(name))
    assert out[0].tobytes() == rounded.view(torch.uint8).numpy().tobytes()
    assert bad[0] == (np.abs(expected) > dtype.limit).sum()


@BOTH
def test_not_finite_inputs_are_counted(kernels):
    source = np.array([0x3C00, 0x7C00, 0x7E00, 0xFC00, 0x7BFF], np.uint16)  # 1, inf, nan, -inf, 65504
    assert kernels.count_bad(source, F16) == 3
    out = np.empty(5, np.int16)
    pair = np.stack([source, source])
    assert kernels.linear(pair, F16, np.float32([0.5, 0.5]), 0, out, F16) == 3
    assert kernels.count_bad(np.float32([1, 65519, 65520, -1e9, np.nan]), F32, F16) == 3


@pytest.mark.parametrize("name", FLOATS)
def test_both_kernels_read_and_write_nan_with_the_same_bits(name):
    bits = np.random.default_rng(2).integers(0, 1 << 23, 2_000, dtype=np.uint32)
    values = (bits | np.uint32(0x7F800001) | np.uint32(1 << 31) * (bits & np.uint32(1))).view(np.float32)
    dtype, written, read = DTYPES[name], [], []
    for kernels in KERNELS:
        out, back = (
            np.empty(values.size * dtype.size, np.uint8),
            np.empty(every_value(name).size // dtype.size, np.float32),
        )
        assert kernels.encode(values, dtype, out) == values.size
        kernels.decode(every_value(name), dtype, back)
        written.append(out.tobytes())
        read.append(back.tobytes())
    assert written[0] == written[1] and read[0] == read[1]


@pytest.mark.parametrize("name", [*FLOATS, "F64"])
def test_the_table_of_formats_says_what_ml_dtypes_says(name):
    dtype = DTYPES[name]
    known = ml_dtypes.finfo(getattr(ml_dtypes, dtype.torch, dtype.torch))
    assert (dtype.max, dtype.normal, dtype.size * 8) == (float(known.max), float(known.smallest_normal), known.bits)
    if name in ("F32", "F64"):
        return
    values, out = np.float32([dtype.limit, np.nextafter(np.float32(dtype.limit), np.float32(np.inf))]), np.empty(2)
    raw = np.empty(2 * dtype.size, np.uint8)
    assert reference.encode(values, dtype, raw) == 1
    out = raw.view(getattr(ml_dtypes, dtype.torch, dtype.torch)).astype(np.float32)
    assert out[0] == dtype.max and (out[1] == np.inf or name == "F8_E4M3")


def test_both_kernels_have_the_same_functions():
    def functions(module) -> dict:
        return {
            name: list(inspect.signature(found).parameters)
            for name, found in inspect.getmembers(module, inspect.isfunction)
            if not name.startswith("_") and name not in ("supported", "loop")
        }

    here, there = functions(compiled), functions(reference)
    assert here.items() <= there.items()
    assert set(there) - set(here) == {"sizes", "random_bits"}  # what both are made of
    assert set(SIGNATURES) == set(here) - {"elected"}


@pytest.mark.parametrize(
    ("name", "expected"), [("", compiled), ("numba", compiled), ("numpy", reference), ("torch", reference)]
)
def test_a_variable_chooses_the_kernel(name, expected, monkeypatch):
    monkeypatch.setenv("UNETSCOPE_KERNEL", name)
    assert kernel.__wrapped__() is expected


def test_a_kernel_that_does_not_exist_is_refused(monkeypatch):
    monkeypatch.setenv("UNETSCOPE_KERNEL", "cuda")
    with pytest.raises(UnetscopeError, match="'cuda'"):
        kernel.__wrapped__()


def test_arrays_with_gaps_are_not_given_to_compiled_code():
    with pytest.raises(ValueError, match="contiguous"):
        compiled.count_bad(np.ones(8, np.float32)[::2], F32)
    with pytest.raises(TypeError, match="float32"):
        compiled.trim(np.ones(8), np.float32(1), np.ones(8, np.float32))
