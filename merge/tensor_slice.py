"""Parts of tensors: where one stands, which is what a method may want to know next to the numbers, and how long they are."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # methods name it in their signatures, and listing them must not wait for numpy
    from ..checkpoints.tensors import Shape


# fp32 elements: 256 KB an array.
_TILE = 1 << 16
_SMALLEST_TILE = 1 << 12


@dataclass(frozen=True, slots=True)
class TensorSlice:
    """A tensor, as a step sees it, and the first element of a tile of it.

    Attributes:
        key: in single-file naming.
        shape: of the tensor.
        names: the step's inputs (of a method on differences, without the base) as the recipe calls them.
        start: the tile's first element in the flat tensor.
    """

    key: str
    shape: Shape
    names: tuple[str, ...]
    start: int = 0

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def row(self) -> int:
        """Elements of a row, the weights of one output; a tensor with one axis is one row."""
        return self.elements // max(self.shape[0], 1) if len(self.shape) > 1 else max(self.elements, 1)

    @property
    def count(self) -> int:
        """How many inputs the step has."""
        return len(self.names)


# The name that methods of users know it by.
Spot = TensorSlice


def tile_length(inputs: int) -> int:
    """Elements of a tile: fewer as there are more inputs, so that what is worked out from one stays in the cache."""
    return max(_SMALLEST_TILE, min(_TILE, _TILE * 8 // max(inputs, 1)))


def whole_rows(length: int, row: int) -> int:
    """The length of tiles or pieces that hold whole rows: as many as fit, at least one."""
    return max(length // row, 1) * row
