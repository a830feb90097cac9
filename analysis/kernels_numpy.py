"""The sums of a piece in numpy: what they are, and how they are worked out where the compiled ones do not run.

Inputs are 1-D, float32 or float64; arithmetic is float64. Where an input is not finite, sums of squares are not either, and
the other terms mean nothing.
"""

from __future__ import annotations

import numpy as np

# d = b - a. All but the largest size are sums; the last two are counts.
PAIR_TERMS = ("aa", "bb", "ab", "dd", "abs_d", "max_d", "changed", "flipped")
# p = a - c, q = b - c; `common` sums min(|p|, |q|), `conflict` does so where p and q have different signs.
BASE_TERMS = ("cc", "pp", "qq", "pq", "conflict", "common")
# Counts from the fifth on: zeros, subnormal in the stored dtype, too large for fp16, not 0 but 0 in fp16.
VALUE_TERMS = ("sum", "squares", "sizes", "min", "max", "zeros", "subnormal", "beyond_fp16", "vanishing_fp16")

# A histogram bin is a value's top bits as float32: sign, exponent and two bits of mantissa, four bins per octave.
SHIFT = 21
BINS = 1 << (32 - SHIFT)


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
