"""Locks between processes, which the system takes away from a run when it ends, however it ends. All of them are filelock's.

A run locks what it writes itself, in the handle that it has open anyway, for a lock file next to an output would be one more thing
to be left behind. What can be locked is what a killed run left, whatever became of its process number, and on whichever machine
that shares the disk it ran. A `ProcessLock` is a file that is there for nothing else.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Any

from . import system

# Who looks whether a file is locked has it for a moment: so long is waited for that, in seconds, and so often is it tried.
LOOKED_AT = 0.5
_AGAIN = 0.005


def lock(file: IO[Any], seconds: float = 0.0, *, content: bool = False) -> bool | None:
    """Lock an open file until it is closed.

    Args:
        file: any open file.
        seconds: how long another holder is waited for.
        content: whether others read or write the file meanwhile, by handles of their own. Windows would keep them from it, so the
            file is not locked there; that it is open is enough to keep it from being removed.

    Returns:
        whether it is locked now; None where that cannot be: such a file on Windows, or a file system that knows no locks.
    """
    if content and system.WINDOWS:
        return None
    from filelock import lock_descriptor  # 10 ms, which what only reads need not wait for

    until = time.monotonic() + seconds
    try:
        while not lock_descriptor(file.fileno(), blocking=False):
            if time.monotonic() >= until:
                return False
            time.sleep(_AGAIN)
    except OSError:
        return None
    return True


def open_to_lock(path: Path) -> IO[bytes]:
    """A file, open so that it can be locked: shared disks want it open for writing for that.

    Raises:
        OSError: it is not there, or may not be opened.
    """
    try:
        return open(path, "r+b")
    except PermissionError:
        return open(path, "rb")


class ProcessLock:
    """A lock that one process has from `acquire()` to `release()`, as long as this object lives; made when it is first taken.

    As a context manager it is waited for, however long.
    """

    def __init__(self, path: Path):
        from filelock import FileLock

        self.path = path
        # Of the object, not of the thread that took it.
        self._lock = FileLock(path, thread_local=False)

    def acquire(self, seconds: float = 0.0) -> bool:
        """Take it, trying for so many seconds; False when another process has it.

        Raises:
            OSError: the file cannot be made.
        """
        from filelock import Timeout

        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=seconds)
        except Timeout:
            return False
        return True

    def release(self) -> None:
        """Let go of it; nothing to do when it is not held."""
        self._lock.release(force=True)

    def __enter__(self) -> ProcessLock:
        self.acquire(-1)
        return self

    def __exit__(self, *exc) -> None:
        self.release()
