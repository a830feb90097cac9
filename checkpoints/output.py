"""An output file that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from .errors import OutputError
from .files import FileWriter

# What a file under construction is called: target name + this + a number of its own, so that what a killed run left behind
# is in nobody's way.
PARTIAL = ".unetscope-partial-"


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}{PARTIAL}{os.getpid()}-{secrets.token_hex(3)}")


def check_target(target: Path, size: int = 0, overwrite: bool = False) -> None:
    """Refuse a target that cannot be written, before any work is done.

    Raises:
        OutputError: the folder is missing or read-only, the file exists and may not be replaced, the disk is too small.
    """
    target = Path(target)
    folder = target.parent
    try:
        _check_name(target, folder, overwrite)
    except (OSError, ValueError) as error:  # a name that is too long, or that holds a null character
        raise OutputError(f"{target}: cannot be written ({getattr(error, 'strerror', None) or error})") from None
    free = shutil.disk_usage(folder).free
    if size > free:
        raise OutputError(
            f"{target}: needs {size / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; free some or write elsewhere"
        )


def _check_name(target: Path, folder: Path, overwrite: bool) -> None:
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; make it first")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file to write")
    if target.exists() and not overwrite:
        raise OutputError(f"{target}: exists already; choose another name or allow it to be replaced (--overwrite)")
    probe = _partial(target)
    try:
        with open(probe, "xb"):
            pass
        probe.unlink()
    except OSError as error:
        raise OutputError(f"{target}: the folder {folder} cannot be written ({error.strerror or error})") from None


class OutputFile:
    """A file of known size under construction, beside its target.

    Use it as a context manager: leaving it without `commit()` removes what was written and leaves the target as it was.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False, fsync: bool = True):
        check_target(target, size, overwrite)
        self.target = Path(target)
        self.partial = _partial(self.target)
        self._overwrite, self._fsync = overwrite, fsync
        try:
            self._writer = FileWriter(self.partial, size)
        except OSError as error:
            self.discard()
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None

    def write_at(self, offset: int, buffer) -> None:
        """Write bytes at an offset; safe from several threads.

        Raises:
            OutputError: the disk is full or the write failed.
        """
        try:
            self._writer.write_at(offset, buffer)
        except OSError as error:
            raise OutputError(f"{self.target}: writing failed ({error.strerror or error})") from None

    def commit(self) -> None:
        """Put the finished file under its name.

        Raises:
            OutputError: it cannot be put there, or another file has taken the name meanwhile and may not be replaced.
        """
        if self.target.exists() and not self._overwrite:
            raise OutputError(f"{self.target}: another file of this name was made meanwhile; choose another name")
        try:
            if self._fsync:
                self._writer.sync()
            self._writer.close()
            os.replace(self.partial, self.target)
        except OSError as error:
            raise OutputError(f"{self.target}: cannot be put in place ({error.strerror or error})") from None
        if self._fsync:
            _sync_folder(self.target.parent)

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit()`."""
        if hasattr(self, "_writer"):
            self._writer.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.partial)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *exc) -> None:
        self.discard()


def _sync_folder(folder: Path) -> None:
    """Make the new name durable; Windows cannot open a folder and needs no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
