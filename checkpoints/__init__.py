"""Files on disk as named tensors of a family.

`open_checkpoint(path)` reads the headers of a model file or folder of any format and answers with a `Checkpoint`: its keys, their
shapes, dtypes and block labels, and their values on demand. Its `family` is the record that reads the keys: one of `FAMILIES`, or
one made of the file's own names where no family knows them. This room imports no other room.

In the order in which data passes:

- `formats`, `files`: bytes of a file -> `tensors` (byte ranges) under the file's own names, of `dtypes`
- `encodings`: codes -> numbers, decoded in the pass that reads them
- `naming`: the file's names -> keys
- `architecture`, `foreign`: keys -> the family, or what the file is instead
- `families`, `layers`: keys -> blocks and kinds of layer; `registry` finds such records
- `opening`, `checkpoint`: all of these in a row, and what they answer with
- `lora`: an adapter as a checkpoint of changes
- `conventions`, `presets`: other people's weight vectors -> a number for each block
- `stream`, `strided`: the pass over weights, pieces of tensors on several threads
- `codec`, `kernel_loops`, `kernel_numba`, `kernel_torch`, `machine_code`, `kernel_cache`: stored bytes <-> fp32
- `output`, `partial_file`, `resumable`, `output_folder`, `transfer`, `targets`, `file_system`: numbers -> files that appear when
  they are complete
- `convert`, `diffusers_output`, `needless`, `averaged`, `position_ids`: any format -> another
- `demo`, `demo_weights`: files to try things out on
- `inspection`, `adapter`, `history`: what a header says
- `scan`, `health`, `fingerprint`, `hashes`, `kept_scans`: what values say, and where that is kept
- `folder_scan`, `sidecars`, `hash_index`: what is known of a folder
- `errors`, `wording`, `yaml_text`, `user_code`, `on_demand`: what every room uses
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
