"""Recipe -> plan -> new checkpoint.

A `Recipe` (YAML or Python) names models, steps and block weights; `merge(recipe, output)` streams the inputs through fp32 and
writes one .safetensors file; `dry_run` says what would happen. `METHODS` is the registry of merge methods; `linear`, `elementwise`,
`statistics`, `whole` and `structural` make one of a function, and `load_methods` takes in a file of them.
This room uses `checkpoints`, and `analysis` for what lint and predictions measure.

In the order in which data passes:

- `recipe`, `recipe_file`, `step`, `inline_steps`, `mistakes`: YAML -> a recipe that is checked as far as that goes without models
- `block_weights`, `weights_text`, `selectors`, `selection`, `resolved_weights`: what stands for a number -> a number for each key
- `methods`: the formulas
- `plan`, `planner`, `compatibility`, `wholeness`, `ema`: the models' headers -> a plan, or a refusal
- `collapse`, `forms`, `tensor_plan`: the steps -> one sum of terms for each tensor
- `engine`, `neighbours`: a plan -> pieces of work, on several threads
- `pieces`, `evaluate`, `spot`: a piece -> numbers
- `solve`, `reductions`, `kernels`, `kernels_numba`, `kernels_numpy`, `fixed_order`, `weiszfeld`, `random_drop`: what methods
  measure
- `faults`: what is not finite
- `metadata`, `report`: what the file says of itself, and what people are told
- `run`: all of these in a row
- `live`: the same into a model in memory
- `grid`, `predict`: many merges; how far a result will be from its models
- `lora`, `lint`, `exchange`: LoRAs; what is questionable about a recipe; other tools' recipes
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .block_weights import BlockWeights
    from .errors import MergeError, MethodError, RecipeError
    from .methods import METHODS, load_methods
    from .methods.declaring import elementwise, linear, statistics, structural, whole
    from .methods.elsewhere import Mecha, Mergekit, Supermerger
    from .methods.method import Component, Delta, Numbers, Share
    from .recipe import Recipe
    from .report import Report
    from .run import dry_run, merge
    from .spot import Spot

__all__ = [
    "METHODS", "BlockWeights", "Component", "Delta", "Mecha", "MergeError", "Mergekit", "MethodError", "Numbers", "Recipe",
    "RecipeError", "Report", "Share", "Spot", "Supermerger", "dry_run", "elementwise", "linear", "load_methods", "merge",
    "statistics", "structural", "whole",
]  # fmt: skip

_HOME = {
    "methods": ("METHODS", "load_methods"),
    "methods.declaring": ("elementwise", "linear", "statistics", "structural", "whole"),
    "methods.elsewhere": ("Mecha", "Mergekit", "Supermerger"),
    "methods.method": ("Component", "Delta", "Numbers", "Share"),
    "spot": ("Spot",),
    "block_weights": ("BlockWeights",),
    "errors": ("MergeError", "MethodError", "RecipeError"),
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
