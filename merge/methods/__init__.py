"""The merge methods: one function each, by kind of idea, and the registry of them.

`METHODS` maps names to `Method`; `method_named` finds one. `registry` says what a method is and how to write one.
"""

from . import linear, elementwise, directions, centres, sparse, spectral, structural  # noqa: F401, I001 (the order in which methods are listed)
from .registry import METHODS, Method, Parameter, method_named

__all__ = ["METHODS", "Method", "Parameter", "method_named"]
