"""What a job does, and in which lane it queues. A page's record holds the tasks that it may start."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
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
