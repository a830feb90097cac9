"""LoRAs: extracted from two checkpoints, merged, resized, renamed, and baked into a checkpoint.

What is done to a LoRA is done to its factors; a layer's whole change is formed only where there is no other way. Every
function writes one .safetensors file, which appears when it is complete, and returns a `LoraReport` with the error by block.
Reading LoRAs is the business of `checkpoints.lora`.

In the order in which data passes:

- `uses`: a LoRA and how strongly it is applied
- `changes`, `layers`, `low_rank`: the changes that are added up, and their best approximation of a rank
- `bake`, `combine`, `extract`, `convert`: what can be done
- `spool`, `writing`, `report`: factors -> a file, and what people are told
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .bake import bake_recipe
    from .combine import merge_loras, resize_lora
    from .convert import convert_lora
    from .extract import extract_lora
    from .report import LoraReport
    from .uses import LoraUse

__all__ = ["LoraReport", "LoraUse", "bake_recipe", "convert_lora", "extract_lora", "merge_loras", "resize_lora"]

_HOME = {
    "bake": ("bake_recipe",),
    "combine": ("merge_loras", "resize_lora"),
    "convert": ("convert_lora",),
    "extract": ("extract_lora",),
    "report": ("LoraReport",),
    "uses": ("LoraUse",),
}


def __getattr__(name: str):
    """Import a public name when it is first used: the command line's help must not wait for numpy."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
