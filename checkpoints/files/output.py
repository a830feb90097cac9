"""Files that appear under their names only when they are complete: the one way in which a file is put in place.

`OutputFile` is for files of known size that threads write (checkpoints), `write_output` for small ones that a user asked for
(tables, pictures, recipes), `replace_file` for those of our own (caches, records); each is an `UnderConstruction` until then.
A link is replaced, what it leads to stays; a pipe or device is written to. `append_lines` is for files that grow.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shlex
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError, tell
from ..notices import Notice
from ..text import file_size
from . import system
from .partial import Leftover, create_partial, leftovers, remove_leftovers, remove_resumable
from .positioned import FileWriter
from .targets import HELD, check_target, too_large

# What this process has told of.
_TOLD: set[str] = set()


class UnderConstruction:
    """A file under construction next to its target, at `partial`, open and locked; the target stays as it is until `commit()`.

    Use it as a context manager: leaving it without `commit()` removes what was written. What killed runs to the same target left
    behind is removed first. Several runs to one target do not disturb each other: the first to finish gets the name, the others
    replace it if they may and else are refused.

    Args:
        target: the file to write.
        overwrite: whether a file of that name is replaced; the new one has its permissions.
        fsync: wait until the disk has it.

    Raises:
        OSError: it cannot be made.
    """

    def __init__(self, target: Path, *, overwrite: bool = True, fsync: bool = True):
        self.target = Path(target)
        self._overwrite, self._fsync = overwrite, fsync
        self._clear()
        self._file = self._claim()
        self.partial = Path(self._file.name)

    def _clear(self) -> None:
        """Remove what killed runs to this target left."""
        remove_leftovers(self.target)

    def _claim(self) -> BinaryIO:
        """What is under construction, open and locked."""
        return create_partial(self.target)

    def write(self, data: bytes) -> None:
        """Write bytes after those that were written before.

        Raises:
            OSError: the disk is full or fails.
        """
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]

    def commit(self) -> None:
        """Put the finished file under its name.

        Raises:
            OSError: it cannot be put there.
            FileExistsError: another file has taken the name meanwhile and may not be replaced.
        """
        self._finish()
        if self._overwrite:
            with contextlib.suppress(OSError):
                shutil.copymode(self.target, self.partial)
        if system.WINDOWS:
            self._close()  # an open file cannot be renamed there
        system.patiently(lambda: _rename(self.partial, self.target, self._overwrite))
        if self._fsync:
            system.sync_folder(self.target.parent)

    def _finish(self) -> None:
        """Everything is written: a full disk shows here at the latest."""
        if self._fsync:
            os.fsync(self._file.fileno())

    def _close(self) -> None:
        self._file.close()

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit()`."""
        self._close()
        with contextlib.suppress(OSError):  # what somebody holds goes with the next run to this target
            os.unlink(self.partial)

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.discard()


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
    if system.WINDOWS:
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


class OutputFile(UnderConstruction):
    """A file of known size that threads write, as `UnderConstruction`; what is wrong is an `OutputError`.

    Raises:
        OutputError: the target cannot be written, or the disk has no room for `size` bytes.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False, fsync: bool = True):
        self._size = size
        tell_leftovers(target)
        with _explained(target, "cannot be written"):
            super().__init__(target, overwrite=overwrite, fsync=fsync)
        try:
            self._writer = FileWriter(self.partial, size)
        except OSError as error:
            self.discard()
            said = too_large(size) if error.errno == errno.EFBIG else f"cannot be written ({error.strerror or error})"
            raise OutputError(f"{target}: {said}") from None
        except BaseException:  # Ctrl-C
            self.discard()
            raise

    def _clear(self) -> None:
        _remove_leftovers(self.target)

    def _claim(self) -> BinaryIO:
        check_target(self.target, self._size, self._overwrite)
        return super()._claim()

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
        with _explained(self.target, "cannot be put in place", HELD):
            super().commit()
        remove_resumable(self.target)

    def _finish(self) -> None:
        if self._fsync:
            self._writer.sync()
        self._writer.close()

    def _close(self) -> None:
        if hasattr(self, "_writer"):
            self._writer.close()
        super()._close()


def write_output(target: Path | str, content: bytes | str) -> None:
    """Write a small file that a user asked for, in one step: what stands under the name stays until the new one is complete.

    Args:
        content: text becomes UTF-8; what UTF-8 lacks (lone surrogates, of names that are none) becomes `\\udce9`.

    Raises:
        OutputError: it cannot be written.
    """
    tell_leftovers(target)
    with _explained(target, "cannot be written", HELD):
        replace_file(target, content)


def replace_file(target: Path | str, content: bytes | str, *, fsync: bool = True) -> None:
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
    with UnderConstruction(target, fsync=fsync) as out:
        out.write(data)
        out.commit()


def append_lines(path: Path, lines: bytes) -> None:
    """Add lines to the end of a file, after one that somebody may have left unfinished, and wait until the disk has them.

    Raises:
        OSError: they cannot be written.
    """
    with open(path, "ab+") as file:
        whole = not file.tell() or (file.seek(-1, os.SEEK_END) >= 0 and file.read(1) == b"\n")
        file.write(lines if whole else b"\n" + lines)
        file.flush()
        os.fsync(file.fileno())


def _is_stream(target: Path) -> bool:
    """Whether a name is not a place of its own: a pipe, a terminal, `/dev/stdout` whatever that leads to."""
    try:
        found = os.stat(target)
    except OSError:
        return False
    return not stat.S_ISREG(found.st_mode) or os.path.abspath(target).startswith(("/dev/fd/", "/dev/std", "/proc/"))


@contextlib.contextmanager
def _explained(target: Path | str, said: str, refused: str = "") -> Iterator[None]:
    """Raise what the system says as an `OutputError`: `said`, and `refused` of what the system does not allow."""
    try:
        yield
    except FileExistsError:
        raise OutputError(f"{target}: another file of this name was made meanwhile; choose another name") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        if refused and isinstance(error, PermissionError):
            raise OutputError(f"{target}: cannot be put in place ({why}): {refused}") from None
        raise OutputError(f"{target}: {said} ({why})") from None


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


def _left_by_killed_run(left: Leftover) -> Notice:
    remove = (
        ("rmdir /s" if left.path.is_dir() else "del") if system.WINDOWS else "rm -r" if left.path.is_dir() else "rm"
    )
    command = " ".join([remove, *(f'"{path}"' if system.WINDOWS else shlex.quote(str(path)) for path in left.paths)])
    again = "; the same merge with --resumable continues it" if left.resumable else ""
    text = f"{left.path} ({file_size(left.size)}) was left by a run that was killed{again}; to remove it: {command}"
    return Notice("output.leftover", text, (str(left.path),))


def _remove_leftovers(target: Path) -> None:
    """Remove what killed runs to this target left, and say so."""
    sizes = {}
    with contextlib.suppress(OSError):
        sizes = {left.path: left.size for left in leftovers(target.parent)}
    for path in remove_leftovers(target):
        size = f" ({file_size(sizes[path])})" if path in sizes else ""
        text = f"{path}{size}, left by a killed run to the same file, was removed"
        tell(Notice("output.leftover_removed", text, (str(path),)))
