"""What methods that measure tensors count and multiply, compiled. `kernels_numpy` says what each does, and gives the same bits:
no sum is reordered, nothing is fused."""

from __future__ import annotations

import numpy as np
from numba import njit

from .kernels_numpy import LANES, MIX_1, MIX_2, STEP, TILE, random_bits, sizes

__all__ = ["count_first", "count_last", "inner_products", "keep_at_random", "random_bits", "sizes"]


def inner_products(values: np.ndarray, out: np.ndarray) -> None:
    _inner_products(values, out)


@njit(nogil=True, cache=True, error_model="numpy")
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
    _count_first(sizes(values), counts)


@njit(nogil=True, cache=True)
def _count_first(bits, counts):
    for i in range(bits.size):
        counts[bits[i] >> 16] += np.uint32(1)


def count_last(values: np.ndarray, first: int, counts: np.ndarray) -> None:
    _count_last(sizes(values), np.uint32(first), counts)


@njit(nogil=True, cache=True)
def _count_last(bits, first, counts):
    for i in range(bits.size):
        if bits[i] >> 16 == first:
            counts[bits[i] & 0xFFFF] += np.uint32(1)


def keep_at_random(values: np.ndarray, stream: int, start: int, threshold: int, out: np.ndarray) -> None:
    _keep_at_random(values, np.uint64(stream), np.uint64(start), np.uint64(threshold), out)


@njit(nogil=True, cache=True)
def _keep_at_random(values, stream, start, threshold, out):
    for i in range(values.size):
        x = (start + np.uint64(i + 1)) * np.uint64(STEP) + stream
        x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
        x = x ^ (x >> np.uint64(31))
        out[i] = values[i] if x >> np.uint64(11) < threshold else np.float32(0.0)
