"""Merge methods of the user's own in the app: those of files that it was started with, and of no other.

Recipes that a page opens may come from anywhere. What they name as `methods` is not run: they work where the app was started with
`--methods` on that file (and `UNETSCOPE_METHODS`, which carries it to the processes that merge), and are refused elsewhere.
"""

from __future__ import annotations

import os
from functools import cache

METHODS_VARIABLE = "UNETSCOPE_METHODS"


def load_own_methods() -> None:
    """Run the files that the app was started with, once a process.

    Raises:
        RecipeError: one cannot be taken.
    """
    _load(os.environ.get(METHODS_VARIABLE, ""))


@cache
def _load(files: str) -> None:
    from ..merge.methods import load_methods

    for file in filter(None, files.split(os.pathsep)):
        load_methods(file)
