"""A lock between processes that the operating system lets go of when its holder dies."""

from __future__ import annotations

import os
import time
from pathlib import Path

if os.name == "nt":
    import msvcrt

    def _take(descriptor: int) -> None:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


class ProcessLock:
    """Held from `acquire()` to `release()` or to the end of the process."""

    def __init__(self, path: Path):
        self._path = path
        self._descriptor: int | None = None

    def acquire(self, patience: float = 0.0) -> bool:
        """Take it, trying for so many seconds; False when another process has it."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + patience
        while True:
            # Not inherited by child processes: they would hold the lock beyond their parent's end.
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0))
            try:
                _take(descriptor)
            except OSError:
                os.close(descriptor)
                if time.monotonic() >= deadline:
                    return False
                time.sleep(0.05)
            else:
                self._descriptor = descriptor
                return True

    def release(self) -> None:
        """Let go of it; closing the file is enough."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def free(self) -> bool:
        """Whether nobody holds it at this moment."""
        if not self.acquire():
            return False
        self.release()
        return True
