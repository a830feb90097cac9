"""Elementwise methods: an element of the result needs the same element of each input and nothing else."""

from __future__ import annotations

from .numpy_later import np
from .registry import elementwise


def moved(a, change):
    """a + change, but a itself where nothing changes: adding 0.0 would turn -0.0 into 0.0."""
    return np.where(change == 0, a, a + change)


@elementwise("a b c")
def train_difference(a, b, c, *, alpha: float = 1.0):
    """a + 1.8 alpha s (b - c), s = |b - a| / (|b - a| + |b - c|): add b's training on top of a, less where a is near b.

    Where a = b = c, s is 0.

    Source: "train difference" of SuperMerger.

    Use: like add difference, when a may already hold part of what b learnt.
    """
    from_a, from_c = abs(b - a), abs(b - c)
    both = from_a + from_c
    return moved(a, 1.8 * alpha * (from_a / (both + (both == 0))) * (b - c))
