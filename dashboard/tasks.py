"""What a job does, and in which lane it queues. A page's record holds the tasks that it may start."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal

from ..checkpoints.stream import Progress

# One job at a time runs in each lane, the others wait: merges never compete, a comparison need not wait for a merge, and
# reading a whole library in the background delays neither.
Lane = Literal["merge", "analysis", "background"]
LANES: tuple[Lane, ...] = ("merge", "analysis", "background")


@dataclass(frozen=True)
class Task:
    """A kind of job.

    Attributes:
        kind: its name, in records of jobs and as the folder of what a measurement keeps.
        run: `run(arguments, progress, cancel) -> plain data`, called in the worker's process: `progress(done, total, what)` as
            everywhere, `cancel` an event, the result what JSON can hold. It raises `UnetscopeError` for what a person can mend, and
            imports what takes long itself.
        lane: where it queues.
        verb: what it does, for people.
        counts: what its progress counts.
        show: `show(result, key)` draws what came of it on the page Jobs; as plain data where there is none.
    """

    kind: str
    run: Callable[[dict[str, Any], Progress, threading.Event], Any]
    lane: Lane
    verb: str
    counts: Literal["bytes", "files"] = "bytes"
    show: Callable[[Any, str], None] | None = None


_OUR_MODULE = re.compile(re.escape(__name__.rpartition(".")[0]) + r"\.[a-z_]+")


def built_in_task(kind: str | None, module: str | None) -> Task | None:
    """The task of a kind that stands in one of this package's own modules, next to its function; None for any other."""
    if not isinstance(module, str) or not _OUR_MODULE.fullmatch(module):
        return None
    try:
        found = import_module(module)
    except ImportError:  # of another version
        return None
    return next((task for task in vars(found).values() if isinstance(task, Task) and task.kind == kind), None)
