"""Recipe -> plan -> new checkpoint.

A `Recipe` (YAML or Python) names models, steps and block weights; `merge(recipe, output)` plans it and writes one .safetensors
file, tensor by tensor; `dry_run` says what would happen, `planned` what every tensor would be made of. `METHODS` is the registry of
merge methods; `linear`, `elementwise`, `statistics`, `whole` and `structural` make one of a function (`methods.declaring`), and
`load_methods` takes in a file of them.

In the order in which a merge passes them: `recipe`, `models`, `planner` (with `compile`), `plan`, `run`, `executor`. `exchange`
reads and writes other tools' recipes, `lint` says what is questionable in one, `lora` bakes, merges and extracts LoRAs. The room
is built on `checkpoints`, and on `analysis` for what lint and predictions measure.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .block_weights import BlockWeights
    from .errors import MergeError, MethodError, RecipeError
    from .methods import METHODS, load_methods
    from .methods.declaring import elementwise, linear, statistics, structural, whole
    from .methods.method import Component, Delta, Numbers, Share
    from .methods.other_tools import Mecha, Mergekit, Supermerger
    from .planner import planned
    from .recipe import Recipe
    from .report import Report
    from .run import dry_run, merge
    from .tensor_slice import Spot, TensorSlice

__all__ = [
    "METHODS", "BlockWeights", "Component", "Delta", "Mecha", "MergeError", "Mergekit", "MethodError", "Numbers", "Recipe",
    "RecipeError", "Report", "Share", "Spot", "Supermerger", "TensorSlice", "dry_run", "elementwise", "linear",
    "load_methods", "merge", "planned", "statistics", "structural", "whole",
]  # fmt: skip

_HOME = {
    "methods": ("METHODS", "load_methods"),
    "methods.declaring": ("elementwise", "linear", "statistics", "structural", "whole"),
    "methods.other_tools": ("Mecha", "Mergekit", "Supermerger"),
    "methods.method": ("Component", "Delta", "Numbers", "Share"),
    "tensor_slice": ("Spot", "TensorSlice"),
    "block_weights": ("BlockWeights",),
    "errors": ("MergeError", "MethodError", "RecipeError"),
    "planner": ("planned",),
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
