"""Recipe -> plan -> new checkpoint.

A `Recipe` (YAML or Python) names models, steps and block weights; `merge(recipe, output)` streams the inputs through fp32 and
writes one .safetensors file; `dry_run` says what would happen. `METHODS` is the registry of merge methods.
This room uses `checkpoints` and nothing above it.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .block_weights import BlockWeights
    from .errors import MergeError, RecipeError
    from .methods import METHODS
    from .recipe import Recipe
    from .report import Report
    from .run import dry_run, merge

__all__ = ["METHODS", "BlockWeights", "MergeError", "Recipe", "RecipeError", "Report", "dry_run", "merge"]

_HOME = {
    "METHODS": "methods",
    "BlockWeights": "block_weights",
    "MergeError": "errors",
    "RecipeError": "errors",
    "Recipe": "recipe",
    "Report": "report",
    "dry_run": "run",
    "merge": "run",
}


def __getattr__(name: str):
    """Import a public name when it is first used: the command line's help must not wait for numpy and pydantic."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOME[name]}", __name__), name)
