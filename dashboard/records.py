"""Where the app keeps what it remembers: JSON files that are replaced whole, so that no reader meets half of one."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from ..checkpoints.output import replace_file
from ..checkpoints.wording import readable


def state_folder() -> Path:
    """Jobs, drafts and settings; `UNETSCOPE_STATE` or the user's folder for such things."""
    from platformdirs import user_state_path

    return Path(os.environ.get("UNETSCOPE_STATE") or user_state_path("unetscope"))


def read_json(path: Path, *, shown: bool = False) -> Any:
    """What a file holds, or None when it is missing or damaged; `shown` to people, so that names are `readable`."""
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
    """Replace a file as a whole; its folder is made.

    Raises:
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # In ASCII: a path need not be UTF-8.
    replace_file(path, json.dumps(data), fsync=False)
