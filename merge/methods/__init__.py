"""The merge methods: one function each, by kind of idea, and the registry of them.

`METHODS` maps names to `Method`; `method_named` finds one. A method is a function under `linear`, `elementwise`, `statistics`,
`whole` or `structural`, which `unetscope.merge` has. `load_methods` takes in a file of the user's.

- `declaring`, `method`, `other_tools`: how a method is written, what it is and where it is found, what other tools call it
- `files`: the user's own
- `combining`, `lazy_numpy`: what several methods use
- `page`: docs/methods.md

Every other file holds methods of one kind of idea.
"""

from .files import MethodsFile, load_methods
from .method import METHODS, Method, MethodParameter, Space, method_named

__all__ = ["METHODS", "Method", "MethodParameter", "MethodsFile", "Space", "load_methods", "method_named"]
