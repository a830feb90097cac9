"""Recipes from and for other tools: what they wrote down becomes a `Recipe`, and a `Recipe` becomes what they read.

`import_recipe` reads merge metadata of checkpoints, sd-mecha, AutoMBW, supermerger and mergekit; whatever has no equivalent is
named in the result, never dropped. `to_mecha` writes a recipe for sd-mecha.

In the order in which data passes:

- `reading`: a file -> which tool wrote it
- `recorded`, `comfyui`, `supermerger`, `weight_lines`, `automb_log`, `mergekit`, `mergekit_settings`, `mecha_text`,
  `mecha_graph`, `mecha_blocks`, `mecha_merges`, `mecha_sparse`, `mecha_import`: what it says
- `draft`: models, steps and notes -> a `Recipe`
- `shares`: how much of every model is in the result
- `mecha_export`, `mecha_numbers`, `mecha_writer`, `mecha_writers`, `mecha_sparse_writers`: a `Recipe` -> sd-mecha's text
"""

from .draft import Draft, Imported, Request
from .mecha_export import to_mecha
from .reading import READABLE, import_recipe

__all__ = ["READABLE", "Draft", "Imported", "Request", "import_recipe", "to_mecha"]
