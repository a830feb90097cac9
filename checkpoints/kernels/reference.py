"""What each kernel does, in numpy: the statement that `compiled` is held to, and what runs where compiled code does not.

Stored elements come as bytes (uint8, or any other type of numpy) with the `DType` that reads them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..dtypes import BF16, F8_E4M3, F8_E5M2, F16, DType
from .definitions import BINS, FIRST, LANES, LAST, MIX_1, MIX_2, SHIFT, STEP, TILE

_SIZE = np.uint32(0x7FFFFFFF)


# -- conversion --------------------------------------------------------------------------------------------------------


def decode(raw: np.ndarray, dtype: DType, out: np.ndarray) -> None:
    """Stored elements of a float dtype (1-D) into `out` (1-D float32); exact but for F64, which is rounded."""
    with np.errstate(over="ignore", invalid="ignore"):
        out[:] = raw.view(_numpy_type(dtype))
    if dtype == F16:
        out.view(np.uint32)[np.isnan(out)] |= 1 << 22  # no NaN signals, as processors have it


def encode(values: np.ndarray, dtype: DType, out: np.ndarray) -> int:
    """Round `values` (1-D float32) to `dtype` into `out` (its bytes), to nearest, ties to even.

    Returns how many values are not finite in `dtype`: NaN, infinite, or too large (they become infinite, in E4M3 +-448).
    """
    # E4M3 has no infinity: ml_dtypes has NaN for what is too large.
    fits = np.clip(values, -dtype.max, dtype.max) if dtype == F8_E4M3 else values
    with np.errstate(over="ignore", invalid="ignore"):
        out.view(_numpy_type(dtype))[:] = fits
    nan = np.isnan(values)
    if nan.any():
        _write_nan(values[nan].view(np.uint32), dtype, out.view(dtype.bits), nan)
    return values.size - int(np.count_nonzero(np.abs(values) <= dtype.limit))


def count_bad(raw: np.ndarray, dtype: DType, target: DType | None = None) -> int:
    """How many stored elements (1-D) are not finite, or would not be in `target`."""
    values = np.empty(raw.nbytes // dtype.size, np.float32)
    decode(raw, dtype, values)
    return values.size - int(np.count_nonzero(np.abs(values) <= (target or dtype).limit))


def linear(
    rows: np.ndarray, dtype: DType, coefficients: np.ndarray, anchor: int, out: np.ndarray, target: DType
) -> int:
    """out = sum c_i x_i, in fp32, one operation at a time in the order of the rows, rounded once.

    Args:
        rows: (N, ...) stored elements of `dtype`.
        coefficients: N fp32 numbers.
        anchor: where it is not -1 the coefficients sum to one, and the sum is taken as x_anchor + sum c_i (x_i - x_anchor), which
            gives equal inputs back exactly.
        out: room for the elements of `target`.

    Returns:
        how many results are not finite in `target`.
    """

    def value(i: int) -> np.ndarray:
        values = np.empty(rows[i].nbytes // dtype.size, np.float32)
        decode(rows[i], dtype, values)
        return values

    first = max(anchor, 0)
    base = value(first)
    with np.errstate(all="ignore"):
        total = np.zeros_like(base) if anchor >= 0 else coefficients[0] * base
        for i, coefficient in enumerate(coefficients):
            if i != first:
                total += coefficient * (value(i) - base if anchor >= 0 else value(i))
        if anchor >= 0:
            total = np.where(total == 0, base, base + total)  # -0.0 + 0 would be 0.0
    return encode(total, target, out)


def _write_nan(bits: np.ndarray, dtype: DType, out: np.ndarray, where: np.ndarray) -> None:
    """NaN in formats that have several: F16 keeps what fits of its bits, as processors do, E5M2 its sign, BF16 nothing."""
    if dtype == F16:
        out[where] = (bits >> 16) & 0x8000 | 0x7E00 | (bits >> 13) & 0x1FF
    elif dtype == BF16:
        out[where] = 0x7FC0
    elif dtype == F8_E5M2:
        out[where] = (bits >> 24) & 0x80 | 0x7F


def _numpy_type(dtype: DType) -> np.dtype:
    """numpy's type of these numbers, or that which `ml_dtypes` adds to it."""
    if dtype.name in ("F16", "F32", "F64"):
        return np.dtype(dtype.torch)
    import ml_dtypes

    return np.dtype(getattr(ml_dtypes, dtype.torch))


# -- sums --------------------------------------------------------------------------------------------------------------


def pair_sums(a: np.ndarray, b: np.ndarray, out: np.ndarray) -> None:
    """Add to `out` what `PAIR_TERMS` names."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    with np.errstate(invalid="ignore"):
        d = y - x
        size = np.abs(d)
        out[:5] += x @ x, y @ y, x @ y, d @ d, size.sum()
        out[5] = max(out[5], size.max(initial=0.0))
        out[6] += np.count_nonzero(d)
        out[7] += np.count_nonzero(x * y < 0)


def base_sums(a: np.ndarray, b: np.ndarray, c: np.ndarray, out: np.ndarray) -> None:
    """Add to `out` what `BASE_TERMS` names."""
    z = c.astype(np.float64)
    with np.errstate(invalid="ignore"):
        p, q = a - z, b - z
        small = np.minimum(np.abs(p), np.abs(q))
        out += z @ z, p @ p, q @ q, p @ q, small[p * q < 0].sum(), small.sum()


def value_sums(x: np.ndarray, normal: float, fp16_limit: float, out: np.ndarray) -> None:
    """Add to `out` what `VALUE_TERMS` names."""
    values = x.astype(np.float64)
    size = np.abs(values)
    zeros = np.count_nonzero(size == 0)
    out[:3] += values.sum(), values @ values, size.sum()
    out[3] = min(out[3], values.min(initial=np.inf))
    out[4] = max(out[4], values.max(initial=-np.inf))
    out[5] += zeros
    out[6] += np.count_nonzero(size < normal) - zeros
    out[7] += np.count_nonzero(size >= fp16_limit)
    out[8] += np.count_nonzero(size <= 2.0**-25) - zeros


def histogram(x: np.ndarray, counts: np.ndarray) -> None:
    """Count float32 values by sign, exponent and the first bits of the mantissa."""
    counts += np.bincount(x.view(np.uint32) >> SHIFT, minlength=BINS)


def gram(values: np.ndarray, size: int, out: np.ndarray) -> None:
    """Add to `out` (N, N) the inner products of the first `size` columns of `values` (N, L)."""
    wide = values[:, :size].astype(np.float64)
    out += wide @ wide.T


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


# -- choice ------------------------------------------------------------------------------------------------------------


def sizes(values: np.ndarray) -> np.ndarray:
    """|x| of fp32 values as uint32 that sort alike."""
    return np.ascontiguousarray(values).view(np.uint32) & _SIZE


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
