"""What differences come to together: signs are elected, and what agrees is added, averaged, or its median taken.

Shared by the methods that first drop parts of each difference (TIES, DARE, DELLA, Breadcrumbs, SCE).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from typing import TYPE_CHECKING, Literal

from ...checkpoints.kernels import kernel
from .lazy_numpy import np

if TYPE_CHECKING:  # the choices below are part of methods, and listing those must not wait for numpy
    import numpy

    from ..reductions import Of, Reduction

Elect = Literal["none", "sum", "count"]
Combine = Literal["sum", "mean", "median"]
# As the kernels number them.
ELECTIONS: dict[Elect, int] = {"none": 0, "sum": 1, "count": 2}


def combined(
    kept: Of, weights: Sequence[float], alpha: float, elect: Elect, combine: Combine
) -> Generator[Reduction, numpy.ndarray, Callable[[list[numpy.ndarray], int], numpy.ndarray]]:
    """What a method returns that drops parts of differences, for use as `return (yield from combined(...))`.

    Args:
        kept: from the tiles of differences, what is left of each.
        weights: one for each.
        alpha: multiplies the result.
        elect: elements of the other sign than the elected one, that of the weighted sum (`sum`) or of more models (`count`),
            are dropped; where neither wins nothing is left.
        combine: `sum` is sum w_t x_t; `mean` is that by the sum of |w_t| over the models of which something is left at that
            place; `median` is the geometric median of what is left, the tensors taken as points.
    """

    from ..reductions import GramMatrix
    from ..weiszfeld import median_shares

    votes = ELECTIONS[elect]
    factors = np.asarray(weights, np.float64)
    if combine == "median":
        gram = yield GramMatrix(len(weights), lambda tiles, start: kernel().elected(kept(tiles, start), weights, votes))
        sides, sizes = np.sign(factors), np.abs(factors)
        factors = sides * (median_shares(gram * np.outer(sides, sides), sizes) if sizes.any() else sizes)
    factors, signed = (alpha * factors).astype(np.float32), np.asarray(weights, np.float32)

    def value(tiles: list[numpy.ndarray], start: int) -> numpy.ndarray:
        out = np.empty_like(tiles[0])
        kernel().agreeing(np.ascontiguousarray(kept(tiles, start)), signed, factors, votes, combine == "mean", out)
        return out

    return value
