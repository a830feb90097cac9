"""The task that merges."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.stream import Progress
from .library import content_of
from .tasks import Task


def run_merge(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Merge by `recipe` (plain data with whole paths) into `output` (a path), replacing it if `overwrite`.

    Where `replaces` says which content of the file was to be replaced (`content_of`), any other is not.

    Returns:
        the report (`Report.to_plain`).

    Raises:
        UnetscopeError: the file to be replaced has changed.
    """
    from ..merge import Recipe, merge

    output = Path(arguments["output"])
    replaces, now = arguments.get("replaces"), content_of(output)
    if replaces is not None and now not in (None, replaces):
        raise UnetscopeError(
            f"{output.name}: has changed since it was to be replaced, so it was left as it is; look at it, and start the merge "
            "again if it is to go"
        )
    report = merge(
        Recipe.parse(arguments["recipe"]),
        output,
        overwrite=bool(arguments.get("overwrite")),
        progress=progress,
        cancel=cancel,
    )
    return report.to_plain()


def _show(report: dict[str, Any], key: str) -> None:
    from .report_view import show_report

    show_report(report, key)


MERGE = Task("merge", run_merge, "merge", "Merge", show=_show)
