"""Files that appear under their names only when they are complete: the one module that puts files in place.

`OutputFile` is for files of known size that threads write (checkpoints), `write_output` for small ones that a user asked for
(tables, pictures, recipes), `replace_file` for those of our own (caches, records). A link is replaced, what it leads to stays;
a pipe or device is written to.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError, tell
from .file_system import LONGEST_WINDOWS_PATH, WINDOWS, largest_file, windows_fault
from .files import FileWriter
from .partial_file import (
    PARTIAL,
    Leftover,
    create_partial,
    leftovers,
    partial_name,
    remove_leftovers,
    remove_resumable,
)
from .wording import file_size

__all__ = [
    "PARTIAL",
    "OutputFile",
    "check_target",
    "patiently",
    "replace_file",
    "sync_folder",
    "tell_leftovers",
    "write_output",
]

# What this process has told of.
_TOLD: set[str] = set()
# Seconds to wait before trying again to put a file in place that another program holds: a virus scanner lets go soon.
_WAITS = (0.1, 0.2, 0.5, 1.0)
_HELD = (
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
    most = largest_file(folder)
    if most is not None and size > most:
        raise OutputError(f"{target}: {_too_large(size)}")
    free, needed = shutil.disk_usage(folder).free, size - held
    if needed > free:
        raise OutputError(
            f"{target}: needs {needed / 1e9:.2f} GB and the disk has {free / 1e9:.2f} GB free; free some or write elsewhere"
        )


def _check_name(target: Path, folder: Path, overwrite: bool) -> None:
    if WINDOWS and (fault := windows_fault(target.name)):
        raise OutputError(f"{target}: cannot be written ({fault}); choose another name")
    if not folder.is_dir():
        raise OutputError(f"{target}: the folder {folder} does not exist; make it first")
    if target.is_dir():
        raise OutputError(f"{target}: is a folder; name a file to write")
    if os.path.lexists(target):
        if not overwrite:
            raise OutputError(f"{target}: exists already; choose another name or allow it to be replaced (--overwrite)")
        if WINDOWS:
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
        patiently(lambda: os.rename(target, target))
    except PermissionError as error:
        raise OutputError(f"{target}: cannot be replaced ({error.strerror}): {_HELD}") from None
    except OSError:  # whatever else it is shows when the file is put in place
        pass


def _unwritable(probe: Path, error: OSError) -> str:
    """Why no file could be made beside a target."""
    name, _, _ = probe.name.partition(PARTIAL)
    more, path = len(probe.name) - len(name), os.path.abspath(probe)
    if error.errno == errno.ENAMETOOLONG:
        return (
            f"the name is too long: while it is written the file is called {more} characters more; choose a shorter one"
        )
    if WINDOWS and len(path) > LONGEST_WINDOWS_PATH:
        return (
            f"the path is too long: while it is written the file's has {len(path)} characters, and Windows takes "
            f"{LONGEST_WINDOWS_PATH} unless long paths are switched on; choose a shorter one"
        )
    return f"the folder {probe.parent} cannot be written ({error.strerror or error})"


def _too_large(size: int) -> str:
    return (
        f"would have {size / 1e9:.2f} GB, and this disk's file system takes no file that large (FAT32 ends at 4.29 GB); "
        "write to a disk formatted with NTFS, exFAT, ext4 or APFS"
    )


def write_output(target: Path | str, content: bytes | str) -> None:
    """Write a small file that a user asked for, in one step: what stands under the name stays until the new one is complete.

    Args:
        content: text becomes UTF-8; what UTF-8 lacks (lone surrogates, of names that are none) becomes `\\udce9`.

    Raises:
        OutputError: it cannot be written.
    """
    target = Path(target)
    tell_leftovers(target)
    try:
        replace_file(target, content)
    except PermissionError as error:
        raise OutputError(f"{target}: cannot be put in place ({error.strerror}): {_HELD}") from None
    except (OSError, ValueError) as error:
        raise OutputError(f"{target}: cannot be written ({getattr(error, 'strerror', None) or error})") from None


def replace_file(target: Path, content: bytes | str, *, fsync: bool = True) -> None:
    """`write_output` of a file of our own: nothing is told.

    Args:
        fsync: wait until the disk has it.

    Raises:
        OSError: it cannot be written; what was there before is there still.
    """
    target = Path(target)
    data = content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content
    if _is_stream(target):
        with open(target, "wb") as file:
            file.write(data)
        return
    remove_leftovers(target)
    file = create_partial(target)
    partial = Path(file.name)
    try:
        with file:
            left = memoryview(data)
            while left:
                left = left[file.write(left) :]
            _settled(file, fsync)
            with contextlib.suppress(OSError):
                shutil.copymode(target, partial)
            if WINDOWS:
                file.close()  # an open file cannot be renamed there
            patiently(lambda: _rename(partial, target, overwrite=True))
    except BaseException:
        with contextlib.suppress(OSError):
            partial.unlink()
        raise
    if fsync:
        sync_folder(target.parent)


def _settled(file: BinaryIO, fsync: bool) -> None:
    if fsync:
        os.fsync(file.fileno())


def _is_stream(target: Path) -> bool:
    """Whether a name is no place of its own: a pipe, a terminal, `/dev/stdout` whatever that leads to."""
    try:
        found = os.stat(target)
    except OSError:
        return False
    return not stat.S_ISREG(found.st_mode) or os.path.abspath(target).startswith(("/dev/fd/", "/dev/std", "/proc/"))


def tell_leftovers(target: Path) -> None:
    """Tell, a line each, what killed runs left in the folder of a target, but for what they left of the target itself."""
    try:
        found = leftovers(Path(target).parent)
    except OSError:
        return
    for left in found:
        known = os.path.abspath(left.path)
        if not left.alive and left.target.name != Path(target).name and known not in _TOLD:
            _TOLD.add(known)
            tell(_left_by_killed_run(left))


def _left_by_killed_run(left: Leftover) -> str:
    remove = ("rmdir /s" if left.path.is_dir() else "del") if WINDOWS else "rm -r" if left.path.is_dir() else "rm"
    command = " ".join([remove, *(f'"{path}"' if WINDOWS else shlex.quote(str(path)) for path in left.paths)])
    again = "; the same merge with --resumable continues it" if left.resumable else ""
    return f"{left.path} ({file_size(left.size)}) was left by a run that was killed{again}; to remove it: {command}"


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs to this target left, and say so."""
    sizes = {}
    with contextlib.suppress(OSError):
        sizes = {left.path: left.size for left in leftovers(target.parent)}
    for path in remove_leftovers(target):
        size = f" ({file_size(sizes[path])})" if path in sizes else ""
        tell(f"{path}{size}, left by a killed run to the same file, was removed")


class OutputFile:
    """A file of known size under construction, beside its target.

    Use it as a context manager: leaving it without `commit()` removes what was written and leaves the target as it was. What
    killed runs to the same target left behind is removed first. Several runs to one target do not disturb each other: the
    first to finish gets the name, the others replace it if they may and else are refused.

    Raises:
        OutputError: the target cannot be written, or the disk has no room for `size` bytes.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False, fsync: bool = True):
        self.target = Path(target)
        self._overwrite, self._fsync = overwrite, fsync
        tell_leftovers(self.target)
        _remove_leftovers(self.target)
        try:
            self._lock = self._claim(size)
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None
        self.partial = Path(self._lock.name)
        try:
            self._writer = FileWriter(self.partial, size)
        except OSError as error:
            self.discard()
            said = _too_large(size) if error.errno == errno.EFBIG else f"cannot be written ({error.strerror or error})"
            raise OutputError(f"{target}: {said}") from None
        except BaseException:  # Ctrl-C
            self.discard()
            raise

    def _claim(self, size: int) -> BinaryIO:
        """The file under construction, open and locked."""
        check_target(self.target, size, self._overwrite)
        return create_partial(self.target)

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
        try:
            if self._fsync:
                self._writer.sync()
            self._writer.close()
            if WINDOWS:
                self._lock.close()  # an open file cannot be renamed there
            patiently(lambda: _rename(self.partial, self.target, self._overwrite))
        except FileExistsError:
            raise OutputError(
                f"{self.target}: another file of this name was made meanwhile; choose another name"
            ) from None
        except PermissionError as error:
            raise OutputError(f"{self.target}: cannot be put in place ({error.strerror}): {_HELD}") from None
        except OSError as error:
            raise OutputError(f"{self.target}: cannot be put in place ({error.strerror or error})") from None
        if self._fsync:
            sync_folder(self.target.parent)
        remove_resumable(self.target)

    def _close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()
        self._lock.close()

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit()`."""
        self._close()
        with contextlib.suppress(OSError):  # what somebody holds goes with the next run to this target
            os.unlink(self.partial)

    def __enter__(self) -> OutputFile:
        return self

    def __exit__(self, *exc) -> None:
        self.discard()


def patiently(action: Callable[[], None]) -> None:
    """Do something with a file, again and again for a little while if another program is in the way.

    Raises:
        PermissionError: it still is. Any other `OSError` of the action at once.
    """
    for wait in (*_WAITS, None):
        try:
            return action()
        except PermissionError:
            if wait is None:
                raise
            time.sleep(wait)


def _rename(partial: Path, target: Path, overwrite: bool) -> None:
    """Give a finished file its name, in one step.

    Raises:
        FileExistsError: there is a file of that name, and it may not be replaced.
    """
    if overwrite:
        os.replace(partial, target)
        return
    if os.path.lexists(target):
        raise FileExistsError(target)
    if WINDOWS:
        os.rename(partial, target)  # never replaces there
        return
    try:
        # Unlike a rename, a link never replaces a file that came into being since the look above.
        os.link(partial, target)
        os.unlink(partial)
    except FileExistsError:
        raise
    except OSError:  # a file system without links, FAT for one
        os.rename(partial, target)


def sync_folder(folder: Path) -> None:
    """Make the new name durable; Windows cannot open a folder and needs no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
