"""How the shapes of a tensor's inputs become that of the output, and what of the tensor can be made by itself.

Nearly every tensor has one shape in all models. Two kinds do not: the first layer of an inpainting UNET, which takes more channels
than that of other models, and position ids, which are counted instead of read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import prod

import numpy as np

from ..checkpoints.errors import RecipeError
from ..checkpoints.families.parts.position_ids import positions
from ..checkpoints.tensors import Shape


class ShapeRule:
    """The inputs have the shape of the output.

    Attributes:
        in_parts: any part of the tensor can be made without the rest.
        reads: the inputs are read.
    """

    in_parts = True
    reads = True

    def merged(self, shape: Shape, inputs: Iterable[Shape]) -> Shape:
        """The shape of what is merged."""
        return shape

    def part(self, values: np.ndarray, shape: Shape, merged: Shape) -> np.ndarray:
        """What of an input's values (flat, of an input of this shape) is merged: flat, of the shape `merged`."""
        return values

    def around(self, result: np.ndarray, merged: Shape, first: np.ndarray, shape: Shape) -> np.ndarray:
        """The output (flat) from what was merged (flat) and all values of the first input."""
        return result


class CommonChannels(ShapeRule):
    """The first input has more input channels than others: those that all have are merged, the rest is the first input's."""

    in_parts = False

    def merged(self, shape: Shape, inputs: Iterable[Shape]) -> Shape:
        return shape[0], min(each[1] for each in inputs), *shape[2:]

    def part(self, values: np.ndarray, shape: Shape, merged: Shape) -> np.ndarray:
        return values.reshape(shape)[:, : merged[1]].ravel()

    def around(self, result: np.ndarray, merged: Shape, first: np.ndarray, shape: Shape) -> np.ndarray:
        wide = first.reshape(shape).copy()
        wide[:, : merged[1]] = result.reshape(merged)
        return wide.ravel()


class CountedPositions(ShapeRule):
    """The integers 0, 1, 2... are written along the last axis instead of reading anything."""

    in_parts = False
    reads = False

    def counted(self, shape: Shape) -> np.ndarray:
        """The output, int64, flat."""
        return positions(shape, 0, prod(shape))


SAME, COMMON_CHANNELS, POSITION_IDS = ShapeRule(), CommonChannels(), CountedPositions()


def rule_of(key: str, first_layer: str, shapes: Sequence[tuple[str, Shape]]) -> ShapeRule:
    """The rule for inputs of these shapes; the result has the shape of the first one.

    Args:
        key: of the tensor.
        first_layer: the key whose input channels may differ: the only tensor in which an inpainting UNET differs in shape.
        shapes: name and shape of each input.

    Raises:
        RecipeError: the shapes differ otherwise.
    """
    name, first = shapes[0]
    rule = SAME
    for other, shape in shapes[1:]:
        if shape == first:
            continue
        same_but_channels = len(shape) == len(first) == 4 and (shape[0], *shape[2:]) == (first[0], *first[2:])
        if key != first_layer or not same_but_channels:
            raise RecipeError(
                f"{key}: {name} has shape {list(first)}, {other} has {list(shape)}: they cannot be merged"
            )
        if shape[1] > first[1]:
            raise RecipeError(
                f"{other} takes {shape[1]} input channels and {name} takes {first[1]}: make {other} the first model of the "
                "merge; its extra channels are kept"
            )
        rule = COMMON_CHANNELS
    return rule
