"""An output folder that appears under its name only when it is complete."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path

from .errors import OutputError
from .output import PARTIAL, check_target

# What a diffusers pipeline's folder may hold: a folder with anything else in it is never replaced.
_PIPELINE = {
    "model_index.json", "unet", "vae", "text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2", "scheduler",
    "safety_checker", "feature_extractor", "README.md",
}  # fmt: skip


class OutputFolder:
    """A diffusers folder under construction, beside its target, at `partial`.

    Use it as a context manager: leaving it without `commit()` removes what was written and leaves the target as it was.

    Raises:
        OutputError: the target cannot be written, or is something that may not be replaced.
    """

    def __init__(self, target: Path, size: int, *, overwrite: bool = False):
        self.target = Path(target)
        mark = f"{PARTIAL}{os.getpid()}-{secrets.token_hex(3)}"
        self.partial = self.target.with_name(self.target.name + mark)
        self._old = self.target.with_name(f"{self.target.name}{mark}-old")
        if self.target.is_dir():
            self._check_replaceable(overwrite)
            check_target(self.partial, size)
        else:
            check_target(self.target, size)
        try:
            self.partial.mkdir()
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
        """Put the finished folder under its name; the one that it replaces is removed after that."""
        try:
            if self.target.exists():
                os.rename(self.target, self._old)
            os.rename(self.partial, self.target)
        except OSError as error:
            if self._old.exists() and not self.target.exists():
                os.rename(self._old, self.target)
            raise OutputError(f"{self.target}: cannot be put in place ({error.strerror or error})") from None
        shutil.rmtree(self._old, ignore_errors=True)

    def discard(self) -> None:
        """Remove what was written; nothing to do after `commit()`."""
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.partial)

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, *exc) -> None:
        self.discard()
