"""The kernels as machine code. `reference` says what each does, and gives the same bits (sums for statistics: nearly).

Those sums run in as many lanes as the processor has, so their last digits may differ from machine to machine; on one machine
they are always the same. Everything else is added in the reference's order, and nothing is fused.
"""

from __future__ import annotations

import platform
import threading

import llvmlite.binding
import numpy as np

from ..dtypes import DType
from ..errors import UnetscopeError
from .definitions import BINS, LANES, PART, SIGNATURES, SUM_PART, TILE
from .machine_code import loop
from .reference import elected as elected  # as fast in numpy

_FORMATS = {np.dtype(np.float32): ("F32",), np.dtype(np.float64): ("F64",)}
# For each loop what it takes: a number or an address, an array of a numpy type, or stored elements as bytes (None).
_NUMBER = object()
_ARRAYS = {
    name: tuple(None if kind in ("x*", "y*") else np.dtype(kind[:-1]) if kind[-1] == "*" else _NUMBER for kind in kinds)
    for name, kinds in SIGNATURES.items()
}
_LINE = 64


def supported() -> bool:
    """Whether compiled code runs here: it needs fp16 conversion in hardware, without which it cannot be linked."""
    features = llvmlite.binding.get_host_cpu_features()
    if not (features.get("f16c") or platform.machine().lower() in ("aarch64", "arm64")):
        return False
    try:
        loop("decode", ("F16",))
    except (UnetscopeError, RuntimeError):  # numba's code cannot stand alone, or the system forbids making code
        return False
    return True


# -- conversion ---------------------------------------------------------------------------------------------------------


def decode(raw: np.ndarray, dtype: DType, out: np.ndarray) -> None:
    _run("decode", (dtype.name,), raw, out, out.size)


def encode(values: np.ndarray, dtype: DType, out: np.ndarray) -> int:
    return _run("encode", (dtype.name,), values, out, values.size, dtype.limit)


def count_bad(raw: np.ndarray, dtype: DType, target: DType | None = None) -> int:
    return _run("count_bad", (dtype.name,), raw, raw.nbytes // dtype.size, (target or dtype).limit)


def linear(
    rows: np.ndarray, dtype: DType, coefficients: np.ndarray, anchor: int, out: np.ndarray, target: DType
) -> int:
    formats, size, room = (dtype.name, target.name), out.nbytes // target.size, _room(2 * PART, 4)
    return _run("linear", formats, rows, len(rows), size, coefficients, anchor, room, out, target.limit)


# -- sums ---------------------------------------------------------------------------------------------------------------


def pair_sums(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    _run("pair_sums", _format(a, b), a, b, a.size, _room(SUM_PART), out)


def base_sums(a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> None:
    _run("base_sums", _format(a, b, c), a, b, c, a.size, out)


def value_sums(x: np.ndarray, normal: float, fp16_limit: float, out: np.ndarray) -> None:
    lowest = _room(2 * SUM_PART)
    highest = lowest + 8 * SUM_PART
    _run("value_sums", _format(x), x, x.size, normal, fp16_limit, lowest, highest, out)


def histogram(x: np.ndarray, counts: np.ndarray) -> None:
    _run("histogram", (), _bits(x), x.size, _room(BINS), counts)


def gram(values: np.ndarray, size: int, out: np.ndarray) -> None:
    rows = np.ascontiguousarray(values[:, :size])
    _run("gram", _format(rows), rows, len(rows), size, _room((len(rows) + 1) * SUM_PART), out)


def inner_products(values: np.ndarray, out: np.ndarray) -> None:
    count, size = values.shape
    _run("inner_products", (), values, count, size, _room(count * TILE + LANES), out)


# -- choice -------------------------------------------------------------------------------------------------------------


def count_first(values: np.ndarray, counts: np.ndarray) -> None:
    _run("count_first", (), _bits(values), values.size, counts)


def count_last(values: np.ndarray, first: int, counts: np.ndarray) -> None:
    _run("count_last", (), _bits(values), values.size, first, counts)


def trim(values: np.ndarray, least: np.float32, out: np.ndarray) -> None:
    _run("trim", (), values, values.size, least, out)


def agreeing(
    rows: np.ndarray, weights: np.ndarray, factors: np.ndarray, elect: int, mean: bool, out: np.ndarray
) -> None:
    votes = _room(3 * PART, 4)
    _run("agreeing", (), rows, len(rows), out.size, weights, factors, elect, mean, votes, out)


def keep_at_random(values: np.ndarray, stream: int, start: int, threshold: int, out: np.ndarray) -> None:
    _run("keep_at_random", (), values, values.size, stream, start, threshold, out)


def keep_by_chance(
    values: np.ndarray, chances: np.ndarray, stream: int, start: int, divide: bool, out: np.ndarray
) -> None:
    _run("keep_by_chance", (), values, chances, values.size, stream, start, divide, out)


def row_ranks(values: np.ndarray, row: int, out: np.ndarray) -> None:
    _run("row_ranks", (), _bits(values), values.size // row, row, out, np.empty(2 * row, np.uint32), _room(2048))


# -- calling ------------------------------------------------------------------------------------------------------------


class _Room(threading.local):
    """A thread's memory for loops to work in. It begins at a cache line: numbers that lie across two are read half as fast."""

    def __init__(self):
        self._memory, self._address = np.empty(0, np.uint8), 0

    def __call__(self, count: int, size: int = 8) -> int:
        """The address of room for so many numbers of `size` bytes, until the thread's next call."""
        if self._memory.size < count * size + _LINE:
            self._memory = np.empty(count * size + _LINE, np.uint8)
            self._address = self._memory.ctypes.data
            self._address += -self._address % _LINE
        return self._address


_room = _Room()


def _run(operation: str, formats: tuple[str, ...], *arguments) -> int:
    """Call a loop for stored elements of these formats. Its code takes addresses and checks nothing, so arrays are checked here."""
    taken = zip(_ARRAYS[operation], arguments, strict=True)
    return loop(operation, formats)(*[given if kind is _NUMBER else _address(given, kind) for kind, given in taken])


def _address(array: np.ndarray, kind: np.dtype | None) -> int:
    """Where an array's numbers lie, if they have no gaps and are of the type that the loop takes; None where it takes bytes."""
    if kind is not None and array.dtype != kind:
        raise TypeError(f"the kernel takes {kind}, not {array.dtype}")
    if not array.flags.c_contiguous:
        raise ValueError("the kernel takes contiguous arrays")
    return array.ctypes.data


def _format(*arrays: np.ndarray) -> tuple[str]:
    """The format of arrays of numbers, all float32 or all float64."""
    (dtype,) = {array.dtype for array in arrays}
    return _FORMATS[dtype]


def _bits(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values).view(np.uint32)
