"""What methods measure on whole tensors before they write: each reduction sees a tensor once, tile by tile, in order.

A method that yields one of these gets its `result()` back.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..checkpoints.kernels import kernel

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
    """The inner products of the inputs: float64 (N, N), products and sums in fp64, the same bits on every machine.

    Args:
        count: how many inputs there are.
        of: measure what this makes of the tiles instead of the tiles themselves; `count` arrays of one length.
    """

    def __init__(self, count: int, of: Of | None = None):
        self._total, self._of = np.zeros((count, count)), of

    def add(self, tiles: list[np.ndarray], start: int) -> None:
        found = tiles if self._of is None else self._of(tiles, start)
        kernel().inner_products(np.stack(found), self._total)

    def result(self) -> np.ndarray:
        return self._total


class Sums(Reduction):
    """The sum of each of some arrays, float64 (N,), in fp64.

    Args:
        count: how many arrays there are.
        of: what makes them of the tiles.
    """

    def __init__(self, count: int, of: Of):
        self._total, self._of = np.zeros(count), of

    def add(self, tiles: list[np.ndarray], start: int) -> None:
        # numpy adds pairs of fixed parts of an array, in an order that depends on its length alone.
        self._total += [x.sum(dtype=np.float64) for x in self._of(tiles, start)]

    def result(self) -> np.ndarray:
        return self._total
