"""What may never be written: an input, or anything inside an input folder; and what a checkpoint's file must be called."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from .errors import OutputError
from .formats import written_as


def refuse_inputs(target: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse a target that is one of the inputs, under whatever name, or that lies inside an input folder.

    Args:
        target: a file or folder to write.
        inputs: files and folders that are read; those that are not there are left to whoever opens them.

    Raises:
        OutputError: with the input in question.
    """
    target = Path(target)
    for given in map(Path, inputs):
        if _same(target, given):
            raise OutputError(f"{target}: is the input {given}; inputs are never written to, choose another name")
        if any(_same(folder, given) for folder in resolved(target).parents):
            raise OutputError(f"{target}: lies inside the input {given}; inputs are never written to, write elsewhere")
        if os.path.isdir(given) and (within := _linked(target, given)):
            raise OutputError(
                f"{target}: is {within} of the input {given}; inputs are never written to, choose another name"
            )


def refuse_holders(target: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse a target folder that holds an input: replacing it would remove the input.

    Raises:
        OutputError: with the input in question.
    """
    for given in map(Path, inputs):
        if any(_same(folder, target) for folder in resolved(given).parents):
            raise OutputError(f"{target}: holds the input {given}; inputs are never removed, choose another name")


def require_suffix(target: Path) -> None:
    """Refuse a name under which programs would take the file for something else than it is.

    Raises:
        OutputError: the name does not end as that of a file that can be written: `.safetensors`.
    """
    written_as(Path(target))


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file or folder: links, hard links, and other spellings included."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there, or no name at all
        return False


def resolved(path: Path | str) -> Path:
    """Where a path leads through links; the path itself where they lead in circles, or where it is no path at all."""
    path = Path(path)
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError):
        return path.absolute()


def _linked(target: Path, folder: Path) -> str | None:
    """The file of a folder that the target is another name of."""
    if not os.path.isfile(target):
        return None
    for parent, _, names in os.walk(folder):
        for file in (Path(parent, name) for name in names):
            if _same(target, file):
                return str(file.relative_to(folder))
    return None
