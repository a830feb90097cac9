"""The positions of a text encoder's tokens: integers 0..76 that some layouts store as a tensor."""

from __future__ import annotations

import numpy as np

from .blocks import TEXT_LABELS, place
from .tensors import Shape


def is_position_ids(key: str) -> bool:
    """Whether a key (in single-file naming) holds the positions of a text encoder's tokens."""
    return key.endswith(".position_ids") and place(key).label in TEXT_LABELS


def can_be_counted(shape: Shape) -> bool:
    """Whether positions of this shape can be written anew; a single number without an axis is no row of positions."""
    return bool(shape)


def positions(shape: Shape, start: int, stop: int) -> np.ndarray:
    """Elements `start` to `stop` of positions of this shape: 0, 1, 2... along the last axis."""
    return np.arange(start, stop) % (shape[-1] if shape else 1)
