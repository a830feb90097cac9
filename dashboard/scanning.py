"""The task that reads the values of files in the background, for health and fingerprints."""

from __future__ import annotations

import threading
from collections import Counter
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.files.cache import cache_folder
from ..checkpoints.stream import Cancelled, Progress
from ..library.scan_cache import keep_scan, kept_scan
from .library import identity_of
from .tasks import Task


def run_scan(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Scan `files` (paths) that have not been scanned since they changed. A file that cannot be read does not stop the others.

    Returns:
        `scanned`: how many; `failed`: file name, or whole path where others have that name too, -> why.
    """
    from ..library.scan import scan

    files = [Path(file) for file in arguments["files"]]
    called = Counter(path.name for path in files)
    names = {path: path.name if called[path.name] == 1 else str(path) for path in files}
    waiting = [path for path in files if path.exists()]
    weights = {path: max(path.stat().st_size, 1) for path in waiting}
    total, before, scanned = sum(weights.values()), 0, 0
    failed = {names[path]: "is gone from the models folder" for path in files if path not in weights}
    for path in waiting:
        if cancel.is_set():
            raise Cancelled("cancelled")
        identity, weight = identity_of(path), weights[path]
        if kept_scan(identity) is None:

            def moved(done: int, all_of_it: int, key: str, path=path, before=before, weight=weight) -> None:
                progress(before + int(weight * done / max(all_of_it, 1)), total, path.name)

            try:
                keep_scan(identity, scan(path, progress=moved, cancel=cancel).to_plain())
                if kept_scan(identity) is None:
                    failed[names[path]] = (
                        f"what was found cannot be kept in {cache_folder()}; see that it can be written"
                    )
                else:
                    scanned += 1
            except Cancelled:
                raise
            except UnetscopeError as error:
                failed[names[path]] = str(error)
        before += weight
        progress(before, total, path.name)
    return {"scanned": scanned, "failed": failed}


SCAN = Task("scan", run_scan, "background", "Scan")
