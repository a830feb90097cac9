"""What methods that measure tensors count and multiply: compiled where `checkpoints.codec` has compiled code, else in numpy."""

from __future__ import annotations

from functools import cache

from ..checkpoints.codec import kernel_name


@cache
def kernels():
    """The module with what `kernels_numpy` describes; both give the same bits."""
    if kernel_name() == "numba":
        from . import kernels_numba

        return kernels_numba
    from . import kernels_numpy

    return kernels_numpy
