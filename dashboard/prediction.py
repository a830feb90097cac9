"""The task that measures what the distances of a merge are predicted from: inner products of the models, block by block."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from ..checkpoints.stream import Progress
from .library import identity_of
from .measuring import identity_for, keep, kept
from .tasks import Task


def gram_identity(identities: Sequence[str]) -> str:
    """What the inner products of these files, in this order, are kept under."""
    return identity_for("gram", identities)


def kept_gram(identity: str) -> dict[str, Any] | None:
    """label -> matrix (lists of lists), under `labels`; None when they have not been measured."""
    found = kept("gram", identity)
    return found if found and isinstance(found.get("labels"), dict) else None


def run_gram(arguments: dict[str, Any], progress: Progress, cancel: threading.Event) -> dict[str, Any]:
    """Measure the inner products of `files` (paths), summed per label, and keep them for `kept_gram`."""
    from ..analysis.gram import gram_matrices
    from ..checkpoints import open_checkpoint

    paths = [Path(path) for path in arguments["files"]]
    identity = gram_identity([identity_of(path) for path in paths])
    with ExitStack() as stack:
        checkpoints = [stack.enter_context(open_checkpoint(path)) for path in paths]
        table = gram_matrices(checkpoints, progress=progress, cancel=cancel)
    labels = {label: matrix.tolist() for label, matrix in table.by_label().items()}
    return keep("gram", identity, {"names": list(table.names), "labels": labels})


GRAM = Task("gram", run_gram, "analysis", "Measure distances")
