"""What may be written where: not onto an input or into its folder, not where there is no room, by no name that the system lacks."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterable
from pathlib import Path

from ..errors import OutputError
from ..text import file_size
from . import system
from .partial import PARTIAL, partial_name

# What may be in the way of a file that cannot be put in place, and what to do.
HELD = (
    "another program may have it open; close what uses the model (image generators, virus scanners) and try again, or choose "
    "another name"
)


def check_target(target: Path, size: int = 0, overwrite: bool = False, held: int = 0) -> None:
    """Refuse a target that cannot be written, before any work is done.

    Args:
        size: bytes that the file will have.
        held: how many of them the disk has set aside already.

    Raises:
        OutputError: the folder is missing or read-only, the file exists and may not be replaced, the disk is too small.
    """
    target = Path(target)
    folder = target.parent
    try:
        _check_name(target, folder, overwrite)
    except (OSError, ValueError) as error:  # a name that is too long, or that holds a null character
        raise OutputError(f"{target}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    most = system.largest_file(folder)
    if most is not None and size > most:
        raise OutputError(f"{target}: {too_large(size)}")
    free, needed = shutil.disk_usage(folder).free, size - held
    if needed > free:
        raise OutputError(
            f"{target}: needs {file_size(needed)} and the disk has {file_size(free)} free; free some or write elsewhere"
        )


def exists_already(target: Path) -> OutputError:
    """The refusal of a target that is there and may not be replaced."""
    text = f"{target}: exists already; choose another name or allow it to be replaced (--overwrite)"
    return OutputError(text, code="output.exists")


def _check_name(target: Path, folder: Path, overwrite: bool) -> None:
    if system.WINDOWS and (fault := system.windows_fault(target.name)):
        raise OutputError(f"{target}: cannot be written ({fault}); choose another name")
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; make it first")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file to write")
    if os.path.lexists(target):
        if not overwrite:
            raise exists_already(target)
        if system.WINDOWS:
            _check_unused(target)
    probe = partial_name(target)
    try:
        with open(probe, "xb"):
            pass
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{target}: {_unwritable(probe, error)}") from None


def _check_unused(target: Path) -> None:
    """Refuse to replace a file that another program has open: Windows would refuse when all the work is done."""
    try:
        system.patiently(lambda: os.rename(target, target))
    except PermissionError as error:
        raise OutputError(f"{target}: cannot be replaced ({error.strerror}): {HELD}") from None
    except OSError:  # whatever else it is shows when the file is put in place
        pass


def _unwritable(probe: Path, error: OSError) -> str:
    """Why no file could be made next to a target."""
    name, _, _ = probe.name.partition(PARTIAL)
    more, path = len(probe.name) - len(name), os.path.abspath(probe)
    if error.errno == errno.ENAMETOOLONG:
        return (
            f"the name is too long: while it is written the file is called {more} characters more; choose a shorter one"
        )
    if system.WINDOWS and len(path) > system.LONGEST_WINDOWS_PATH:
        return (
            f"the path is too long: while it is written the file's has {len(path)} characters, and Windows takes "
            f"{system.LONGEST_WINDOWS_PATH} unless long paths are switched on; choose a shorter one"
        )
    return f"the folder {probe.parent} cannot be written ({error.strerror or error})"


def too_large(size: int) -> str:
    """Why a file of so many bytes cannot be there, for people."""
    return (
        f"would have {file_size(size)}, and this disk's file system takes no file that large (FAT32 ends at 4.29 GB); "
        "write to a disk formatted with NTFS, exFAT, ext4 or APFS"
    )


def refuse_inputs(target: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse a target that is one of the inputs, under whatever name, or that is inside an input folder.

    Args:
        target: a file or folder to write.
        inputs: files and folders that are read; those that are not there are left to whoever opens them.

    Raises:
        OutputError: with the input in question.
    """
    target = Path(target)
    for given in map(Path, inputs):
        if _same(target, given):
            raise _is_read(f"{target}: is the input {given}; inputs are never written to, choose another name")
        if any(_same(folder, given) for folder in resolved(target).parents):
            raise _is_read(f"{target}: is inside the input {given}; inputs are never written to, write elsewhere")
        if os.path.isdir(given) and (within := _linked(target, given)):
            raise _is_read(
                f"{target}: is {within} of the input {given}; inputs are never written to, choose another name"
            )


def refuse_holders(target: Path, inputs: Iterable[Path | str]) -> None:
    """Refuse a target folder that holds an input: replacing it would remove the input.

    Raises:
        OutputError: with the input in question.
    """
    for given in map(Path, inputs):
        if any(_same(folder, target) for folder in resolved(given).parents):
            raise _is_read(f"{target}: holds the input {given}; inputs are never removed, choose another name")


def _is_read(text: str) -> OutputError:
    return OutputError(text, code="output.is_input")


def _same(one: Path, other: Path) -> bool:
    """Whether two names are of one file or folder: links, hard links, and other spellings included."""
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one of them is not there, or no name at all
        return False


def resolved(path: Path | str) -> Path:
    """Where a path leads through links; the path itself where they lead in circles, or where it is not a path at all."""
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
