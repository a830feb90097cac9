"""The geometric median from inner products alone: the median of N points is a weighted mean of them, and only its N weights are
unknown.

Weiszfeld's iteration (1937) with the step of Vardi and Zhang (2000) for a median that coincides with one of the points, where
the plain one divides by zero.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .fixed_order import product

_MOST = 1000
# How little the shares have to change; distances are known to about 1e-8 of the largest.
_SETTLED, _SAME = 1e-13, 1e-12


def median_shares(gram: np.ndarray, weights: Sequence[float]) -> np.ndarray:
    """The shares, adding up to one, of the points in the point whose weighted sum of distances to them is smallest.

    Args:
        gram: (N, N) inner products of the points, from any origin; the nearer the origin, the more digits.
        weights: N, not negative, one or more of them positive.
    """
    weights = np.asarray(weights, np.float64)
    squares = np.diagonal(gram)
    apart = np.maximum(squares[:, None] + squares[None, :] - 2 * gram, 0.0)
    shares = weights / weights.sum()
    same = _SAME * np.sqrt(apart.max(initial=0.0))
    for _ in range(_MOST):
        towards = product(apart, shares)
        distances = np.sqrt(np.maximum(towards - product(shares, towards) / 2, 0.0))
        near = distances <= same
        pull = np.where(near, 0.0, weights / np.where(near, 1.0, distances))
        if not pull.any():  # all points are one
            return shares
        moved = pull / pull.sum()
        if near.any():
            moved = _past_a_point(moved, pull, shares, apart, float(weights[near].sum()))
        if np.abs(moved - shares).max() <= _SETTLED:
            return moved
        shares = moved
    return shares


def _past_a_point(
    moved: np.ndarray, pull: np.ndarray, shares: np.ndarray, apart: np.ndarray, weight: float
) -> np.ndarray:
    """The step from a point of this weight: towards the others as far as they pull harder than it holds."""
    # The pull as a vector is sum pull_i (x_i - m), whose coefficients add up to zero: its length follows from `apart`.
    vector = pull - pull.sum() * shares
    strength = np.sqrt(max(-0.5 * product(product(apart, vector), vector), 0.0))
    held = min(1.0, weight / strength) if strength > 0 else 1.0
    return (1 - held) * moved + held * shares
