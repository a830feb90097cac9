"""What a job can do: the kinds of jobs, where their functions are, and in which lane they queue.

A task is `run(arguments, progress, cancel) -> plain data`: `progress(done, total, what)` as everywhere, `cancel` an event, the
result what JSON can hold. It raises `UnetscopeError` for what a person can mend. Modules are imported by the worker alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# One job at a time runs in each lane, the others wait: merges never compete, a comparison need not wait for a merge, and
# reading a whole library in the background delays neither.
Lane = Literal["merge", "analysis", "background"]
LANES: tuple[Lane, ...] = ("merge", "analysis", "background")


@dataclass(frozen=True)
class Task:
    """A kind of job.

    Attributes:
        function: `module:name`, the module below the dashboard.
        lane: where it queues.
        verb: what it does, for people.
        counts: what its progress counts.
    """

    function: str
    lane: Lane
    verb: str
    counts: Literal["bytes", "files"] = "bytes"


TASKS: dict[str, Task] = {
    "merge": Task("merging:run_merge", "merge", "Merge"),
    "demo": Task("demo:run_demo", "background", "Make demo checkpoints", counts="files"),
    "scan": Task("scanning:run_scan", "background", "Scan"),
    "gram": Task("prediction:run_gram", "analysis", "Measure distances"),
    "statistics": Task("measuring:run_statistics", "analysis", "Measure statistics"),
    "difference": Task("measuring:run_difference", "analysis", "Compare two files"),
    "comparison": Task("measuring:run_comparison", "analysis", "Compare a collection"),
    "trace": Task("measuring:run_trace", "analysis", "Trace a merge"),
}
