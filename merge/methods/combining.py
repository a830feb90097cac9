"""What differences come to together: signs are elected, and what agrees is added, averaged, or its median taken.

Shared by the methods that first drop parts of each difference (TIES, DARE, DELLA, Breadcrumbs, SCE).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Literal

from .numpy_later import np

if TYPE_CHECKING:  # the choices below are part of methods, and listing those must not wait for numpy
    import numpy

    from ..reductions import Of, Reduction

Elect = Literal["none", "sum", "count"]
Combine = Literal["sum", "mean", "median"]


def elected(differences: Sequence[numpy.ndarray], weights: Sequence[float], elect: Elect) -> list[numpy.ndarray]:
    """Differences with 0 where their sign, weighted, is not the elected one: that of the weighted sum, or of more models.

    Where neither sign wins nothing is left.
    """
    if elect == "none":
        return list(differences)
    total = np.zeros_like(differences[0])
    for x, w in zip(differences, weights, strict=True):
        total += w * x if elect == "sum" else np.sign(w) * np.sign(x)
    up, down = total > 0, total < 0
    out = []
    for x, w in zip(differences, weights, strict=True):
        agrees = (x > 0) & (up if w > 0 else down) | (x < 0) & (down if w > 0 else up)
        out.append(np.where(agrees, x, np.float32(0)))
    return out


def combined(
    kept: Of, weights: Sequence[float], alpha: float, elect: Elect, combine: Combine
) -> Generator[Reduction, numpy.ndarray, Callable[[list[numpy.ndarray], int], numpy.ndarray]]:
    """What a method returns that drops parts of differences, for use as `return (yield from combined(...))`.

    Args:
        kept: from the tiles of differences, what is left of each.
        weights: one for each.
        alpha: multiplies the result.
        elect: see `elected`.
        combine: `sum` is sum w_t x_t; `mean` is that by the sum of |w_t| over the models of which something is left at that
            place; `median` is the geometric median of what is left, the tensors taken as points.
    """

    from ..reductions import Gram
    from ..weiszfeld import median_shares

    def left(tiles: list[numpy.ndarray], start: int) -> list[numpy.ndarray]:
        return elected(kept(tiles, start), weights, elect)

    if combine == "median":
        gram = yield Gram(len(weights), left)
        sizes = np.abs(weights)
        shares = median_shares(gram * np.outer(np.sign(weights), np.sign(weights)), sizes) if sizes.any() else sizes
        factors = [alpha * s * float(np.sign(w)) for s, w in zip(shares.tolist(), weights, strict=True)]
    else:
        factors = [alpha * w for w in weights]

    def value(tiles: list[numpy.ndarray], start: int) -> numpy.ndarray:
        found = left(tiles, start)
        total = np.zeros_like(found[0])
        for x, factor in zip(found, factors, strict=True):
            total += factor * x
        if combine != "mean":
            return total
        present = np.zeros_like(total)
        for x, w in zip(found, weights, strict=True):
            present += np.float32(abs(w)) * (x != 0)
        return np.divide(total, present, out=total, where=present != 0)

    return value
