"""The sums of a piece, by the compiled kernel where `checkpoints.codec` has one, else in numpy; both agree to about 1e-13."""

from __future__ import annotations

from functools import cache

from ..checkpoints.codec import kernel_name
from .kernels_numpy import BASE_TERMS, BINS, PAIR_TERMS, SHIFT, VALUE_TERMS

__all__ = ["BASE_TERMS", "BINS", "PAIR_TERMS", "SHIFT", "VALUE_TERMS", "kernels"]


@cache
def kernels():
    """The module with `pair_sums`, `base_sums`, `value_sums`, `histogram` and `gram` that this machine runs."""
    if kernel_name() == "numba":
        from . import kernels_numba

        return kernels_numba
    from . import kernels_numpy

    return kernels_numpy
