"""Files on disk as named tensors of a family.

`open_checkpoint(path)` reads the headers of a model file or folder of any format and answers with a `Checkpoint`: its keys, their
shapes, dtypes and block labels, and their values on demand. Its `family` is the record that reads the keys: one of `FAMILIES`, or
one made of the file's own names where no family knows them.
This room knows formats, encodings, names, families and blocks, and imports no other room.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .checkpoint import Checkpoint, TensorInfo
    from .errors import CheckpointError, LabelError, OutputError, UnetscopeError
    from .families import FAMILIES, Family, Place, family_of
    from .opening import open_checkpoint

_HOME = {
    "checkpoint": ("Checkpoint", "TensorInfo"),
    "errors": ("CheckpointError", "LabelError", "OutputError", "UnetscopeError"),
    "families": ("FAMILIES", "Family", "Place", "family_of"),
    "opening": ("open_checkpoint",),
}
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


def __getattr__(name: str):
    """Import a public name when it is first used: the command line's help must not wait for numpy."""
    for module, names in _HOME.items():
        if name in names:
            return getattr(import_module(f".{module}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
