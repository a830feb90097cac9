"""Merge methods of one's own, which a recipe names."""

import numpy as np

from unetscope.merge import Delta, Numbers, Share, elementwise, linear, whole


@linear
def toward(a, b, *, alpha: float = 0.5):
    """(1 - alpha) a + alpha b: the share of each."""
    return 1 - alpha, alpha


@elementwise
def larger(a, b, *, alpha: float = 1.0, keep: Share = 1.0, swap: bool = False):
    """a + alpha (m - a), m the larger in size."""
    a, b = (b, a) if swap else (a, b)
    return a + np.float32(alpha) * np.float32(keep) * (np.where(abs(b) > abs(a), b, a) - a)


@whole(working=4)
def summed(*deltas: Delta, weights: Numbers = 1.0):
    """base + sum w_t (x_t - base)."""
    return sum(np.float32(w) * delta for w, delta in zip(weights, deltas, strict=True))
