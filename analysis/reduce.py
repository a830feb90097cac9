"""The reduction that everything here is built on: pieces of the same tensor of N checkpoints, to a few numbers.

A piece is read from every checkpoint, reduced, and forgotten. What pieces yield is put together in the order of their
position, whichever thread was done first, so the number of threads never changes a digit.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.dtypes import DType, carrier
from ..checkpoints.kernels import kernel
from ..checkpoints.stream import Pass, Progress, Span, piece_length, spans
from .alignment import Aligned

# Columns that are decoded at a time: enough that Python's share of the time is small, few enough to stay in a core's share
# of the cache. Half of it costs a fifth more time, a quarter of it a half.
BLOCK = 1 << 17

# Takes the tensor, the piece, and its raw bytes from every checkpoint (uint8, to be used before the next call).
Reduction = Callable[[Aligned, Span, Sequence[np.ndarray]], object]


class InOrder:
    """Hands the parts of pieces on in the order of the pieces; parts that are early wait, a few at a time."""

    def __init__(self, pieces: Iterator[Span], take: Callable[[int, object], None]):
        self._pieces = pieces
        self._take = take
        self._lock = threading.Lock()
        self._waiting: dict[Span, object] = {}
        self._next = next(pieces, None)

    def add(self, piece: Span, part: object) -> None:
        """A part that a piece yielded; `take(tensor index, part)` runs at once or when what stands before it is there."""
        with self._lock:
            self._waiting[piece] = part
            while self._next in self._waiting:
                self._take(self._next.index, self._waiting.pop(self._next))
                self._next = next(self._pieces, None)


def reduce_aligned(
    checkpoints: Sequence[Checkpoint],
    tensors: Sequence[Aligned],
    worker: Callable[[int], Reduction],
    take: Callable[[int, object], None],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> None:
    """Read every piece of every tensor once from all checkpoints, and reduce it.

    Args:
        checkpoints: N of them, in the order of each tensor's `infos`.
        tensors: from `align`. One with fewer `infos` than there are checkpoints is read from the first ones alone.
        worker: called once per thread with the largest number of elements of a piece; returns the reduction of a piece.
        take: receives (index of the tensor, what the reduction returned), in the order of tensors and pieces.
        threads: None for as many as there are cores, at most 8.
        progress: called with bytes done, bytes in all, and a key.
        cancel: stops the pass when it is set.

    Raises:
        Cancelled: `cancel` was set.
        CheckpointError: a file ends early.
    """
    length = piece_length(len(checkpoints), 12)
    widest = max(info.dtype.size for tensor in tensors for info in tensor.infos)
    sizes = [tensor.elements for tensor in tensors]
    in_order = InOrder(spans(sizes, length), take)

    def start() -> Callable[[Span], None]:
        reduction = worker(length)
        buffers = np.empty((len(checkpoints), length * widest), np.uint8)

        def work(piece: Span) -> None:
            tensor, rows = tensors[piece.index], []
            for checkpoint, info, buffer in zip(checkpoints, tensor.infos, buffers, strict=False):
                row = buffer[: piece.elements * info.dtype.size]
                checkpoint.read_raw(info, piece.start, piece.stop, row)
                rows.append(row)
            in_order.add(piece, reduction(tensor, piece, rows))

        return work

    Pass(threads, progress, cancel).run(
        spans(sizes, length),
        start,
        weight=lambda piece: tensors[piece.index].nbytes * piece.elements // tensors[piece.index].elements,
        total=sum(tensor.nbytes for tensor in tensors),
        key=lambda piece: tensors[piece.index].key,
    )


class Blocks:
    """A thread's buffers: pieces of N tensors as numbers, a block of columns at a time, small enough to stay in cache."""

    def __init__(self, count: int, length: int):
        self._length = min(length, BLOCK)
        self._count = count
        self._narrow = np.empty(count * self._length, np.float32)
        self._wide: np.ndarray | None = None

    def split(self, tensor: Aligned, rows: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
        """The values of a piece as (N, columns) arrays, valid until the next one.

        float32, which holds every narrower float exactly; float64 where a tensor is F64 or not floating point.
        """
        dtypes = [info.dtype for info in tensor.infos]
        buffer = self._buffer(dtypes)
        elements = rows[0].size // dtypes[0].size
        for start in range(0, elements, self._length):
            n = min(self._length, elements - start)
            # Without gaps, however short the last block is: kernels take no other arrays.
            block = buffer[: len(rows) * n].reshape(len(rows), n)
            for row, dtype, out in zip(rows, dtypes, block, strict=True):
                _decode(row[start * dtype.size : (start + n) * dtype.size], dtype, out)
            yield block

    def _buffer(self, dtypes: Sequence[DType]) -> np.ndarray:
        if all(dtype.is_float and dtype.name != "F64" for dtype in dtypes):
            return self._narrow
        if self._wide is None:
            self._wide = np.empty(self._count * self._length)
        return self._wide


def _decode(raw: np.ndarray, dtype: DType, out: np.ndarray) -> None:
    if not dtype.is_float:
        out[:] = raw.view(carrier(dtype))
    elif out.dtype == np.float32:
        kernel().decode(raw, dtype, out)
    else:
        decode64(raw, dtype, out, np.empty(out.size, np.float32))


def decode64(raw: np.ndarray, dtype: DType, out: np.ndarray, scratch: np.ndarray) -> None:
    """Raw bytes of a float dtype into `out` (1-D float64), exactly; `scratch` is a float32 array of at least that length."""
    if dtype.name == "F64":
        out[:] = raw.view(np.float64)
        return
    kernel().decode(raw, dtype, scratch[: out.size])
    out[:] = scratch[: out.size]


def same_bits(rows: Sequence[np.ndarray], dtypes: Sequence[str]) -> tuple[int, ...]:
    """For each row the first row that holds the same bytes in the same dtype: (0, 0, 2) when the third one differs."""
    first: list[int] = []
    for i, row in enumerate(rows):
        match = i
        for j in dict.fromkeys(first):
            if dtypes[j] == dtypes[i] and np.array_equal(row[:64], rows[j][:64]) and np.array_equal(row, rows[j]):
                match = j
                break
        first.append(match)
    return tuple(first)


def meet(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Both partitions at once: rows stay together where they are together in each; in the form of `same_bits`."""
    seen: dict[tuple[int, int], int] = {}
    return tuple(seen.setdefault(pair, i) for i, pair in enumerate(zip(one, other, strict=True)))
