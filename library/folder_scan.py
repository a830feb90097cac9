"""The model files and diffusers folders below a folder, whatever links and locked doors are on the way."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ..checkpoints.errors import CheckpointError
from ..checkpoints.formats import is_model_folder, is_scanned_name
from ..checkpoints.text import dead_link, unreadable


@dataclass(frozen=True, slots=True)
class FoundModel:
    """A model file or diffusers folder: its path, where that leads through links, its size and time of change."""

    path: Path
    real: Path
    size: int
    mtime: float
    folder: bool = False


def find_models(root: Path, problems: list[str]) -> Iterator[FoundModel]:
    """Every model below a folder (or the model itself, when it is one), sorted within each folder.

    Links are followed; a folder that was read already is not read again. What cannot be read is said in `problems`.

    Raises:
        CheckpointError: there is no such file or folder.
    """
    if not root.exists():
        raise CheckpointError(f"{root}: {dead_link(root) or 'no such folder'}; check the name")
    if root.is_file():
        yield from _file(root, problems)
        return
    seen: set[tuple[int, int] | str] = set()

    def failed(error: OSError) -> None:
        problems.append(f"{error.filename}: cannot be read ({error.strerror})")

    for folder, below, names in os.walk(root, onerror=failed, followlinks=True):
        here = Path(folder)
        if not _first_visit(here, seen, problems):
            below.clear()
        elif is_model_folder(names):
            below.clear()
            yield FoundModel(here, here.resolve(), 0, 0.0, folder=True)
        else:
            below[:] = sorted(name for name in below if not name.startswith("."))
            for name in sorted(names):
                if is_scanned_name(name):
                    yield from _file(here / name, problems)


def _first_visit(folder: Path, seen: set[tuple[int, int] | str], problems: list[str]) -> bool:
    try:
        found = os.stat(folder)
    except OSError as error:
        problems.append(f"{folder}: cannot be read ({error.strerror})")
        return False
    # Some file systems on Windows give no folder a number.
    known = (found.st_dev, found.st_ino) if found.st_ino else os.path.realpath(folder)
    if known in seen:
        problems.append(f"{folder}: is a link to a folder that was read already; it is left out")
        return False
    seen.add(known)
    return True


def _file(path: Path, problems: list[str]) -> Iterator[FoundModel]:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):  # opening a pipe would wait for ever
            problems.append(f"{path}: is not a file; it is left out")
            return
        yield FoundModel(path, path.resolve(), found.st_size, found.st_mtime)
    except (OSError, RuntimeError) as error:  # a broken link, a link to itself
        problems.append(f"{path}: cannot be read ({unreadable(error)})")
