"""The compiled kernel: decode, combine and encode weights without a copy in between, and without torch.

The loops themselves are in `kernel_loops`; here they are called, from numpy arrays. Each stored format travels in a numpy
type of its own, `dtypes.CARRIERS`. Arrays are contiguous.
"""

from __future__ import annotations

import platform

import llvmlite.binding
import numpy as np

from .machine_code import loop

# Elements that are worked on at a time: three fp32 tiles of this size stay in a 32 KB first-level cache.
TILE = 2048
_F32 = np.dtype(np.float32)


def supported() -> bool:
    """Whether compiled code runs here: it needs fp16 conversion in hardware, without which it cannot be linked."""
    features = llvmlite.binding.get_host_cpu_features()
    if not (features.get("f16c") or platform.machine().lower() in ("aarch64", "arm64")):
        return False
    try:
        loop("linear", np.dtype(np.int16), np.dtype(np.int16))
    except RuntimeError:  # a release of numba whose code cannot stand alone, or a system that forbids making code
        return False
    return True


def decode(source: np.ndarray, out: np.ndarray) -> None:
    """Stored elements as fp32."""
    loop("decode", source.dtype, _F32)(_address(source), _address(out), out.size)


def encode(values: np.ndarray, out: np.ndarray, limit: float) -> int:
    """Round fp32 values to the format of `out`; returns how many are not finite there (NaN, or beyond `limit`)."""
    return loop("encode", _F32, out.dtype)(_address(values), _address(out), out.size, limit)


def count_bad(source: np.ndarray, limit: float) -> int:
    """How many stored elements are not finite, or larger than `limit`."""
    return loop("count_bad", source.dtype, _F32)(_address(source), source.size, limit)


def linear(sources: np.ndarray, coefficients: np.ndarray, anchor: int, out: np.ndarray, limit: float) -> int:
    """out = sum c_i x_i, rounded once; returns how many results are not finite in the format of `out`.

    `sources` is (N, L) of one carrier type, `coefficients` N fp32 numbers. With `anchor` >= 0 the coefficients sum to one
    and the sum is taken as x_anchor + sum c_i (x_i - x_anchor), which gives equal inputs back exactly.
    """
    inputs, size = sources.shape
    scratch = np.empty(2 * TILE, np.float32)
    run = loop("linear", sources.dtype, out.dtype)
    return run(_address(sources), inputs, size, _address(coefficients), anchor, _address(scratch), _address(out), limit)


def _address(array: np.ndarray) -> int:
    if not array.flags.c_contiguous:
        raise ValueError("the kernel takes contiguous arrays")
    return array.ctypes.data
