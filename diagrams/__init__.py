"""Annotated pictures of UNETs at block, module and layer level, and of other models as chains of blocks, coloured by any value.

`draw("sdxl").save("sdxl.svg")` is all it takes. What is drawn comes from traces made with torchview when the project is
built, so drawing needs neither torch nor diffusers. `draw_tree` draws a merge recipe, `layers` lists every tensor.
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
