"""The positions of a text encoder's tokens: integers 0..76 that some layouts store as a tensor."""

from __future__ import annotations

import numpy as np

from ...tensors import Shape
from .. import part_of


def is_position_ids(key: str) -> bool:
    """Whether a key (in single-file naming) holds the positions of a text encoder's tokens."""
    found = part_of(key) if key.endswith(".position_ids") else None
    return found is not None and found[0].text


def can_be_counted(shape: Shape) -> bool:
    """Whether positions of this shape can be written anew; a single number without an axis is not a row of positions."""
    return bool(shape)


def positions(shape: Shape, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop` of positions of this shape: 0, 1, 2... along the last axis."""
    return np.arange(start, stop) % (shape[-1] if shape else 1)
