"""What can be worked out again, and small records: JSON files that are replaced whole, so that nobody reads half of one."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

from ..text import readable
from .output import replace_file


def cache_folder() -> Path:
    """The user's folder for what can be worked out again; `UNETSCOPE_CACHE` moves it."""
    from platformdirs import user_cache_path

    return Path(os.environ.get("UNETSCOPE_CACHE") or user_cache_path("unetscope"))


def read_json(path: Path, *, shown: bool = False) -> Any:
    """The plain data in a file, None when it is missing or damaged; `shown` to people, so that names are `readable`."""
    try:
        text = path.read_text(encoding="utf-8")
        found = json.loads(text)
        return _readable(found) if shown and "\\ud" in text else found
    except (OSError, ValueError, RecursionError):
        return None


def _readable(data: Any) -> Any:
    if isinstance(data, str):
        return readable(data)
    if isinstance(data, list):
        return [_readable(one) for one in data]
    if isinstance(data, dict):
        return {readable(name): _readable(one) for name, one in data.items()}
    return data


def write_json(path: Path, data: Any) -> None:
    """Replace a file by plain data; its folder is made.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In ASCII: a path need not be UTF-8. Not waited for: what a power cut takes is worked out again.
    replace_file(path, json.dumps(data), fsync=False)


def keep_json(path: Path, data: Any) -> None:
    """`write_json` of what can be worked out again: a cache that cannot be written costs time later and nothing else."""
    with contextlib.suppress(OSError):
        write_json(path, data)
