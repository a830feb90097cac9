"""Files on disk as named tensors of a family.

`open_checkpoint(path)` reads the headers of a model file or folder of any format and answers with a `Checkpoint`: its keys, their
shapes, dtypes and block labels, and their values on demand. Its `family` is the record that reads the keys: one of `FAMILIES`, or
one made of the file's own names where no family knows them. This room imports no other room.

In the order in which data passes:

- `formats`: bytes of a file -> `tensors` (byte ranges) under the file's own names, of `dtypes`
- `encodings`: codes -> numbers, decoded in the pass that reads them
- `recognition`: the file's names -> keys, and the family that reads them, or what the file is instead
- `families`: keys -> blocks and kinds of layer; other people's weight vectors -> a number for each block
- `opening`, `checkpoint`: all of these in a row, and what they answer with
- `lora`: an adapter as a checkpoint of changes
- `stream`, `strided`: the pass over weights, pieces of tensors on several threads
- `kernels`: stored bytes <-> fp32, sums of models, and what is measured
- `files`: positioned reads; files that appear when they are complete
- `transfer`, `diffusers_output`: numbers -> a checkpoint
- `demo`: files to try things out on
- `registry`, `on_demand`: how records are found
- `errors`, `notices`, `text`, `settings`, `spelling`, `first_use`, `hashes`: what every room uses
"""

from typing import TYPE_CHECKING

from .first_use import on_first_use

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, TensorInfo
    from .errors import CheckpointError, LabelError, OutputError, UnetscopeError
    from .families import FAMILIES, Family, Place, family_of
    from .opening import open_checkpoint

__all__ = [
    "FAMILIES",
    "Checkpoint",
    "CheckpointError",
    "Family",
    "LabelError",
    "OutputError",
    "Place",
    "TensorInfo",
    "UnetscopeError",
    "family_of",
    "open_checkpoint",
]
__getattr__ = on_first_use(
    __name__,
    {
        "checkpoint": ("Checkpoint", "TensorInfo"),
        "errors": ("CheckpointError", "LabelError", "OutputError", "UnetscopeError"),
        "families": ("FAMILIES", "Family", "Place", "family_of"),
        "opening": ("open_checkpoint",),
    },
)
