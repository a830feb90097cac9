"""What can be asked for: a function that runs as a job, the lane in which it queues, and what decides its result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
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
        inputs: of a measurement, `inputs(arguments)`: all that decides its result, in this order: files as `Path`, by what is in
            them, words, None for what was not given. Its result, a dict, is kept under them (`results`) until a file changes.
            None for a task whose result is its job's alone.
        counts: what its progress counts.
        show: `show(result, key)` draws what came of it on the page Jobs; as plain data where there is none.
    """

    kind: str
    run: Callable[[dict[str, Any], Progress, threading.Event], Any]
    lane: Lane
    verb: str
    inputs: Callable[[dict[str, Any]], Sequence[Path | str | None]] | None = None
    counts: Literal["bytes", "files"] = "bytes"
    show: Callable[[Any, str], None] | None = None
