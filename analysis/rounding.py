"""How far a number may be from what it was before it was stored: the spacing of a dtype's values.

A merge rounds every element once. What rounding leaves is spread evenly over plus and minus half a spacing, so its mean
square is spacing^2 / 12: the measure of every residual here.
"""

from __future__ import annotations

import numpy as np

from ..checkpoints.dtypes import DType

# Bits of the stored mantissa, and the exponent of the smallest spacing (that of subnormal numbers).
_FORMATS = {
    "F64": (23, -149),  # arithmetic is fp32 whatever the file can hold
    "F32": (23, -149),
    "F16": (10, -24),
    "BF16": (7, -133),
    "F8_E4M3": (3, -9),
    "F8_E5M2": (2, -16),
}
_EXPONENT = np.uint32(0x7F800000)
_SMALLEST_NORMAL = np.float32(2.0**-126)
# An element that nearly cancels (|y| far below the |x| it was summed from) has a spacing of its own far below that of its
# terms. Counted by that alone, such elements outweigh all others, and any arithmetic short of exact shows in them.
_CANCELLED = np.float32(0.25)
# What a merge whose every element is an ingredient's may hold beyond that.
_FEW_STEPS = 0.7
# Multiples of smaller fractions fall on so many places that rounding looks even.
_LARGEST_DENOMINATOR = 16

# How much more than one rounding the residual of an honest linear merge may hold: 10 % for noise and rounding patterns.
# fp32 results also carry the rounding of fp32 arithmetic, term by term, which no narrower dtype shows.
ROUNDED_ONCE = 1.1
FP32_ARITHMETIC = 16.0
# Intermediate results saved and rounded again, or candidates given at a lower precision than the merge saw, stay below.
ROUNDED_MORE = 4.0
# Below this, rounding errors follow the small differences between candidates: errors of weights are too optimistic.
TOO_REGULAR = 0.98


def spacing(values: np.ndarray, dtype: DType) -> np.ndarray:
    """The distance from each value (float32) to the next number of `dtype` away from zero; float32.

    Subnormal and zero values have the dtype's smallest spacing. Not for infinities and NaN.
    """
    mantissa, smallest = _FORMATS[dtype.name]
    power = (np.ascontiguousarray(values, np.float32).view(np.uint32) & _EXPONENT).view(np.float32)
    steps = np.maximum(power, _SMALLEST_NORMAL) * np.float32(2.0**-mantissa)
    return np.maximum(steps, np.float32(2.0**smallest))


def measure(values: np.ndarray, largest: np.ndarray, dtype: DType) -> tuple[np.ndarray, np.ndarray]:
    """The length that an element's residual is measured in, and the spacing of `dtype` there; float32 both.

    Args:
        values: what was stored.
        largest: the largest magnitude among the element and the candidates it may be summed from.
        dtype: of the stored values.
    """
    step = spacing(values, dtype)
    return np.maximum(step, spacing(largest, dtype) * _CANCELLED), step


def bounds(
    shares: np.ndarray, errors: np.ndarray, dtype: str, active: float, equal: float = 0.0
) -> tuple[float, float]:
    """Between which values of rho a linear merge with these shares, rounded once, lies: below, rounding is too regular.

    Candidates are numbers of a grid themselves. With shares that are multiples of 1 / q, sums fall on q places between two
    grid points: with halves, every second sum is a tie, and rounding leaves half as much again as usual. Where candidates
    differ by few steps of the grid, shares near a half do the same, and all shares a little of it.

    Args:
        shares, errors: of the fit.
        dtype: of the merge.
        active: elements; few of them make rho uncertain.
        equal: how often the merge has the value of an ingredient: the inverse of how many steps they differ by.
    """
    even, odd = 0.0, 0.0
    used = shares[np.abs(shares) > 4 * errors]
    if len(used) == 2 and abs(used[0] - 0.5) <= 0.5 * np.sqrt(equal):
        even = 0.5
    elif q := denominator(shares, errors):
        even, odd = (2 / q**2, 0.0) if q % 2 == 0 else (0.0, 1 / q**2)
    spread = 4 * noise(active)
    return TOO_REGULAR * (1 - odd) - spread, allowance(dtype) * (1 + even) + _FEW_STEPS * equal + spread


def denominator(shares: np.ndarray, errors: np.ndarray) -> int:
    """The smallest q up to 16 such that all shares may be multiples of 1 / q; 0 for none, 1 for a single ingredient."""
    for q in range(1, _LARGEST_DENOMINATOR + 1):
        off = np.abs(shares * q - np.rint(shares * q)) / q
        if np.all(off <= 4 * errors + 1e-5):
            return q
    return 0


def allowance(dtype: DType | str) -> float:
    """The rho up to which a fit counts as complete for results stored as `dtype`, when shares are not simple fractions."""
    return FP32_ARITHMETIC if str(dtype) in ("F32", "F64") else ROUNDED_ONCE


def finer(candidate: DType, stored: DType) -> bool:
    """Whether a candidate's dtype has numbers between those of the stored one."""
    return _FORMATS[candidate.name][0] > _FORMATS[stored.name][0]


def noise(active: float) -> float:
    """The standard deviation of rho when `active` elements were rounded once: 12 u^2 has the variance 0.8."""
    return float(np.sqrt(0.8 / max(active, 1.0)))


def own_rounding(stored: DType, candidate: DType) -> float:
    """The square of a candidate's own rounding in units of the stored result's, and no less than that."""
    finer = 4.0 ** (_FORMATS[stored.name][0] - _FORMATS[candidate.name][0])
    return max(finer, 1.0) * (allowance(stored) / ROUNDED_ONCE)
