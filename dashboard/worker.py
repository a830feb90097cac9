"""The process that runs a lane's jobs: `python -m unetscope.dashboard.worker merge`. Pages start it; nobody else need to."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.stream import Progress
from .jobs import Job, lane_lock, listed, mark_dead, record_state
from .own_methods import load_own_methods
from .results import keep, key_of
from .state_files import write_json
from .tasks import Lane

_PROGRESS_SECONDS = 0.25
_CANCEL_SECONDS = 0.1
_STOPPED = "its process was told to end, as when the machine is shut down; nothing was left behind: start it again"
# Set when the process is told to end (SIGTERM): its job stops at the next piece, as one that is cancelled, and none follows.
_stopped = threading.Event()
# Another process may hold the lock for a moment, to see whether anybody does.
_PATIENCE = 1.0


def work(lane: Lane) -> None:
    """Run the jobs that wait in a lane until there are none; do nothing when another process does."""
    lock = lane_lock(lane)
    while lock.acquire(_PATIENCE):
        try:
            mark_dead([job for job in listed() if job.lane == lane])
            while not _stopped.is_set() and (job := _next(lane)):
                run(job)
        finally:
            lock.release()
        # A job may have come between the last look and the release, whose own worker found the lock taken.
        if _stopped.is_set() or not _next(lane):
            return


def _next(lane: Lane) -> Job | None:
    waiting = [job for job in listed() if job.lane == lane and job.status == "queued"]
    return waiting[-1] if waiting else None


def run(job: Job) -> None:
    """Run one job and record how it ended."""
    record_state(job.folder, status="running", started=time.time(), process=os.getpid())
    cancel, ended = threading.Event(), threading.Event()
    watcher = threading.Thread(target=_watch, args=(job.folder / "cancel", cancel, ended), daemon=True)
    watcher.start()
    try:
        load_own_methods()
        write_json(job.folder / "result.json", _result(job, _Recorder(job.folder), cancel))
        _end(job, "done")
    except UnetscopeError as error:
        if _stopped.is_set():
            _end(job, "failed", _STOPPED)
        elif cancel.is_set():
            _end(job, "cancelled")
        else:
            _end(job, "failed", str(error))
    except MemoryError:
        _end(job, "failed", "there is not enough memory for it; close other programs and start it again")
    except Exception as error:
        (job.folder / "log.txt").write_text(traceback.format_exc(), encoding="utf-8")
        _end(job, "failed", f"a fault of the program: {type(error).__name__}: {error}")
    finally:
        ended.set()


def _result(job: Job, progress: Progress, cancel: threading.Event) -> Any:
    """What the record of a job says of its result; that of a measurement is kept in its own place."""
    key = key_of(job.task, job.arguments)  # of the files as they are when they are opened
    found = job.task.run(job.arguments, progress, cancel)
    if not key:
        return found
    keep(job.kind, key, found)
    return {"identity": key, "sentences": found.get("sentences", [])}


def _end(job: Job, status: str, error: str = "") -> None:
    record_state(job.folder, status=status, error=error, finished=time.time())


def _watch(sign: Path, cancel: threading.Event, ended: threading.Event) -> None:
    while not ended.wait(_CANCEL_SECONDS):
        if sign.exists() or _stopped.is_set():
            cancel.set()
            return


class _Recorder:
    """A `Progress` that writes what it is told into the job's folder, a few times a second."""

    def __init__(self, folder: Path):
        self._file = folder / "progress.json"
        self._began: float | None = None  # imports and headers come before the first call
        self._written = 0.0

    def __call__(self, done: int, total: int, doing: str = "") -> None:
        now = time.monotonic()
        self._began = self._began or now
        if now - self._written < _PROGRESS_SECONDS and done < total:
            return
        self._written = now
        told: dict[str, Any] = {
            "done": int(done),
            "total": int(total),
            "doing": str(doing),
            "seconds": now - self._began,
        }
        with contextlib.suppress(OSError):  # a full disk ends the merge with its own message
            write_json(self._file, told)


def main() -> None:
    """Entry point."""
    lane = sys.argv[1]
    signal.signal(signal.SIGTERM, lambda number, frame: _stopped.set())
    if hasattr(os, "nice"):
        os.nice(5)  # the pages come first
    work(lane)


if __name__ == "__main__":
    main()
