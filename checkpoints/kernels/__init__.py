"""What is done to every number of a tensor, for every room: decode, combine, encode, count, add up, choose.

    definitions    what both agree on, and what each loop takes
    reference      what each kernel does, in numpy
    compiled       the same as machine code: calls the loops with arrays
    loops          the loops, which numba compiles
    machine_code   makes them, and keeps them on disk

`kernel()` is the module that this machine runs: `compiled` where it works, `reference` otherwise, or what `UNETSCOPE_KERNEL` says
(`numba` or `numpy`). Both have the same functions. They give the same bytes, and sums for statistics that agree to about 1e-13.
Nothing here knows keys, families or methods: who computes what stays with those who ask.
"""

from __future__ import annotations

import importlib.util
import os
from functools import cache
from types import ModuleType

from ..errors import UnetscopeError

__all__ = ["kernel"]


@cache
def kernel() -> ModuleType:
    """The module in use, `compiled` or `reference`.

    Raises:
        UnetscopeError: `UNETSCOPE_KERNEL` names one that does not exist or does not work here.
    """
    wanted = os.environ.get("UNETSCOPE_KERNEL", "")
    # Runs without compiled loops were once made by torch.
    if wanted not in ("", "numba", "numpy", "torch"):
        raise UnetscopeError(f"UNETSCOPE_KERNEL is {wanted!r}; use numba or numpy, or leave it empty")
    if wanted in ("", "numba") and importlib.util.find_spec("numba"):
        from . import compiled

        if compiled.supported():
            return compiled
    if wanted == "numba":
        raise UnetscopeError(
            "UNETSCOPE_KERNEL is numba, but numba is not installed or this CPU lacks fp16 conversion (F16C)"
        )
    from . import reference

    return reference
