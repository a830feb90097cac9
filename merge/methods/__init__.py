"""The merge methods: one function each, by kind of idea, and the registry of them.

`METHODS` maps names to `Method`; `method_named` finds one. `declaring` says how to write one: a function under `linear`,
`elementwise`, `statistics`, `whole` or `structural`, which `unetscope.merge` has too. `load_methods` takes in a file of the user's.
"""

from .files import MethodsFile, load_methods
from .method import Method, Parameter, Space
from .registry import METHODS, method_named

__all__ = ["METHODS", "Method", "MethodsFile", "Parameter", "Space", "load_methods", "method_named"]
