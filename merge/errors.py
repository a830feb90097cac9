"""Mistakes in a recipe, or in what it is applied to."""

from ..checkpoints.errors import UnetscopeError


class RecipeError(UnetscopeError):
    """A recipe that says something impossible: names the place in it and what would be right."""


class MergeError(UnetscopeError):
    """Checkpoints that a recipe cannot be applied to, or weights that cannot be merged."""


class MethodError(UnetscopeError):
    """A merge method that cannot be taken: names the function, its file and line, or the file that cannot be read."""
