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
    import msvcrt

    fcntl = None

# What a file under construction is called: target name + this + process number + a number of its own, so that two runs to one
# target are in nobody's way.
PARTIAL = ".unetscope-partial-"
# What a file under construction that can be gone on with, and its journal, are called: target name + this.
RESUMABLE, JOURNAL = ".unetscope-resumable", ".unetscope-journal"
# On Windows nobody else may read or write the bytes that are locked: a place where small files have none.
_BEYOND = 1 << 30


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
        if not path.is_symlink() and path.is_file() and remove_abandoned(path):
            removed.append(path)
    return removed


def remove_abandoned(path: Path) -> bool:
    """Remove a file unless a living run has it; returns whether it is gone."""
    with contextlib.suppress(OSError):
        with open(path, "rb") as file:
            if not lock(file, wait=False):
                return False
            if fcntl:
                path.unlink()
        if not fcntl:
            path.unlink()
        return True
    return False


def remove_resumable(target: Path) -> None:
    """Remove what a resumable run left for later, unless one is at work: the file that it was to become has been made."""
    journal = Path(f"{target}{JOURNAL}")
    with contextlib.suppress(OSError):
        if journal.is_symlink() or not journal.is_file():
            return
        with open(journal, "r+b") as file:
            if taken(file):
                return
            Path(f"{target}{RESUMABLE}").unlink(missing_ok=True)
            if fcntl:
                journal.unlink()
        if not fcntl:
            journal.unlink()


def lock(file: BinaryIO, wait: bool) -> bool:
    """Lock a file until it is closed; False when another run has it, or when the file system knows no locks."""
    if fcntl is None:
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:
        return False
    return True


def taken(file: BinaryIO) -> bool:
    """Lock a small file until it is closed; True when another run has it. Where the file system knows no locks, nobody has."""
    try:
        if fcntl:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        else:
            os.lseek(file.fileno(), _BEYOND, os.SEEK_SET)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    return False
