"""Positioned reads and writes: the only place that knows what the operating system offers.

On Linux and macOS a file is one descriptor and `preadv` / `pwrite`, which threads may share. Windows has neither, so there
each thread gets a handle of its own and seeks. `UNETSCOPE_PORTABLE_IO=1` forces the portable way everywhere.
"""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

from ..errors import CheckpointError

# macOS refuses to read or write 2 GiB in one call.
_AT_ONCE = 1 << 30


def portable_io() -> bool:
    """Whether the portable implementation is used: asked for, or the system lacks positioned calls."""
    asked = os.environ.get("UNETSCOPE_PORTABLE_IO") == "1"
    return asked or not (hasattr(os, "preadv") and hasattr(os, "pwrite"))


class _Handles:
    """A file, opened once per thread (portable) or once (positioned)."""

    def __init__(self, path: Path, mode: str):
        self.path = Path(path)
        self._mode = mode
        self._local = threading.local()
        self._lock = threading.Lock()
        self._open: list = []
        self._shared = None if portable_io() else self._new()

    def _new(self):
        handle = open(self.path, self._mode, buffering=0)  # noqa: SIM115 (closed by close())
        with self._lock:
            self._open.append(handle)
        return handle

    def _own(self):
        """This thread's handle (portable implementation)."""
        if not hasattr(self._local, "handle"):
            self._local.handle = self._new()
        return self._local.handle

    def close(self) -> None:
        with self._lock:
            for handle in self._open:
                handle.close()
            self._open.clear()

    def __enter__(self):
        return self

    def __exit__(self, *exc) -> None:
        self.close()


class FileReader(_Handles):
    """Reads byte ranges of one file, from any thread.

    Raises:
        CheckpointError: the file is gone or cannot be opened.
    """

    def __init__(self, path: Path):
        try:
            super().__init__(path, "rb")
            self.size = os.stat(path).st_size
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None

    def read_into(self, offset: int, buffer) -> None:
        """Fill `buffer` (any writable bytes-like) from byte `offset` on.

        Raises:
            CheckpointError: the file ends before the buffer is full (it was truncated), or its disk fails.
        """
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            try:
                n = self._read_some(offset + done, view[done : done + _AT_ONCE])
            except OSError as error:
                raise CheckpointError(
                    f"{self.path}: cannot be read at byte {offset + done:,} ({error.strerror or error}): the disk or the "
                    "connection to it fails; copy the file elsewhere or download it again"
                ) from None
            if not n:
                raise CheckpointError(
                    f"{self.path}: the file ends at byte {offset + done}, but a tensor reaches to byte "
                    f"{offset + len(view)}: it is truncated or was changed while it was read; copy or download it again"
                )
            done += n

    def _read_some(self, offset: int, view: memoryview) -> int:
        if self._shared is not None:
            return os.preadv(self._shared.fileno(), [view], offset)
        handle = self._own()
        handle.seek(offset)
        return handle.readinto(view)

    def read(self, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` on."""
        out = bytearray(size)
        self.read_into(offset, out)
        return out


class FileWriter(_Handles):
    """Writes byte ranges of a file that was just made and has no size yet, from any thread."""

    def __init__(self, path: Path, size: int):
        super().__init__(path, "r+b")
        try:
            with open(path, "r+b") as fresh:
                _allocate(fresh, size)
        except OSError:
            self.close()
            raise

    def write_at(self, offset: int, buffer) -> None:
        """Write the whole buffer from byte `offset` on."""
        view = memoryview(buffer).cast("B")
        done = 0
        while done < len(view):
            part = view[done : done + _AT_ONCE]
            if self._shared is not None:
                done += os.pwrite(self._shared.fileno(), part, offset + done)
            else:
                handle = self._own()
                handle.seek(offset + done)
                done += handle.write(part)

    def sync(self) -> None:
        """Have the operating system put the file on the disk."""
        if self._shared is not None:
            os.fsync(self._shared.fileno())
            return
        with self._lock:  # other threads may be opening theirs
            handles = list(self._open)
        for handle in handles:
            os.fsync(handle.fileno())


def _allocate(handle, size: int) -> None:
    """Give the file its size; with real blocks where the system can, so that a full disk shows now and not later."""
    if size and not portable_io() and hasattr(os, "posix_fallocate"):
        try:
            os.posix_fallocate(handle.fileno(), 0, size)
            return
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):
                raise  # the disk is full; the two above say that this file system cannot allocate
    handle.truncate(size)
