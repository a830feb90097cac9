"""Files under construction: what they are called, who is working on them, and which of them nobody is working on any more.

A run locks the file that it writes (`locks`). A folder is held by a locked file in it, a file that can be continued by its journal.
"""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from . import system
from .locks import LOOKED_AT, lock, open_to_lock

# What a file under construction is called: target name + this + process number + a number of its own, so that two runs to one
# target are in nobody's way.
PARTIAL = ".unetscope-partial-"
# What a file under construction that can be gone on with, and its journal, are called: target name + this.
RESUMABLE, JOURNAL = ".unetscope-resumable", ".unetscope-journal"
# A folder under construction is held by a locked file in it; a folder that makes room for it is called so.
FOLDER_LOCK, MOVED_ASIDE = ".unetscope-lock", "-old"


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file or folder under construction.

    Attributes:
        path: of it.
        target: what it was to become.
        size: bytes; of a folder, of all files in it.
        age: seconds since it was last written to.
        alive: whether a run is at work on it. Where the file system knows no locks, whether a process of its number lives here.
        resumable: whether the run that made it can be continued (`--resumable`); its journal is next to it.
    """

    path: Path
    target: Path
    size: int
    age: float
    alive: bool
    resumable: bool = False

    @property
    def paths(self) -> tuple[Path, ...]:
        """What is to be removed to be rid of it: the file, and its journal if it has one."""
        return (self.path, Path(f"{self.target}{JOURNAL}")) if self.resumable else (self.path,)


def leftovers(folder: Path | str) -> list[Leftover]:
    """The files and folders under construction in a folder (not below it), by name; `alive` says which are nobody's.

    A folder that a killed run had moved aside is the user's own, which the next run to its target puts back: it is not listed
    while there is no other.

    Raises:
        OSError: the folder cannot be read.
    """
    found = []
    with os.scandir(folder) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            target, marked, _ = entry.name.partition(PARTIAL)
            resumable = not marked and entry.name.endswith(RESUMABLE)
            if not marked and not resumable:
                continue
            # What vanishes while it is looked at has come to its end.
            with contextlib.suppress(OSError):
                moved_aside = entry.name.endswith(MOVED_ASIDE) and not os.path.lexists(os.path.join(folder, target))
                if not entry.is_symlink() and not moved_aside and (marked or entry.is_file()):
                    found.append(_leftover(Path(entry), target.removesuffix(RESUMABLE), resumable))
    return found


def remove_leftover(found: Leftover) -> bool:
    """Remove a file or folder under construction, with its journal, unless a living run has it; returns whether it is gone."""
    if found.path.is_symlink() or _is_held(found.path, found.target, found.resumable):
        return False
    if found.resumable:
        remove_resumable(found.target)
        if not os.path.lexists(found.paths[1]):  # without its journal nobody can continue with it
            remove_abandoned(found.path)
    elif found.path.is_dir():
        lock_file = found.path / FOLDER_LOCK
        if not lock_file.exists() or remove_abandoned(lock_file):
            shutil.rmtree(found.path, ignore_errors=True)
    else:
        remove_abandoned(found.path)
    return not os.path.lexists(found.path)


def _leftover(path: Path, target: str, resumable: bool) -> Leftover:
    files = [path]
    if path.is_dir():
        files = [Path(parent, name) for parent, _, names in os.walk(path) for name in names]
    stats = [os.lstat(file) for file in (path, *files)]
    age = max(0.0, time.time() - max(found.st_mtime for found in stats))
    target = path.with_name(target)
    size = sum(found.st_size for found in stats[1:])
    return Leftover(path, target, size, age, _is_held(path, target, resumable), resumable)


def _is_held(path: Path, target: Path, resumable: bool) -> bool:
    """Whether a living run has the lock of a file or folder under construction: its journal, a file in it, or itself."""
    held = Path(f"{target}{JOURNAL}") if resumable else path / FOLDER_LOCK if path.is_dir() else path
    with contextlib.suppress(OSError), open_to_lock(held) as file:
        free = lock(file, content=_is_content(held))
        if free is not None:
            return not free
    # It cannot be told by a lock: the number in its name is left.
    number = path.name.partition(PARTIAL)[2].partition("-")[0]
    return number.isdecimal() and system.is_running(int(number))


def _is_content(path: Path) -> bool:
    """Whether what is locked is read and written by other handles as well: an output, and no file that holds one."""
    return path.name != FOLDER_LOCK and not path.name.endswith(JOURNAL)


def partial_name(target: Path) -> Path:
    """A name for a new file under construction, next to its target."""
    return target.with_name(f"{target.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(3)}")


def create_partial(target: Path) -> BinaryIO:
    """A new file under construction; it is locked until it is closed.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        file = open(partial_name(target), "xb", buffering=0)  # noqa: SIM115 (closed by its owner)
        # Between making and locking it, another run may have taken it for a leftover.
        if lock(file, LOOKED_AT, content=True) is not False and os.path.exists(file.name):
            return file
        file.close()


def create_partial_folder(folder: Path) -> BinaryIO:
    """Make a folder under construction, of this name; returns the file in it that holds it until it is closed.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder.mkdir(exist_ok=True)
        # Before the file is there and locked, another run may take the folder for a leftover.
        with contextlib.suppress(FileNotFoundError):
            file = open(folder / FOLDER_LOCK, "xb")  # noqa: SIM115 (closed by its owner)
            if lock(file, LOOKED_AT) is not False and os.path.exists(file.name):
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


def remove_resumable(target: Path) -> None:
    """Remove what a resumable run left for later, unless one is at work: the file that it was to become has been made."""
    journal = Path(f"{target}{JOURNAL}")
    if journal.is_file() and not journal.is_symlink():
        remove_abandoned(journal, Path(f"{target}{RESUMABLE}"))


def remove_abandoned(path: Path, *held_by_it: Path) -> bool:
    """Remove a file, and others that it holds, unless a living run has it; returns whether it is gone."""
    with contextlib.suppress(OSError):
        with open_to_lock(path) as file:
            free = lock(file, content=_is_content(path))
            if not (free or (free is None and system.WINDOWS)):
                return False
            if not system.WINDOWS:
                _remove(path, held_by_it)
        if system.WINDOWS:  # an open file is not removed there: neither this one, nor what another run has
            _remove(path, held_by_it)
        return True
    return False


def _remove(path: Path, held_by_it: tuple[Path, ...]) -> None:
    for held in held_by_it:
        held.unlink(missing_ok=True)
    path.unlink()
