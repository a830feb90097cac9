"""What methods measure on whole tensors before they write: each reduction sees a tensor once, tile by tile, in order.

A method that yields one of these gets its `result()` back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Turns the tiles of a step's inputs (fp32, of equal length) and the first element's position into others.
Of = Callable[[list[np.ndarray], int], Sequence[np.ndarray]]


class Reduction(ABC):
    """Something that is known once every tile of a tensor has been seen."""

    @abstractmethod
    def add(self, tiles: list[np.ndarray], start: int) -> None:
        """Take the tiles of all inputs: fp32, 1-D, equal lengths; `start` is their first element's place in the tensor."""

    @abstractmethod
    def result(self) -> Any:
        """What was measured."""


class Gram(Reduction):
    """The inner products of the inputs: float64 (N, N), products and sums in fp64.

    Args:
        count: how many inputs there are.
        of: measure what this makes of the tiles instead of the tiles themselves; `count` arrays of one length.
    """

    def __init__(self, count: int, of: Of | None = None):
        self._total, self._of = np.zeros((count, count)), of

    def add(self, tiles: list[np.ndarray], start: int) -> None:
        from ..analysis.reduce import kernels

        found = tiles if self._of is None else self._of(tiles, start)
        kernels().gram(np.stack(found), found[0].size, self._total)

    def result(self) -> np.ndarray:
        return self._total
