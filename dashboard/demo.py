"""The task that fills an empty models folder, so that every page has something to show."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

from ..checkpoints.families import FAMILIES
from ..checkpoints.stream import Cancelled, Progress
from .tasks import Task


def run_demo(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Write the demo checkpoints into `folder` (a path).

    Returns:
        `files`: their names.
    """
    from ..checkpoints.demo import demo_collection

    begun, files = 0, sum(len(family.demos) for family in FAMILIES.values())

    def next_file(name: str) -> None:
        nonlocal begun
        if cancel.is_set():
            raise Cancelled("cancelled")
        progress(begun, files, name)
        begun += 1

    made = demo_collection(Path(arguments["folder"]), progress=next_file)
    progress(files, files, "")
    return {"files": [path.name for path in made.values()]}


DEMO = Task("demo", run_demo, "background", "Make demo checkpoints", counts="files")
