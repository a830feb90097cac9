"""The registry of merge methods: recipes, the command line, the app and the docs all read it.

A method stands at the top of a module of this folder, in a package that names it as an entry point of `unetscope.methods`, or in
a file of the user's (`files`).
"""

from __future__ import annotations

from ...checkpoints.errors import nearest
from ...checkpoints.registry import Registry
from ...checkpoints.spelling import spelt
from ..errors import MethodError, RecipeError
from .method import Method

METHODS: Registry[Method] = Registry(
    "merge method",
    Method,
    __package__,
    "unetscope.methods",
    name=lambda method: method.name,
    error=MethodError,
    # The order in which methods are listed: what people begin with comes first.
    first=("linear", "elementwise", "filters", "directions", "centres", "sparse", "spectral", "structural"),
)


def method_named(name: str) -> Method:
    """The method of that name; `-` and `_` are the same.

    Raises:
        RecipeError: there is none, with the nearest names.

    Example:
        >>> method = method_named("weighted-sum")
        >>> method.inputs, method.shares(2, {"alpha": 0.25})
        (('a', 'b'), (0.75, 0.25))
    """
    try:
        return METHODS[spelt(str(name).replace("-", "_"), METHODS)]
    except KeyError:
        raise RecipeError(
            f"there is no merge method {name!r}{nearest(name, METHODS)}; `unetscope methods` lists all of them"
        ) from None
