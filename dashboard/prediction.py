"""The task that measures what the distances of a merge are predicted from: inner products of the models, block by block."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..checkpoints.stream import Progress
from .library import identity_of
from .records import cache_folder, read_json, write_json
from .tasks import Task


def gram_identity(identities: Sequence[str]) -> str:
    """What the inner products of these files, in this order, are kept under."""
    return hashlib.sha256("\n".join(identities).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def kept_gram(identity: str) -> dict[str, Any] | None:
    """label -> matrix (lists of lists), under `labels`; None when they have not been measured."""
    kept = read_json(cache_folder() / "gram" / f"{identity}.json", shown=True)
    return kept if isinstance(kept, dict) and isinstance(kept.get("labels"), dict) else None


def run_gram(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Measure the inner products of `files` (paths), summed per label, and keep them.

    Returns:
        `identity`: for `kept_gram`.
    """
    from ..analysis.gram import gram_matrices
    from ..checkpoints import open_checkpoint

    paths = [Path(path) for path in arguments["files"]]
    identity = gram_identity([identity_of(path) for path in paths])
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(open_checkpoint(path)) for path in paths]
        table = gram_matrices(checkpoints, progress=progress, cancel=cancel)
    labels = {label: matrix.tolist() for label, matrix in table.by_label().items()}
    write_json(cache_folder() / "gram" / f"{identity}.json", {"names": list(table.names), "labels": labels})
    return {"identity": identity}


GRAM = Task("gram", run_gram, "analysis", "Measure distances")
