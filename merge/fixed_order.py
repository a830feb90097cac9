"""Products of small matrices and vectors whose sums no machine reorders, as libraries of linear algebra do for their processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:  # methods use this, and listing those must not wait for numpy
    import numpy


def product(matrix: numpy.ndarray, vector: numpy.ndarray) -> numpy.ndarray:
    """(..., N) times (N,) -> (...): numpy adds each row's products in an order that depends on N alone."""
    return (matrix * vector).sum(axis=-1)
