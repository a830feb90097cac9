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
- `demo`: files to try things out on
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .delta_checkpoint import LoraCheckpoint, lora_checkpoint
    from .module import LoraModule
    from .opening import Lora, open_lora

_HOME = {
    "delta_checkpoint": ("LoraCheckpoint", "lora_checkpoint"),
    "module": ("LoraModule",),
    "opening": ("Lora", "open_lora"),
}
__all__ = ["Lora", "LoraCheckpoint", "LoraModule", "lora_checkpoint", "open_lora"]


def __getattr__(name: str):
    """Import a public name when it is first used."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
