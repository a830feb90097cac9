"""The numbers of a LoRA's own tensors: whole, in rows, or one alone, as float64."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import numpy as np

from ..checkpoint import Checkpoint, TensorInfo
from ..errors import CheckpointError
from ..kernels import kernel

# Rows `start` to `stop` of a matrix, float64.
Rows = Callable[[int, int], np.ndarray]
# Those that numpy knows; it reads a scalar without loading a kernel.
_NUMPY = {"F16": np.float16, "F32": np.float32, "F64": np.float64}


def as_float64(raw: np.ndarray, info: TensorInfo) -> np.ndarray:
    """Raw bytes (uint8) of elements of a tensor as float64, flat."""
    if info.dtype.name in _NUMPY:
        return raw.view(_NUMPY[info.dtype.name]).astype(np.float64)
    if info.dtype.name == "BF16":
        return (raw.view(np.uint16).astype(np.uint32) << 16).view(np.float32).astype(np.float64)
    if info.dtype.kind == "complex":
        raise CheckpointError(f"{info.stored.pieces[0].path}: {info.stored.name} holds complex numbers ({info.dtype})")
    if not info.dtype.is_float:
        return raw.view(info.dtype.bits).astype(np.float64)
    out = np.empty(raw.size // info.dtype.size, np.float32)
    kernel().decode(raw, info.dtype, out)
    return out.astype(np.float64)


def values(source: Checkpoint, info: TensorInfo) -> np.ndarray:
    """A whole tensor, shaped."""
    return _part(source, info, 0, info.elements).reshape(info.shape)


def scalar(source: Checkpoint, info: TensorInfo) -> float:
    """The one number of a tensor that holds one number (alpha)."""
    return float(_part(source, info, 0, 1)[0])


def row_reader(source: Checkpoint, info: TensorInfo) -> Rows:
    """Reads rows of the first axis, the other axes in one."""
    columns = prod(info.shape[1:])

    def rows(start: int, stop: int) -> np.ndarray:
        return _part(source, info, start * columns, stop * columns).reshape(stop - start, columns)

    return rows


def _part(source: Checkpoint, info: TensorInfo, start: int, stop: int) -> np.ndarray:
    raw = np.empty((stop - start) * info.dtype.size, np.uint8)
    source.read_raw(info, start, stop, raw)
    return as_float64(raw, info)
