"""Writes tensors into a .safetensors file, piece by piece, from wherever they come."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from threading import Lock, local

import numpy as np

from .checkpoint import Checkpoint, TensorInfo
from .dtypes import I64, DType
from .families.parts.position_ids import positions
from .files.output import OutputFile
from .formats import written_as
from .kernels import kernel
from .stream import PIECE, Pass, Span, spans
from .tensors import Shape

# The order in which the safetensors library writes dtypes.
_ORDER = [
    "U64", "I64", "F64", "C64", "F32", "U32", "I32", "BF16", "F16", "U16", "I16", "F8_E5M2FNUZ", "F8_E4M3FNUZ", "F8_E8M0",
    "F8_E4M3", "F8_E5M2", "I8", "U8", "BOOL",
]  # fmt: skip
# Puts the raw bytes of elements `start` to `stop` into a buffer (uint8).
Fill = Callable[[int, int, np.ndarray], None]


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A tensor to write: its name in the file, and where its bytes come from."""

    name: str
    dtype: DType
    shape: Shape
    fill: Fill

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.elements * self.dtype.size


def in_file_order(tensors: Sequence[Outgoing]) -> list[Outgoing]:
    """Sorted as the safetensors library sorts, by dtype and then by name: equal tensors give equal files."""
    return sorted(tensors, key=lambda t: (_ORDER.index(t.dtype.name), t.name))


def write_tensors(
    target: Path, tensors: Sequence[Outgoing], metadata: dict[str, str], run: Pass, *, overwrite: bool = False,
    check: Callable[[], None] = lambda: None, piece: int = PIECE,
) -> int:  # fmt: skip
    """Write a file of these tensors; it appears complete or not at all. Returns its size.

    Args:
        check: called when everything is written, before the file gets its name; what it raises leaves no file behind.
        piece: elements that `fill` is asked for at a time.
    """
    tensors = in_file_order(tensors)
    entries = [(t.name, t.dtype, t.shape) for t in tensors]
    form = written_as(Path(target))
    header, offsets, size = form.write(entries, metadata)
    with OutputFile(target, size, overwrite=overwrite) as out:
        out.write_at(0, header)

        def worker() -> Callable[[Span], None]:
            buffer = np.empty(piece * 8, np.uint8)

            def work(span: Span) -> None:
                tensor = tensors[span.index]
                data = buffer[: span.elements * tensor.dtype.size]
                tensor.fill(span.start, span.stop, data)
                out.write_at(offsets[tensor.name] + span.start * tensor.dtype.size, data)

            return work

        run.run(
            spans([t.elements for t in tensors], piece),
            worker,
            weight=lambda span: span.elements * tensors[span.index].dtype.size,
            total=sum(t.nbytes for t in tensors),
            key=lambda span: tensors[span.index].name,
        )
        check()
        form.check(out.partial, entries)
        out.commit()
    return size


def copied(checkpoint: Checkpoint, info: TensorInfo) -> Fill:
    """The tensor as it is stored."""
    return lambda start, stop, out: checkpoint.read_raw(info, start, stop, out)


def counting(shape: Shape) -> Fill:
    """Position ids: 0, 1, 2... along the last axis, as 64-bit integers."""

    def fill(start: int, stop: int, out: np.ndarray) -> None:
        out.view(I64.bits)[:] = positions(shape, start, stop)

    return fill


class _Buffers(local):
    """A thread's memory for conversions."""

    def __init__(self) -> None:
        self.raw = np.empty(PIECE * 8, np.uint8)
        self.values = np.empty(PIECE, np.float32)


@dataclass
class Converter:
    """Turns tensors into another float dtype, rounding once, and counts what does not fit.

    Attributes:
        dtype: the target.
        overflows: key -> finite values (and, for E4M3, infinite ones) that the target cannot hold.
        not_finite: key -> values that were NaN or infinite already; they stay so.
    """

    dtype: DType
    overflows: Counter[str] = field(default_factory=Counter)
    not_finite: Counter[str] = field(default_factory=Counter)
    _buffers: _Buffers = field(default_factory=_Buffers, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def converted(self, checkpoint: Checkpoint, info: TensorInfo) -> Fill:
        """The tensor in the target's dtype."""

        def fill(start: int, stop: int, out: np.ndarray) -> None:
            raw = self._buffers.raw[: (stop - start) * info.dtype.size]
            values = self._buffers.values[: stop - start]
            checkpoint.read_raw(info, start, stop, raw)
            kernel().decode(raw, info.dtype, values)
            if kernel().encode(values, self.dtype, out):
                self._count(info, raw, values)

        return fill

    def _count(self, info: TensorInfo, raw: np.ndarray, values: np.ndarray) -> None:
        """Tell what was broken before from what breaks now; F64 is looked at as it is stored."""
        before = raw.view(np.float64) if info.dtype.name == "F64" else values
        broken = ~np.isfinite(before)
        lost = np.isfinite(before) & ~(np.abs(values) <= self.dtype.limit)
        if self.dtype.name == "F8_E4M3":  # it has no infinity
            lost |= np.isinf(before)
        with self._lock:
            for counter, found in ((self.overflows, lost), (self.not_finite, broken)):
                if found.any():
                    counter[info.key] += int(found.sum())
