"""Merges that are written for a web UI to load: a new name for each, removed when the next one is loaded or the search ends.

A file is locked while its search runs. What a killed search left behind is not, and is removed by the next one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from ...checkpoints.files import system
from ...checkpoints.files.locks import LOOKED_AT, lock
from ...checkpoints.formats import written_suffixes
from ...checkpoints.kernels import kernel
from ...checkpoints.opening import read_tensors
from ...merge import merge

if TYPE_CHECKING:
    from ...merge.recipe import Recipe

PREFIX = "unetscope-trial-"
# Seconds in which a file of another search may not be locked yet.
_YOUNG = 30.0
# How many numbers are kept of each tensor, and up to which part of their size they may change without changing a picture.
_SAMPLED, _SAME = 2048, 1e-4

# fp32, an array for each tensor.
Sample = list[np.ndarray]


def differ(one: Sample, other: Sample) -> bool:
    """Whether two samples of merges of one study differ by more than what a picture may not show; other tensors do."""
    if [a.shape for a in one] != [b.shape for b in other]:
        return True
    size = sum(float(np.abs(a).sum()) for a in one)
    return sum(float(np.abs(a - b).sum()) for a, b in zip(one, other, strict=True)) > _SAME * size


class TrialFiles:
    """The trial files of one search in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._count = 0
        self._mark = f"{os.getpid()}-{secrets.token_hex(3)}"
        self._held: dict[Path, BinaryIO] = {}

    def remove_leftovers(self) -> list[Path]:
        """Remove the trial files of searches that were killed; those of searches that run stay."""
        removed = []
        for path in self.folder.glob(f"{PREFIX}*.safetensors*"):
            with contextlib.suppress(OSError):
                if path in self._held or path.is_symlink() or time.time() - path.stat().st_mtime < _YOUNG:
                    continue
                with open(path, "rb") as file:
                    abandoned = lock(file, content=True)
                # Windows has no such locks: a file that is open there is not removed.
                if abandoned or (abandoned is None and system.WINDOWS):
                    path.unlink()
                    removed.append(path)
        return removed

    def write(self, recipe: Recipe) -> Path:
        """Merge a recipe into a new file.

        Raises:
            UnetscopeError: it cannot be merged or written.
        """
        self._count += 1
        path = self.folder / f"{PREFIX}{self._mark}-{self._count}{written_suffixes()[0]}"
        merge(recipe, path, fsync=False)
        file = open(path, "rb")  # noqa: SIM115 (closed when the file is removed)
        lock(file, LOOKED_AT, content=True)
        self._held[path] = file
        return path

    def sample(self, path: Path) -> Sample:
        """The first numbers of every tensor of a trial file, as fp32: six megabytes tell two merges apart."""
        found = []
        with open(path, "rb") as file:
            for tensor in read_tensors(path)[1]:
                if not tensor.dtype.is_float or tensor.coded:
                    continue
                count = min(tensor.elements, _SAMPLED)
                file.seek(tensor.pieces[0].offset)
                raw = np.frombuffer(file.read(count * tensor.dtype.size), np.uint8)
                found.append(np.empty(count, np.float32))
                kernel().decode(raw, tensor.dtype, found[-1])
        return found

    def remove(self, but: Path | None = None) -> None:
        """Remove the files of this search but one. What a UI on Windows still has open is tried again the next time."""
        for path in [held for held in self._held if held != but]:
            self._held[path].close()
            with contextlib.suppress(FileNotFoundError):
                try:
                    path.unlink()
                except OSError:
                    continue
            del self._held[path]
