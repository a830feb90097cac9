"""What methods measure on whole tensors before they write: each reduction sees a tensor once, tile by tile, in order.

A method that yields one of these gets its `result()` back. Inner products and sums take one; the k-th largest size of a tensor's
elements, exactly, takes two passes over tiles and little memory (`ranked`): the size of an fp32 number, read as an integer, sorts
as the number does, so the first pass counts its first 15 bits, the second the other 16 of those in the bin that the k-th one is in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..checkpoints.kernels import kernel
from ..checkpoints.kernels.definitions import FIRST, LAST
from ..checkpoints.kernels.reference import sizes

# Turns the tiles of a step's inputs (fp32, of equal length) and the first element's position into others.
Of = Callable[[list[np.ndarray], int], Sequence[np.ndarray]]
# Bins that are counted together first: of a running sum over all of them next to nothing is needed.
_ROW = 256


class Reduction(ABC):
    """Something that is known once every tile of a tensor has been seen."""

    @abstractmethod
    def add(self, tiles: list[np.ndarray], start: int) -> None:
        """Take the tiles of all inputs: fp32, 1-D, equal lengths; `start` is their first element's place in the tensor."""

    @abstractmethod
    def result(self) -> Any:
        """What was measured."""


class GramMatrix(Reduction):
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


class ArraySums(Reduction):
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


# The names that methods of users know them by.
Gram, Sums = GramMatrix, ArraySums

# -- ranks ----------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ranked:
    """The element of a rank, counted from the largest: rank 1 is the largest.

    Attributes:
        value: its size.
        above: how many are larger.
        equal: how many are as large, itself included.
    """

    value: np.float32
    above: int
    equal: int


def ranked(
    count: int, ranks: Sequence[Sequence[int]] | Callable[[int], Sequence[Sequence[int]]], of: Of | None = None
) -> Generator[Reduction, list, list[list[Ranked]]]:
    """Find elements by rank, for use as `found = yield from ranked(...)`.

    Args:
        count: how many arrays there are.
        ranks: for each array the ranks that are asked for, from 1 to its length; or a function that says so when it is told how
            many elements of the first array do not vanish (are above 2^-133).
        of: rank what this makes of the tiles (`count` arrays) instead of the tiles themselves.

    Returns:
        for each array an element for each of its ranks.
    """
    first = yield _Counts([[None]] * count, of)
    if callable(ranks):
        ranks = ranks(int(first[0][0][1:].sum(dtype=np.int64)))
    bins = [[_bin(counts, rank) for rank in wanted] for (counts,), wanted in zip(first, ranks, strict=True)]
    del first  # half as much again as what is counted next
    last = yield _Counts([list(dict.fromkeys(number for number, _ in found)) for found in bins], of)
    out = []
    for found, counted, wanted in zip(bins, last, ranks, strict=True):
        numbers = list(dict.fromkeys(number for number, _ in found))
        row = []
        for (number, above), rank in zip(found, wanted, strict=True):
            low, more = _bin(counted[numbers.index(number)], rank - above)
            equal = int(counted[numbers.index(number)][low])
            bits = np.array([number * LAST + low], np.uint32)
            row.append(Ranked(bits.view(np.float32)[0], above + more, equal))
        out.append(row)
    return out


def _bin(counts: np.ndarray, rank: int) -> tuple[int, int]:
    """The bin that the element of a rank is in, the largest in the last bin, and how many are in bins above it."""
    rows = counts.reshape(-1, _ROW)
    row, above = _place(rows.sum(axis=1, dtype=np.int64), rank)
    number, more = _place(rows[row], rank - above)
    return row * _ROW + number, above + more


def _place(counts: np.ndarray, rank: int) -> tuple[int, int]:
    from_above = np.cumsum(counts[::-1], dtype=np.int64)
    place = int(np.searchsorted(from_above, rank))
    return len(counts) - 1 - place, int(from_above[place - 1]) if place else 0


class _Counts(Reduction):
    """Counts by the first bits (bin None), or by the last ones inside each of some bins."""

    def __init__(self, bins: Sequence[Sequence[int | None]], of: Of | None):
        self._of, self._bins = of, bins
        self._counts = [[np.zeros(FIRST if b is None else LAST, np.uint32) for b in row] for row in bins]

    def add(self, tiles: list[np.ndarray], start: int) -> None:
        found = tiles if self._of is None else self._of(tiles, start)
        for values, bins, counts in zip(found, self._bins, self._counts, strict=True):
            for number, counted in zip(bins, counts, strict=True):
                if number is None:
                    kernel().count_first(values, counted)
                else:
                    kernel().count_last(values, number, counted)

    def result(self) -> list[list[np.ndarray]]:
        return self._counts


class Cuts(Reduction):
    """Where to stop among equals: the place of the n-th element of each array whose size is a given one, -1 where n is 0.

    Args:
        values: a size for each array.
        counts: n for each array.
    """

    def __init__(self, values: Sequence[np.float32], counts: Sequence[int]):
        self._bits = [sizes(np.array([v], np.float32))[0] for v in values]
        self._left, self._cuts = list(counts), [-1] * len(counts)

    def add(self, tiles: list[np.ndarray], start: int) -> None:
        for i, values in enumerate(tiles):
            if self._left[i] <= 0:
                continue
            places = np.flatnonzero(sizes(values) == self._bits[i])
            if places.size >= self._left[i]:
                self._cuts[i] = start + int(places[self._left[i] - 1])
            self._left[i] -= places.size

    def result(self) -> list[int]:
        return self._cuts


class RankTable(Reduction):
    """The share of smaller elements for each of the 65,536 bins that the first 16 bits of a size tell, half of a bin's own
    included: float32 arrays. Elements whose sizes agree in 8 bits of the mantissa share a rank."""

    def __init__(self, count: int):
        self._counts = [np.zeros(LAST, np.int64) for _ in range(count)]

    def add(self, tiles: list[np.ndarray], start: int) -> None:
        for values, counts in zip(tiles, self._counts, strict=True):
            counts += np.bincount(sizes(values) >> np.uint32(15), minlength=LAST)

    def result(self) -> list[np.ndarray]:
        return [((np.cumsum(c) - c / 2) / max(int(c.sum()), 1)).astype(np.float32) for c in self._counts]
