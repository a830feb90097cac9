"""An output folder that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import glob
import os
import secrets
import shutil
from pathlib import Path
from typing import BinaryIO

from .errors import OutputError, tell
from .file_system import WINDOWS
from .output import PARTIAL, check_target, patiently, sync_folder, tell_leftovers
from .partial_file import FOLDER_LOCK, MOVED_ASIDE, lock, remove_abandoned

# What a diffusers pipeline's folder may hold: a folder with anything else in it is never replaced.
_PIPELINE = {
    "model_index.json", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
    "safety_checker", "feature_extractor", "README.md",
}  # fmt: skip


class OutputFolder:
    """A diffusers folder under construction, beside its target, at `partial`.

    Use it as a context manager: leaving it without `commit()` removes what was written and leaves the target as it was. What
    killed runs to the same target left behind is removed first, and a folder that one of them had moved aside is put back.

    Raises:
        OutputError: the target cannot be written, or is something that may not be replaced.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False):
        self.target = Path(target)
        mark = f"{PARTIAL}{os.getpid()}-{secrets.token_hex(3)}"
        self.partial = self.target.with_name(self.target.name + mark)
        self._old = self.target.with_name(f"{self.target.name}{mark}{MOVED_ASIDE}")
        self._lock: BinaryIO | None = None
        tell_leftovers(self.target)
        _clean_up(self.target)
        if self.target.is_dir():
            self._check_replaceable(overwrite)
            check_target(self.partial, size)
        else:
            check_target(self.target, size)
        try:
            self._lock = _locked(self.partial)
        except OSError as error:
            raise OutputError(f"{target}: cannot be made ({error.strerror or error})") from None

    def _check_replaceable(self, overwrite: bool) -> None:
        if not overwrite:
            raise OutputError(
                f"{self.target}: exists already; choose another name or allow it to be replaced (--overwrite)"
            )
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
            self._unlock()
            if self.target.exists():
                patiently(lambda: os.rename(self.target, self._old))
            patiently(lambda: os.rename(self.partial, self.target))
        except OSError as error:
            with contextlib.suppress(OSError):
                if self._old.exists() and not self.target.exists():
                    os.rename(self._old, self.target)
            held = isinstance(error, PermissionError)
            raise OutputError(
                f"{self.target}: cannot be put in place ({error.strerror or error})"
                + (": another program may use a file in it; close it and try again, or choose another name" * held)
            ) from None
        sync_folder(self.target.parent)
        shutil.rmtree(self._old, ignore_errors=True)

    def _unlock(self) -> None:
        """The mark of work in progress is no part of the result; a folder that holds an open file cannot be renamed on Windows."""
        if self._lock and not self._lock.closed:
            if WINDOWS:
                self._lock.close()
            os.unlink(self.partial / FOLDER_LOCK)
            self._lock.close()

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit()`."""
        if self._lock:
            self._lock.close()
        shutil.rmtree(self.partial, ignore_errors=True)  # what somebody holds goes with the next run to this target

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *exc) -> None:
        self.discard()


def _locked(folder: Path) -> BinaryIO:
    """Make a folder with a locked file in it.

    Raises:
        OSError: it cannot be made.
    """
    while True:
        folder.mkdir(exist_ok=True)
        # Before the file is there and locked, another run may take the folder for a leftover.
        with contextlib.suppress(FileNotFoundError):
            file = open(folder / FOLDER_LOCK, "xb")  # noqa: SIM115 (closed by its owner)
            lock(file, wait=True)
            if os.path.exists(file.name):
                return file
            file.close()


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
                    tell(f"{target}: a killed run had moved it aside; it is back")
            elif not os.listdir(path):
                path.rmdir()
            elif (path / FOLDER_LOCK).is_file() and remove_abandoned(path / FOLDER_LOCK):
                shutil.rmtree(path)
                tell(f"{path}, left by a killed run to the same folder, was removed")
