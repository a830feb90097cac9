"""`RecipeError`, by the names that it has where it is about models and methods."""

from ..checkpoints.errors import RecipeError

MergeError = MethodError = RecipeError

__all__ = ["MergeError", "MethodError", "RecipeError"]
