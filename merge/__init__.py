"""Recipe -> plan -> new checkpoint.

A `Recipe` (YAML or Python) names models, steps and block weights; `merge(recipe, output)` streams the inputs through fp32 and
writes one .safetensors file; `dry_run` says what would happen. `METHODS` is the registry of merge methods.
This room uses `checkpoints` and nothing above it.
"""

from importlib import import_module
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
    "methods": ("METHODS",),
    "block_weights": ("BlockWeights",),
    "errors": ("MergeError", "RecipeError"),
    "recipe": ("Recipe",),
    "report": ("Report",),
    "run": ("dry_run", "merge"),
}


def __getattr__(name: str):
    """Import a public name when it is first used: the command line's help must not wait for numpy and pydantic."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
