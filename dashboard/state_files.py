"""Where the app keeps what it remembers, as JSON."""

from __future__ import annotations

import os
from pathlib import Path

from ..checkpoints.files.cache import read_json, write_json

__all__ = ["read_json", "state_folder", "write_json"]


def state_folder() -> Path:
    """Jobs, drafts and settings; `UNETSCOPE_STATE` or the user's folder for such things."""
    from platformdirs import user_state_path

    return Path(os.environ.get("UNETSCOPE_STATE") or user_state_path("unetscope"))
