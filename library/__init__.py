"""What is known of a file and of a folder of files.

`inspect(path)` says what headers say; `HashIndex` knows a folder's models by their hashes.

Of a file:

- `inspection`: what it is and holds by its headers; `adapter` for LoRAs, `needless` for what `--prune` leaves out;
- `history`: what it was merged from;
- `fingerprint`: what identifies its weights; `health`: whether they are sound;
- `scan`: all of this, read in one pass; `scan_cache` keeps it.

Of a folder: its models (`folder_scan`), the notes next to them (`sidecars`) and their hashes (`hash_index`).
This room uses `checkpoints` and nothing above it.
"""

from typing import TYPE_CHECKING

from ..checkpoints.first_use import on_first_use

if TYPE_CHECKING:
    from .hash_index import HashIndex
    from .inspection import Inspection, inspect

__all__ = ["HashIndex", "Inspection", "inspect"]

__getattr__ = on_first_use(
    __name__,
    {"hash_index": ("HashIndex",), "inspection": ("Inspection", "inspect")},
)
