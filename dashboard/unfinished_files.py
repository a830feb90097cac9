"""What runs that were killed have left in this app's folders: full-length files that nobody finishes and no list names."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints.files.partial import PARTIAL, RESUMABLE, Leftover, leftovers
from .folders import Folders


def unfinished_files(folders: Folders) -> list[Leftover]:
    """The files and folders under construction below the output and the models folder that no living run is at work on."""
    found: dict[Path, Leftover] = {}
    for root in dict.fromkeys((folders.output, folders.models)):
        for folder, below, names in os.walk(root):
            below[:] = [name for name in below if not os.path.islink(os.path.join(folder, name))]
            if any(PARTIAL in name or name.endswith(RESUMABLE) for name in (*names, *below)):
                try:
                    here = leftovers(folder)
                except OSError:  # gone, or not to be read
                    continue
                found |= {one.path: one for one in here if not one.alive}
                below[:] = [name for name in below if PARTIAL not in name]
    return list(found.values())
