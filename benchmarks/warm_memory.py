"""Free memory that a program gets at the speed of a machine of its own.

A virtual machine may return what is free to its host, and get it back at half a gigabyte a second: a program that writes 2 GB
then takes two seconds or six, depending on what ran before it. Here all free memory is held (and so really there) until a program
is measured, and given back a little ahead of what it takes.
"""

from __future__ import annotations

import contextlib
import mmap
import os
import threading
from collections.abc import Iterator
from pathlib import Path

_INFO = Path("/proc/meminfo")
# What a container may use, in version 2 and 1 of control groups; "max", or more than there is, when it may use all.
_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
_CHUNK = 64 << 20
# What is left free while memory is held: what the host took of that is slow, and so as little as the system does well with.
_LEFT = 250 << 20
# What is left free, at least and at most, while a program runs: enough for a moment, too little to be taken away meanwhile.
_LOW, _HIGH = 600 << 20, 900 << 20
_LOOK = 0.01
_PAGE = 4096


class WarmMemory:
    """Holds what memory is free; nothing on systems that do not say how much that is, nor where a limit is set below it."""

    def __init__(self, trial: bool = False) -> None:
        """With `trial` a machine's memory and disk are left alone: what is measured then is not to be quoted."""
        self._trial = trial
        self._held: list[mmap.mmap] = []
        self._known = _INFO.exists() and not _limited()

    @contextlib.contextmanager
    def ready(self, paths: list[Path]) -> Iterator[None]:
        """Have files in the page cache, earlier writes on the disk, and memory at hand, for what the `with` block measures."""
        if self._trial:
            yield
            return
        self._hold()  # before the host takes what the last program left
        os.sync()
        with self.given():
            for path in paths:
                _read(path)
        self._hold()
        with self.given():
            yield

    def _hold(self) -> None:
        """Take what is free, and touch it."""
        while self._known and _free() > _LEFT + _CHUNK:
            chunk = mmap.mmap(-1, _CHUNK, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
            with contextlib.suppress(OSError):  # a kernel without huge pages
                chunk.madvise(mmap.MADV_HUGEPAGE)
            for at in range(0, _CHUNK, _PAGE):
                chunk[at] = 1
            self._held.append(chunk)

    def _give_up_to_high(self) -> None:
        free = _free()
        for _ in range((_HIGH - free) // _CHUNK if free < _LOW else 0):
            if self._held:
                self._held.pop().close()

    @contextlib.contextmanager
    def given(self) -> Iterator[None]:
        """Give back what is held as it is needed."""
        over = threading.Event()

        def give() -> None:
            while not over.wait(_LOOK) and self._held:
                self._give_up_to_high()

        self._give_up_to_high()
        giver = threading.Thread(target=give, daemon=True)
        giver.start()
        try:
            yield
        finally:
            over.set()
            giver.join()


def _read(path: Path) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(1 << 24):
            pass


def _limited() -> bool:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return any(p.exists() and (said := p.read_text().strip()) != "max" and int(said) < total for p in _LIMITS)


def _free() -> int:
    """Bytes of memory that nothing uses, not even as a cache."""
    with open(_INFO, "rb", buffering=0) as info:
        return int(info.read(4096).partition(b"MemFree:")[2].split()[0]) * 1024
