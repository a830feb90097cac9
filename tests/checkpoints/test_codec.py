"""The kernels against torch's own conversions and against plain numpy."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unetscope.checkpoints import codec, kernel_numba, kernel_torch
from unetscope.checkpoints.dtypes import CARRIERS, DTYPES

FLOATS = ["F16", "BF16", "F8_E4M3", "F8_E5M2", "F32"]
KERNELS = [kernel_numba, kernel_torch]


def torch_dtype(name):
    return getattr(torch, DTYPES[name].torch)


def every_value(name) -> np.ndarray:
    """All bit patterns of a format (a sample of fp32's), as its carrier."""
    carrier = CARRIERS[name]
    size = np.dtype(carrier).itemsize
    if size == 4:
        bits = np.random.default_rng(0).integers(0, 2**32, 200_000, dtype=np.uint32)
        return bits.view(np.float32)
    return np.arange(2 ** (8 * size)).astype(f"<u{size}").view(carrier)


def hard_values() -> np.ndarray:
    """fp32 values around every rounding boundary of the narrow formats, and random bits."""
    out = [np.random.default_rng(1).integers(0, 2**32, 500_000, dtype=np.uint32).view(np.float32)]
    for name in ("F16", "F8_E4M3", "F8_E5M2"):
        exact = torch.from_numpy(every_value(name).view(np.uint8)).view(torch_dtype(name)).float().numpy()
        exact = np.sort(exact[np.isfinite(exact)])
        middle = ((exact[:-1].astype(np.float64) + exact[1:]) / 2).astype(np.float32)
        out += [exact, middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))]
    out.append(np.float32([0.0, -0.0, 448, 449, 464, 465, 480, 57344, 61439, 61440, 65504, 65519, 65520, 1e38, 3.4e38]))
    values = np.concatenate(out)
    return values[~np.isnan(values)]


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", FLOATS)
def test_decoding_every_bit_pattern_equals_torch(kernel, name):
    source = every_value(name)
    out = np.empty(source.size, np.float32)
    kernel.decode(source, out)
    expected = torch.from_numpy(source.view(np.uint8)).view(torch_dtype(name)).float().numpy()
    np.testing.assert_array_equal(out, expected)
    np.testing.assert_array_equal(np.signbit(out), np.signbit(expected))


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("name", FLOATS)
def test_encoding_rounds_as_torch_does_and_counts_what_is_not_finite(kernel, name):
    values = hard_values()
    out = np.empty(values.size, CARRIERS[name])
    bad = kernel.encode(values, out, codec.finite_limit(DTYPES[name]))
    largest = 448 if name == "F8_E4M3" else np.inf  # E4M3 has no infinity: 464 and more would be 480
    expected = torch.from_numpy(values).clamp(-largest, largest).to(torch_dtype(name)).float()
    got = torch.from_numpy(out.view(np.uint8)).view(torch_dtype(name)).float()
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
    sources = np.empty(values.shape, CARRIERS[name])
    for row, source in zip(values, sources, strict=True):
        kernel_torch.encode(row, source, np.float32(np.inf))
    coefficients = rng.standard_normal(inputs).astype(np.float32)
    out = [np.empty(size, sources.dtype) for _ in KERNELS]
    before = sources.tobytes()
    bad = [k.linear(sources, coefficients, anchor, o, np.float32(np.inf)) for k, o in zip(KERNELS, out, strict=True)]
    assert bad == [0, 0]
    assert sources.tobytes() == before
    assert out[0].tobytes() == out[1].tobytes()
    # Worked out in numpy, one fp32 operation at a time.
    x = [np.empty(size, np.float32) for _ in range(inputs)]
    for decoded, source in zip(x, sources, strict=True):
        kernel_torch.decode(source, decoded)
    first = max(anchor, 0)
    base = x[first] if anchor >= 0 else np.zeros(size, np.float32)
    total = np.zeros(size, np.float32) if anchor >= 0 else coefficients[0] * x[0]
    for i in range(inputs):
        if i != first:
            total = total + coefficients[i] * (x[i] - base)
    expected = np.where(total == 0, base, base + total) if anchor >= 0 else total
    result = np.empty(size, sources.dtype)
    kernel_torch.encode(expected.astype(np.float32), result, np.float32(np.inf))
    assert out[0].tobytes() == result.tobytes()


@pytest.mark.parametrize("kernel", KERNELS)
def test_not_finite_inputs_are_counted(kernel):
    source = np.array([0x3C00, 0x7C00, 0x7E00, 0xFC00, 0x7BFF], np.uint16).view(np.int16)  # 1, inf, nan, -inf, 65504
    assert kernel.count_bad(source, codec.finite_limit(DTYPES["F16"])) == 3
    out = np.empty(5, np.int16)
    pair = np.stack([source, source])
    assert kernel.linear(pair, np.float32([0.5, 0.5]), 0, out, codec.finite_limit(DTYPES["F16"])) == 3


def machine_code(*code: str, cache) -> str:
    """What a fresh process prints that keeps its machine code in `cache` alone."""
    start = "from pathlib import Path; from unetscope.checkpoints import machine_code as m; import sys, numpy as np\n"
    start += f"m._folders = lambda: [Path({str(cache)!r})]\n"
    start += "loop = lambda: m.loop('count_bad', np.dtype(np.float32), np.dtype(np.float32))\n"
    start += "x = np.float32([1, np.inf, 3]); count = lambda: loop()(x.ctypes.data, 3, 2.0)\n"
    out = subprocess.run([sys.executable, "-c", start + "\n".join(code)], capture_output=True, text=True, check=True)
    return out.stdout.strip()


def test_compiled_code_is_kept_loaded_without_numba_and_made_anew_when_it_is_damaged(tmp_path):
    count = "print(count(), 'numba' in sys.modules)"
    assert machine_code(count, cache=tmp_path) == "2 True"
    (kept,) = tmp_path.iterdir()
    content = kept.read_bytes()
    assert machine_code(count, cache=tmp_path) == "2 False"
    kept.write_bytes(content[:-1])
    assert machine_code(count, cache=tmp_path) == "2 True"
    assert kept.read_bytes()[-1:] == content[-1:]
    assert machine_code(count, cache="/dev/null/nowhere") == "2 True"


def test_arrays_with_gaps_are_not_given_to_compiled_code():
    with pytest.raises(ValueError, match="contiguous"):
        kernel_numba.count_bad(np.ones(8, np.float32)[::2], np.float32(1))
