"""Annotated pictures of UNETs at block, module and layer level, and of other models as chains of blocks, coloured by any value.

`draw("sdxl").save("sdxl.svg")` is all it takes. What is drawn comes from traces made with torchview when the project is
built, so drawing needs neither torch nor diffusers. `draw_tree` draws a merge recipe, `layers` lists every tensor.
This room uses `checkpoints` and nothing above it.

In the order in which data passes:

- `trace`, `architectures`: a network of diffusers -> `traces/*.json`, once, when the project is built
- `graph`: a trace, or a checkpoint's own shapes -> the modules and how tensors flow
- `values`, `values_file`, `palette`: numbers -> colours
- `ugrid`, `boxes`, `component_level`, `module_level`, `layer_flow`, `layer_level`, `tensor_box`, `strip`: a UNET's boxes at each
  level
- `chain`: the boxes of a model whose blocks stand in a row
- `summary`, `text`, `legend`, `theme`: what stands on and around them
- `drawing`: all of these in a row
- `tree`: a recipe's steps
- `svg`, `dot`, `graphviz`, `export`: boxes -> files
- `listing`: the same tensors as a table
"""

from ..checkpoints.errors import UnetscopeError as DrawingError
from .drawing import LEVELS, Drawing, draw, draw_beside
from .listing import layers, save_layers
from .tree import TreeNode, draw_tree
from .values_file import read_values

__all__ = [
    "LEVELS",
    "Drawing",
    "DrawingError",
    "TreeNode",
    "draw",
    "draw_beside",
    "draw_tree",
    "layers",
    "read_values",
    "save_layers",
]
