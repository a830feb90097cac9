"""LoRAs and their relatives, read by their headers: which weights they change, and by how much.

`open_lora(path)` answers with a `Lora`: its modules by canonical single-file key, whatever the trainer called them.
`lora_checkpoint(path, base)` shows a LoRA as a checkpoint whose tensors are the changes it makes, computed on demand.
Text encoders that single files keep in OpenCLIP's naming get the changes of q, k and v as rows of one tensor.

In the order in which data passes:

- `roles`: a tensor's name -> its module and its part in the formula
- `recognition`, `names`, `numbered`, `own`: names -> `recognised`: the family, the trainer's style, the key of each module
- `trainer`: metadata -> how it was trained
- `building`, `values`, `formulas`: a module's tensors -> `module`, a weight and its change
- `opening`: all of these in a row
- `delta_checkpoint`: what merges read like any other input
"""

from typing import TYPE_CHECKING

from ..first_use import on_first_use

if TYPE_CHECKING:
    from .delta_checkpoint import LoraCheckpoint, lora_checkpoint
    from .module import LoraModule
    from .opening import Lora, open_lora

__all__ = ["Lora", "LoraCheckpoint", "LoraModule", "lora_checkpoint", "open_lora"]
__getattr__ = on_first_use(
    __name__,
    {
        "delta_checkpoint": ("LoraCheckpoint", "lora_checkpoint"),
        "module": ("LoraModule",),
        "opening": ("Lora", "open_lora"),
    },
)
