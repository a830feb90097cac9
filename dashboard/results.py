"""Where the result of a measurement is kept: one file in the cache folder, named after all that decides it.

So it is found again by whoever asks the same of the same files, after a restart too, and forgotten when a file changes.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.files.cache import cache_folder
from .library import identity_of
from .state_files import read_json, write_json
from .tasks import Task

# Part of the name of what is kept; a change of its form counts as never measured.
_FORM = 1


def key_of(task: Task, arguments: dict[str, Any]) -> str:
    """What a measurement is kept under as its files are now; empty for a task that keeps nothing."""
    if task.inputs is None:
        return ""
    named = [identity_of(one) if isinstance(one, Path) else one or "-" for one in task.inputs(arguments)]
    text = "\n".join([task.kind, str(_FORM), *named])
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def kept(kind: str, key: str) -> dict[str, Any] | None:
    """What was found, as plain data; None when it has not been measured."""
    file = _file(kind, key)
    try:
        changed = file.stat().st_mtime_ns
    except OSError:
        return None
    return _read(file, changed)


def keep(kind: str, key: str, found: dict[str, Any]) -> None:
    """Keep what was found, as plain data, for `kept`.

    Raises:
        UnetscopeError: the cache folder cannot be written.
    """
    try:
        write_json(_file(kind, key), found)
    except OSError as error:
        why = error.strerror or error
        raise UnetscopeError(
            f"what was found cannot be kept in {cache_folder()} ({why}); see that it can be written"
        ) from None


def _file(kind: str, key: str) -> Path:
    return cache_folder() / kind / f"{key}.json"


@lru_cache(maxsize=16)
def _read(file: Path, changed: int) -> dict[str, Any] | None:
    found = read_json(file, shown=True)
    return found if isinstance(found, dict) else None
