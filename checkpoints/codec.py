"""Stored bytes <-> fp32, through whichever kernel this machine has.

`UNETSCOPE_KERNEL=numba` or `torch` chooses one; otherwise it is numba where it works. Both give the same bytes.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache

import numpy as np

from .dtypes import CARRIERS, DType
from .errors import UnetscopeError

# The largest fp32 value that still rounds to a finite one: half a step below the next power of two for formats that
# end there; 464 rounds to E4M3's 448 by ties to even.
_LIMITS = {
    "F64": np.finfo(np.float32).max,
    "F32": np.finfo(np.float32).max,
    "F16": np.nextafter(np.float32(65520), np.float32(0)),
    "BF16": np.uint32(0x7F7F7FFF).view(np.float32),
    "F8_E4M3": np.float32(464),
    "F8_E5M2": np.nextafter(np.float32(61440), np.float32(0)),
}


@cache
def kernel():
    """The kernel module in use.

    Raises:
        UnetscopeError: `UNETSCOPE_KERNEL` names one that does not exist or does not work here.
    """
    wanted = os.environ.get("UNETSCOPE_KERNEL", "")
    if wanted not in ("", "numba", "torch"):
        raise UnetscopeError(f"UNETSCOPE_KERNEL is {wanted!r}; use numba or torch, or leave it empty")
    if wanted != "torch" and importlib.util.find_spec("numba"):
        from . import kernel_numba

        if kernel_numba.supported():
            return kernel_numba
    if wanted == "numba":
        raise UnetscopeError(
            "UNETSCOPE_KERNEL is numba, but numba is not installed or this CPU lacks fp16 conversion (F16C)"
        )
    from . import kernel_torch

    return kernel_torch


def kernel_name() -> str:
    """`numba` or `torch`."""
    return kernel().__name__.rpartition("_")[2]


def finite_limit(dtype: DType) -> np.float32:
    """The largest fp32 magnitude that is still finite after rounding to `dtype`."""
    return np.float32(_LIMITS[dtype.name])


def stored(raw: np.ndarray, dtype: DType) -> np.ndarray:
    """Bytes (uint8, last axis) as elements in the numpy type that the kernel knows this format by."""
    return raw.view(CARRIERS[dtype.name])


def decode(raw: np.ndarray, dtype: DType, out: np.ndarray) -> None:
    """Raw bytes of a float dtype (1-D uint8) into `out` (1-D float32); exact but for F64, which is rounded."""
    kernel().decode(stored(raw, dtype), out)


def encode(values: np.ndarray, dtype: DType, out: np.ndarray) -> int:
    """Round `values` (1-D float32) to `dtype` into `out` (1-D uint8), to nearest, ties to even.

    Returns how many values are not finite in `dtype`: NaN, infinite, or too large (they become infinite, in E4M3 +-448).
    """
    return int(kernel().encode(values, stored(out, dtype), finite_limit(dtype)))
