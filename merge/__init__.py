"""Recipe -> plan -> new checkpoint.

A `Recipe` (YAML or Python) names models, steps and block weights; `merge(recipe, output)` plans it and writes one .safetensors
file, tensor by tensor; `dry_run` says what would happen, `planned` what every tensor would be made of. `METHODS` is the registry of
merge methods; `linear`, `elementwise`, `statistics`, `whole` and `structural` make one of a function (`methods.declaring`), and
`load_methods` takes in a file of them.

In the order in which a merge passes them:

- `recipe`, `recipe_file`, `block_weights`, `weights_text`, `selectors`: YAML -> a recipe, checked for all that needs no model
- `methods`: the formulas; `user_code`: those of the user
- `models`, `compatibility`: the models, opened, and whether they fit together
- `planner`, `compile`, `linear_combination`, `shape_rule`, `wholeness`: the steps -> one sum of terms for each tensor
- `plan`: what every tensor of the result is made of
- `run`: the output laid out, the plan executed, the file put in place; `metadata`, `report`: what it says of itself
- `executor`, `coalesce`, `evaluate`, `tensor_slice`: a plan -> pieces of tensors, on several threads
- `measure`, `reductions`, `fixed_order`, `weiszfeld`, `dropout`: what methods measure, and chance
- `nonfinite`: NaN and infinity, repaired or refused
- `live`: the same into a model in memory
- `convert`: one checkpoint in another format, dtype or layout
- `grid`, `predict`: many merges; how far a result will be from its models
- `lora`, `lint`, `exchange`: LoRAs; what is questionable about a recipe; other tools' recipes
- `errors`, `validation_errors`: what is wrong, as a sentence

The room is built on `checkpoints`, on `library`, and on `analysis` for what lint and predictions measure.
"""

from typing import TYPE_CHECKING

from ..checkpoints.first_use import on_first_use

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
__getattr__ = on_first_use(
    __name__,
    {
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
    },
)
