"""An output folder that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import glob
import os
import shutil
from pathlib import Path
from typing import BinaryIO

from ..errors import OutputError, tell
from ..notices import Notice
from . import system
from .output import UnderConstruction, tell_leftovers
from .partial import FOLDER_LOCK, MOVED_ASIDE, PARTIAL, create_partial_folder, partial_name, remove_abandoned
from .targets import check_target, exists_already

# What a diffusers pipeline's folder may hold: a folder with anything else in it is never replaced.
_PIPELINE = {
    "model_index.json", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
    "safety_checker", "feature_extractor", "README.md",
}  # fmt: skip


class OutputFolder(UnderConstruction):
    """A diffusers folder of `size` bytes under construction next to its target, as `UnderConstruction` is a file.

    A folder that a killed run had moved aside is put back first.

    Raises:
        OutputError: the target cannot be written, or is something that may not be replaced.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False):
        self._size = size
        tell_leftovers(target)
        try:
            super().__init__(target, overwrite=overwrite)
        except OSError as error:
            raise OutputError(f"{target}: cannot be made ({error.strerror or error})") from None
        self.partial = self.partial.parent
        self._old = self.partial.with_name(f"{self.partial.name}{MOVED_ASIDE}")

    def _clear(self) -> None:
        _clean_up(self.target)

    def _claim(self) -> BinaryIO:
        """The file that holds the folder under construction."""
        partial = partial_name(self.target)
        if self.target.is_dir():
            self._check_replaceable()
            check_target(partial, self._size)
        else:
            check_target(self.target, self._size)
        return create_partial_folder(partial)

    def _check_replaceable(self) -> None:
        if not self._overwrite:
            raise exists_already(self.target)
        other = sorted(entry.name for entry in self.target.iterdir() if entry.name not in _PIPELINE)
        if other:
            raise OutputError(
                f"{self.target}: holds {other[0]!r}, so it is more than a diffusers folder and is not replaced; "
                "choose another name"
            )

    def commit(self) -> None:
        """Put the finished folder under its name; the one that it replaces is removed after that.

        Raises:
            OutputError: it cannot be put there.
        """
        try:
            self._let_go()
            if self.target.exists():
                system.patiently(lambda: os.rename(self.target, self._old))
            system.patiently(lambda: os.rename(self.partial, self.target))
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._old.exists() and not self.target.exists():
                    os.rename(self._old, self.target)
            held = isinstance(error, PermissionError)
            raise OutputError(
                f"{self.target}: cannot be put in place ({error.strerror or error})"
                + (": another program may use a file in it; close it and try again, or choose another name" * held)
            ) from None
        system.sync_folder(self.target.parent)
        shutil.rmtree(self._old, ignore_errors=True)

    def _let_go(self) -> None:
        """The mark of work in progress is not part of the result; a folder that holds an open file cannot be renamed on Windows."""
        if not self._file.closed:
            if system.WINDOWS:
                self._close()
            os.unlink(self.partial / FOLDER_LOCK)
            self._close()

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit()`."""
        self._close()
        shutil.rmtree(self.partial, ignore_errors=True)  # what somebody holds goes with the next run to this target


def _clean_up(target: Path) -> None:
    """Put back what a killed run moved aside, and remove what killed runs made. What cannot be removed stays."""
    for path in map(Path, sorted(glob.glob(f"{glob.escape(str(target))}{PARTIAL}*"))):
        if path.is_symlink() or not path.is_dir():
            continue
        with contextlib.suppress(OSError):
            if path.name.endswith(MOVED_ASIDE):
                if target.exists():
                    shutil.rmtree(path)
                else:
                    os.rename(path, target)
                    tell(
                        Notice("output.folder_put_back", "a killed run had moved it aside; it is back").of(str(target))
                    )
            elif not os.listdir(path):
                path.rmdir()
            elif (path / FOLDER_LOCK).is_file() and remove_abandoned(path / FOLDER_LOCK):
                shutil.rmtree(path)
                text = f"{path}, left by a killed run to the same folder, was removed"
                tell(Notice("output.folder_removed", text, (str(path),)))
