"""Where a piece of a tensor stands: what a method may want to know beside the numbers."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # methods name Spot in their signatures, and listing them must not wait for numpy
    from ..checkpoints.tensors import Shape


@dataclass(frozen=True, slots=True)
class Spot:
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
