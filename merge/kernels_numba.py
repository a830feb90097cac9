"""What methods that measure tensors count and multiply, compiled. `kernels_numpy` says what each does, and gives the same bits:
no sum is reordered, nothing is fused."""

from __future__ import annotations

import numpy as np

from ..checkpoints.kernel_cache import kept
from .kernels_numpy import LANES, MIX_1, MIX_2, STEP, TILE, elected, random_bits, sizes

__all__ = [
    "agreeing",
    "count_first",
    "count_last",
    "elected",
    "inner_products",
    "keep_at_random",
    "keep_by_chance",
    "random_bits",
    "row_ranks",
    "sizes",
    "trim",
]
# Columns that `agreeing` works on at a time: they stay in the first-level cache.
_PART = 2048


def inner_products(values: np.ndarray, out: np.ndarray) -> None:
    _inner_products(values, out)


@kept(nogil=True, error_model="numpy")
def _inner_products(values, out):
    count, size = values.shape
    rows, lanes = np.zeros((count, TILE)), np.empty(LANES)
    for start in range(0, size, TILE):
        n = min(TILE, size - start)
        for i in range(count):
            source, row = values[i][start : start + n], rows[i]
            for k in range(n):
                row[k] = np.float64(source[k])
            for k in range(n, TILE):
                row[k] = 0.0
        for i in range(count):
            a = rows[i]
            for j in range(i, count):
                b = rows[j]
                for lane in range(LANES):
                    lanes[lane] = 0.0
                for part in range(0, TILE, LANES):
                    x, y = a[part : part + LANES], b[part : part + LANES]
                    for lane in range(LANES):
                        lanes[lane] += x[lane] * y[lane]
                width = LANES
                while width > 1:
                    width //= 2
                    for lane in range(width):
                        lanes[lane] += lanes[width + lane]
                out[i, j] += lanes[0]
    for i in range(count):
        for j in range(i):
            out[i, j] = out[j, i]


def count_first(values: np.ndarray, counts: np.ndarray) -> None:
    _count_first(np.ascontiguousarray(values).view(np.uint32), counts)


@kept(nogil=True)
def _count_first(bits, counts):
    for i in range(bits.size):
        counts[(bits[i] >> 16) & 0x7FFF] += np.uint32(1)


def count_last(values: np.ndarray, first: int, counts: np.ndarray) -> None:
    _count_last(np.ascontiguousarray(values).view(np.uint32), np.uint32(first), counts)


@kept(nogil=True)
def _count_last(bits, first, counts):
    for i in range(bits.size):
        if (bits[i] >> 16) & 0x7FFF == first:
            counts[bits[i] & 0xFFFF] += np.uint32(1)


def trim(values: np.ndarray, least: np.float32, out: np.ndarray) -> None:
    _trim(values, np.float32(least), out)


@kept(nogil=True)
def _trim(values, least, out):
    for i in range(values.size):
        out[i] = values[i] if abs(values[i]) >= least else np.float32(0.0)


def agreeing(
    rows: np.ndarray, weights: np.ndarray, factors: np.ndarray, elect: int, mean: bool, out: np.ndarray
) -> None:
    _agreeing(rows, weights, factors, elect, mean, out)


@kept(nogil=True, error_model="numpy")
def _agreeing(rows, weights, factors, elect, mean, out):
    zero, one = np.float32(0.0), np.float32(1.0)
    votes, total, present = np.empty(_PART, np.float32), np.empty(_PART, np.float32), np.empty(_PART, np.float32)
    for start in range(0, out.size, _PART):
        n = min(_PART, out.size - start)
        for k in range(n):
            votes[k] = total[k] = present[k] = zero
        if elect > 0:
            for t in range(rows.shape[0]):
                row, w = rows[t][start : start + n], weights[t]
                if elect == 1:
                    for k in range(n):
                        votes[k] += w * row[k]
                else:
                    side = one if w > 0 else (-one if w < 0 else zero)
                    for k in range(n):
                        votes[k] += side * (one if row[k] > 0 else (-one if row[k] < 0 else zero))
        for t in range(rows.shape[0]):
            row, factor, size = rows[t][start : start + n], factors[t], abs(weights[t])
            side = one if weights[t] > 0 else -one
            for k in range(n):
                x = row[k]
                # Both have the same sign, and neither is 0; a product of the two could vanish.
                vote = side * votes[k]
                keeps = elect == 0 or ((x > 0) & (vote > 0)) | ((x < 0) & (vote < 0))
                x = x if keeps else zero
                total[k] += factor * x
                present[k] += size if x != 0 else zero
        part = out[start : start + n]
        if mean:
            for k in range(n):
                part[k] = total[k] / present[k] if present[k] != 0 else zero
        else:
            for k in range(n):
                part[k] = total[k]


@kept(nogil=True, inline="always")
def _mixed(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


def keep_at_random(values: np.ndarray, stream: int, start: int, threshold: int, out: np.ndarray) -> None:
    _keep_at_random(values, np.uint64(stream), np.uint64(start), np.uint64(threshold), out)


@kept(nogil=True)
def _keep_at_random(values, stream, start, threshold, out):
    for i in range(values.size):
        bits = _mixed((start + np.uint64(i + 1)) * np.uint64(STEP) + stream) >> np.uint64(11)
        out[i] = values[i] if bits < threshold else np.float32(0.0)


def keep_by_chance(
    values: np.ndarray, chances: np.ndarray, stream: int, start: int, divide: bool, out: np.ndarray
) -> None:
    _keep_by_chance(values, chances, np.uint64(stream), np.uint64(start), divide, out)


@kept(nogil=True, error_model="numpy")
def _keep_by_chance(values, chances, stream, start, divide, out):
    for i in range(values.size):
        bits = _mixed((start + np.uint64(i + 1)) * np.uint64(STEP) + stream) >> np.uint64(11)
        kept = np.float64(bits) < np.float64(chances[i]) * 2.0**53
        out[i] = (values[i] / chances[i] if divide else values[i]) if kept else np.float32(0.0)


def row_ranks(values: np.ndarray, row: int, out: np.ndarray) -> None:
    _row_ranks(values.view(np.uint32).reshape(-1, row), out.reshape(-1, row))


@kept(nogil=True, error_model="numpy")
def _row_ranks(rows, out):
    """Each row sorted by its 31 bits of size, eleven at a time, the last first: of equals the first stays first."""
    n = rows.shape[1]
    order, other, counts = np.empty(n, np.uint32), np.empty(n, np.uint32), np.empty(2048, np.int64)
    for r in range(rows.shape[0]):
        for i in range(n):
            order[i] = i
        for shift in (0, 11, 22):
            counts[:] = 0
            for i in range(n):
                counts[((rows[r, i] & 0x7FFFFFFF) >> shift) & 2047] += 1
            total = 0
            for b in range(2048):
                counts[b], total = total, total + counts[b]
            for i in range(n):
                place = order[i]
                b = ((rows[r, place] & 0x7FFFFFFF) >> shift) & 2047
                other[counts[b]] = place
                counts[b] += 1
            order, other = other, order
        for i in range(n):
            out[r, order[i]] = np.float32(i) / np.float32(n - 1) if n > 1 else np.float32(0.5)
