"""The task that merges."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ..checkpoints.stream import Progress


def run_merge(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Merge by `recipe` (plain data with whole paths) into `output` (a path), replacing it if `overwrite`.

    Returns:
        the report (`Report.to_plain`).
    """
    from ..merge import Recipe, merge

    report = merge(
        Recipe.parse(arguments["recipe"]),
        Path(arguments["output"]),
        overwrite=bool(arguments.get("overwrite")),
        progress=progress,
        cancel=cancel,
    )
    return report.to_plain()
