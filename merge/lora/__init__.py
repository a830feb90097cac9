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

from typing import TYPE_CHECKING

from ...checkpoints.first_use import on_first_use

if TYPE_CHECKING:
    from .bake import bake_recipe
    from .combine import merge_loras, resize_lora
    from .convert import convert_lora
    from .extract import extract_lora
    from .report import LoraReport
    from .uses import LoraUse

__all__ = ["LoraReport", "LoraUse", "bake_recipe", "convert_lora", "extract_lora", "merge_loras", "resize_lora"]
__getattr__ = on_first_use(
    __name__,
    {
        "bake": ("bake_recipe",),
        "combine": ("merge_loras", "resize_lora"),
        "convert": ("convert_lora",),
        "extract": ("extract_lora",),
        "report": ("LoraReport",),
        "uses": ("LoraUse",),
    },
)
