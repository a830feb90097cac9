"""Files under construction: what they are called, who is working on them, and which of them nobody is working on any more.

A run locks the file that it writes for as long as it lives; the system drops the lock when the run ends, however it ends. So a
file that can be locked is what a killed run left behind, whatever became of its process number, and on whichever machine that
shares the disk it ran. Windows needs no lock: there an open file cannot be removed.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

# What a file under construction is called: target name + this + process number + a number of its own, so that two runs to one
# target are in nobody's way.
PARTIAL = ".unetscope-partial-"


def partial_name(target: Path) -> Path:
    """A name for a new file under construction, beside its target."""
    return target.with_name(f"{target.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(3)}")


def create_partial(target: Path) -> BinaryIO:
    """A new file under construction; it is locked until it is closed.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        file = open(partial_name(target), "xb", buffering=0)  # noqa: SIM115 (closed by its owner)
        lock(file, wait=True)
        # Between making and locking it, another run may have taken it for a leftover.
        if os.path.exists(file.name):
            return file
        file.close()


def remove_leftovers(target: Path) -> list[Path]:
    """Remove what killed runs to this target left behind; returns what was removed. What cannot be removed stays."""
    removed = []
    for name in glob.glob(f"{glob.escape(str(target))}{PARTIAL}*"):
        path = Path(name)
        with contextlib.suppress(OSError):
            if path.is_symlink() or not path.is_file():
                continue
            with open(path, "rb") as file:
                abandoned = lock(file, wait=False)
                if abandoned and fcntl:
                    path.unlink()
            if abandoned and not fcntl:
                path.unlink()
            if abandoned:
                removed.append(path)
    return removed


def lock(file: BinaryIO, wait: bool) -> bool:
    """Lock a file until it is closed; False when another run has it, or when the file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True
