"""What methods that measure tensors count and multiply: compiled where `checkpoints.codec` has compiled code, else in numpy."""

from __future__ import annotations

from functools import cache

from ..checkpoints.codec import kernel_name


@cache
def kernels():
    """The module with `inner_products`, `count_first`, `count_last`, `random_bits` and `keep_at_random`; the bits are the same."""
    if kernel_name() == "numba":
        from . import kernels_numba

        return kernels_numba
    from . import kernels_numpy

    return kernels_numpy
