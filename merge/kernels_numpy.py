"""What methods that measure tensors count and multiply, in numpy. `kernels_numba` does the same, to the bit, and faster."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

# Columns that are worked on at a time, and partial sums that an inner product is taken in: part of the result's definition.
TILE, LANES = 1024, 64
# The sizes of fp32 numbers, read as integers, sort as the numbers do: 15 bits tell 32,768 bins, 16 more what is in one.
FIRST, LAST = 1 << 15, 1 << 16
_SIZE = np.uint32(0x7FFFFFFF)
# SplitMix64 (Steele, Lea and Flood 2014): a counter times an odd number, and two rounds of mixing.
STEP, MIX_1, MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB


def sizes(values: np.ndarray) -> np.ndarray:
    """|x| of fp32 values as uint32 that sort alike."""
    return np.ascontiguousarray(values).view(np.uint32) & _SIZE


def inner_products(values: np.ndarray, out: np.ndarray) -> None:
    """Add to `out` (N, N) the inner products of the rows of `values` (N, L), in fp64 and in an order that no machine changes."""
    count, size = values.shape
    rows = np.zeros((count, -(-size // TILE) * TILE))
    rows[:, :size] = values
    rows = rows.reshape(count, -1, TILE // LANES, LANES)
    for i in range(count):
        for j in range(i, count):
            lanes = np.zeros((rows.shape[1], LANES))
            for part in range(TILE // LANES):
                lanes += rows[i, :, part] * rows[j, :, part]
            width = LANES
            while width > 1:
                width //= 2
                lanes[:, :width] += lanes[:, width : 2 * width]
            total = out[i, j]
            for tile in lanes[:, 0]:
                total += tile
            out[i, j] = out[j, i] = total


def count_first(values: np.ndarray, counts: np.ndarray) -> None:
    """Count fp32 values by the first 15 bits of their size: `counts` has FIRST bins."""
    counts += np.bincount(sizes(values) >> np.uint32(16), minlength=FIRST).astype(counts.dtype)


def count_last(values: np.ndarray, first: int, counts: np.ndarray) -> None:
    """Count the values of one of those bins by the other 16 bits: `counts` has LAST bins."""
    found = sizes(values)
    inside = found[found >> np.uint32(16) == first] & np.uint32(0xFFFF)
    counts += np.bincount(inside, minlength=LAST).astype(counts.dtype)


def trim(values: np.ndarray, least: np.float32, out: np.ndarray) -> None:
    """Each value at least as large as `least`, either sign, else 0."""
    out[:] = np.where(np.abs(values) >= least, values, np.float32(0))


def agreeing(
    rows: np.ndarray, weights: np.ndarray, factors: np.ndarray, elect: int, mean: bool, out: np.ndarray
) -> None:
    """out = sum factor_t x_t over the rows whose sign, weighted, is the elected one; by the sum of |w_t| of those if `mean`.

    Args:
        rows: (N, L) fp32.
        weights, factors: (N,) fp32.
        elect: 0 takes every row, 1 elects the sign of sum w_t x_t, 2 the sign that more rows have; without a winner 0 is left.
        mean: divide; where no row has a value the result is 0.
        out: (L,) fp32.
    """
    left = np.stack(elected(rows, weights, elect))
    total, present = np.zeros_like(out), np.zeros_like(out)
    for x, factor, weight in zip(left, factors, weights, strict=True):
        total += factor * x
        present += np.where(x != 0, np.abs(weight), np.float32(0))
    out[:] = np.divide(total, present, out=np.zeros_like(total), where=present != 0) if mean else total


def elected(rows: Sequence[np.ndarray], weights: Sequence[float], elect: int) -> list[np.ndarray]:
    """The rows with 0 where their sign, weighted, is not the elected one: see `agreeing`."""
    if elect == 0:
        return list(rows)
    votes = np.zeros_like(rows[0])
    for x, weight in zip(rows, weights, strict=True):
        votes += np.float32(weight) * x if elect == 1 else np.float32(np.sign(weight)) * np.sign(x)
    up, down = votes > 0, votes < 0
    out = []
    for x, weight in zip(rows, weights, strict=True):
        agrees = (x > 0) & (up if weight > 0 else down) | (x < 0) & (down if weight > 0 else up)
        out.append(np.where(agrees, x, np.float32(0)))
    return out


def random_bits(stream: int, start: int, size: int) -> np.ndarray:
    """64 random bits for each of the elements `start`, `start + 1`...: the same for an element however it is reached."""
    x = np.arange(start + 1, start + size + 1, dtype=np.uint64)
    x = x * np.uint64(STEP) + np.uint64(stream)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(MIX_2)
    return x ^ (x >> np.uint64(31))


def keep_at_random(values: np.ndarray, stream: int, start: int, threshold: int, out: np.ndarray) -> None:
    """Each value where the first 53 of its random bits are below `threshold`, else 0."""
    kept = random_bits(stream, start, values.size) >> np.uint64(11) < np.uint64(threshold)
    np.multiply(values, kept, out=out)
    out[~kept] = 0  # a negative value times 0 is -0.0


def keep_by_chance(
    values: np.ndarray, chances: np.ndarray, stream: int, start: int, divide: bool, out: np.ndarray
) -> None:
    """Each value with a chance of its own (fp32, 0 to 1), else 0; divided by that chance if asked for."""
    bits = random_bits(stream, start, values.size) >> np.uint64(11)
    kept = bits.astype(np.float64) < chances.astype(np.float64) * 2.0**53
    out[:] = 0
    if divide:
        np.divide(values, chances, out=out, where=kept)
    else:
        out[kept] = values[kept]


def row_ranks(values: np.ndarray, row: int, out: np.ndarray) -> None:
    """By size, from 0 for the smallest to 1 for the largest element of each row of `row` values; of equals the first is smaller.

    A row of one has 0.5.
    """
    # Size and place as one number, so that no two are equal and every way of sorting agrees.
    keys = (sizes(values).astype(np.uint64) << np.uint64(32)).reshape(-1, row) | np.arange(row, dtype=np.uint64)
    keys.sort(axis=1)
    steps = np.arange(row, dtype=np.float32) / np.float32(row - 1) if row > 1 else np.full(1, 0.5, np.float32)
    places = (keys & np.uint64(0xFFFFFFFF)).astype(np.intp)
    np.put_along_axis(out.reshape(-1, row), places, np.broadcast_to(steps, keys.shape), axis=1)
