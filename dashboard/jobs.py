"""Jobs: work that takes longer than a click, done in processes of their own and recorded on disk.

A page hands in a job and forgets it; a refresh, a second tab or a restarted app finds it by its files. A lane's worker process
(`worker`) runs the lane's jobs one after another and ends when there are none. It holds the lane's lock while it lives, so
a job that is marked as running while nobody holds the lock has died. The order in which work passes the modules:

    tasks, and measuring, scanning, merging, demo    what can be asked for
    jobs       what was asked for and how far it is, on disk
    worker     the process that does it
    results    where what a measurement found is kept
    job_view   what a page shows of it

    jobs/<id>/job.json       kind, title, arguments; written once
    jobs/<id>/state.json     written by the worker: running, done, failed, cancelled
    jobs/<id>/progress.json  bytes done and in all, a few times a second
    jobs/<id>/result.json    what the task returned
    jobs/<id>/cancel         there when somebody asked to stop
    jobs/<id>/log.txt        what the process printed
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.files.locks import ProcessLock
from .demo import DEMO
from .measuring import COMPARISON, DIFFERENCE, GRAM, STATISTICS, TRACE
from .merging import MERGE
from .results import key_of
from .scanning import SCAN
from .state_files import read_json, state_folder, write_json
from .tasks import LANES, Lane, Task

Status = Literal["queued", "running", "done", "failed", "cancelled"]
ENDED = ("done", "failed", "cancelled")
_OWN = {task.kind: task for task in (DEMO, SCAN, STATISTICS, DIFFERENCE, COMPARISON, TRACE, GRAM, MERGE)}
DIED = (
    "its process ended without a word: the machine ran out of memory, was switched off, or somebody stopped it; nothing was "
    "finished, so it can be started again; a file that it had begun is listed on the page Jobs, where it can be removed"
)
_ID = re.compile(r"\d{8}-\d{6}-[0-9a-f]{6,12}")
# A worker needs a moment to take its lane's lock; another one is not started meanwhile.
_STARTING_SECONDS = 5.0


@dataclass(frozen=True)
class Job:
    """A job as its files say.

    Attributes:
        id: sorts by time of submission.
        task: what is done.
        title: for people.
        arguments: of the task.
        identity: what a measurement's result is kept under (`results.key_of`); empty for others.
        origin: what it was started from, such as the draft of a merge; empty for none.
        home: the models folder of the app that it was started in; empty where it had none.
        status: `queued`, `running`, `done`, `failed` or `cancelled`.
        stopping: somebody asked it to stop and it has not yet.
        error: one sentence, of a failed job.
        created, started, finished: seconds since 1970, None where it has not come to that.
        done, total: bytes, or whatever the task counts; total is 0 before it is known.
        doing: the key or file that is being worked on.
        rate: per second; left: seconds; None before there is anything to tell from.
    """

    id: str
    task: Task
    title: str
    arguments: dict[str, Any]
    identity: str = ""
    origin: str = ""
    home: str = ""
    status: Status = "queued"
    stopping: bool = False
    error: str = ""
    created: float = 0.0
    started: float | None = None
    finished: float | None = None
    done: int = 0
    total: int = 0
    doing: str = ""
    rate: float | None = None
    left: float | None = None
    folder: Path = field(default=Path(), repr=False)

    @property
    def kind(self) -> str:
        return self.task.kind

    @property
    def lane(self) -> Lane:
        return self.task.lane

    @property
    def ended(self) -> bool:
        return self.status in ENDED

    @property
    def result(self) -> Any:
        """What the task returned, of a measurement its key and sentences, for people; None before it is done."""
        return read_json(self.folder / "result.json", shown=True) if self.status == "done" else None

    @property
    def share(self) -> float:
        """How much is done, 0 to 1."""
        return min(self.done / self.total, 1.0) if self.total > 0 else 0.0


def task_named(kind: str) -> Task | None:
    """The task of a kind, whichever page has it; None when there is none. Our own are found without importing any page."""
    if kind in _OWN:
        return _OWN[kind]
    from . import page

    return page.task_named(kind)


def jobs_folder() -> Path:
    return state_folder() / "jobs"


def lane_lock(lane: Lane) -> ProcessLock:
    return ProcessLock(jobs_folder() / f"{lane}.lock")


def submit(kind: str, title: str, arguments: dict[str, Any], *, origin: str = "", home: str | None = None) -> Job:
    """Queue a job and see that a worker runs; where one of the same work waits or runs already, that one is returned instead.

    Without a `home` it is that of this app.

    Raises:
        KeyError: there is no such kind.
    """
    task = task_named(kind)
    if task is None:
        raise KeyError(kind)
    same = newest(kind, arguments)
    if same and same.origin == origin and not same.ended and not same.stopping:
        return same
    now = time.time()
    stamp = time.strftime("%Y%m%d-%H%M%S", time.gmtime(now))
    # The part of the second keeps the order of jobs that are handed in at once.
    own = f"{stamp}-{int(now % 1 * 1e6):05x}{secrets.token_hex(2)}"
    folder = jobs_folder() / own
    record = {
        "kind": kind, "title": title, "arguments": arguments, "identity": key_of(task, arguments), "origin": origin,
        "home": own_home() if home is None else home, "created": now,
    }  # fmt: skip
    write_json(folder / "job.json", record)
    start_worker(task.lane, force=True)
    return _read(folder)


def get(own: str) -> Job | None:
    """A job by its id; None when there is none."""
    return _read(jobs_folder() / own) if _ID.fullmatch(own or "") else None


def listed(kind: str | None = None) -> list[Job]:
    """All jobs (of a kind), newest first."""
    try:
        names = sorted((n for n in os.listdir(jobs_folder()) if _ID.fullmatch(n)), reverse=True)
    except FileNotFoundError:
        return []
    found = (_read(jobs_folder() / name) for name in names)
    return [job for job in found if job and kind in (None, job.kind)]


def newest(kind: str, arguments: dict[str, Any]) -> Job | None:
    """The latest job of the same work: the same measurement of the same contents, or else of the same arguments."""
    task = task_named(kind)
    key = key_of(task, arguments) if task else ""
    same = (job for job in listed(kind) if (job.identity == key if key else job.arguments == arguments))
    return next(same, None)


def own_home() -> str:
    """The models folder of this app as jobs record it; empty where it has none."""
    from .folders import current_folders

    try:
        folders = current_folders()
    except UnetscopeError:
        return ""
    return str(folders.models) if folders else ""


def here(found: list[Job]) -> list[Job]:
    """The jobs of this app's folders: another app, with folders of its own, has its jobs in the same place."""
    home = own_home()
    return [job for job in found if job.home in ("", home)]


def start_again(own: str) -> Job | None:
    """Hand in a job that has ended once more, with the same arguments; None when it is not recorded any more."""
    job = get(own)
    if job is None or not job.ended:
        return job
    return submit(job.kind, job.title, job.arguments, origin=job.origin, home=job.home)


def cancel(own: str) -> None:
    """Ask a job to stop. One that waits never starts; one that runs stops at its next piece and leaves nothing behind."""
    job = get(own)
    if job and not job.ended:
        (job.folder / "cancel").touch()


def forget(own: str) -> None:
    """Remove the record of a job that has ended."""
    job = get(own)
    if job and job.ended:
        shutil.rmtree(job.folder, ignore_errors=True)


def tend() -> None:
    """Mark jobs whose process died, and start workers for jobs that wait without one. Called when a page loads; cheap."""
    open_jobs = [job for job in listed() if not job.ended]
    for lane in LANES:
        mine = [job for job in open_jobs if job.lane == lane]
        if not mine or _is_starting(lane):
            continue
        lock = lane_lock(lane)
        if not lock.acquire():
            continue
        try:
            mark_dead(mine)
        finally:
            lock.release()
        if any(job.status == "queued" for job in mine):
            start_worker(lane)


def mark_dead(of_lane: list[Job]) -> None:
    """Mark those that are said to run; to be called by who holds the lane's lock, for then nobody runs them."""
    for job in of_lane:
        fresh = _read(job.folder)
        if fresh and fresh.status == "running":
            status, error = ("cancelled", "") if fresh.stopping else ("failed", DIED)
            record_state(job.folder, status=status, error=error, finished=time.time())


def record_state(folder: Path, **changes: Any) -> None:
    """Change the worker's record of a job."""
    state = read_json(folder / "state.json")
    write_json(folder / "state.json", (state if isinstance(state, dict) else {}) | changes)


def start_worker(lane: Lane, force: bool = False) -> None:
    """Start a process for a lane; when one runs already, the new one ends at once. It outlives the app."""
    if not force and _is_starting(lane):
        return
    folder = jobs_folder()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{lane}.starting").touch()
    options: dict[str, Any] = {"start_new_session": True}
    if os.name == "nt":
        flags = (
            subprocess.CREATE_NO_WINDOW | subprocess.CREATE_NEW_PROCESS_GROUP | subprocess.BELOW_NORMAL_PRIORITY_CLASS
        )
        options = {"creationflags": flags}
    with open(folder / f"{lane}.log", "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "unetscope.dashboard.worker", lane],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, close_fds=True, **options,
        )  # fmt: skip
    _children.append(process)
    # Ended children are collected here, so that they do not stay in the process table.
    _children[:] = [child for child in _children if child.poll() is None]


_children: list[subprocess.Popen] = []


def _is_starting(lane: Lane) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - (jobs_folder() / f"{lane}.starting").stat().st_mtime < _STARTING_SECONDS
    return False


def _read(folder: Path) -> Job | None:
    record, state, moved = (read_json(folder / f"{name}.json") for name in ("job", "state", "progress"))
    if not isinstance(record, dict):
        return None
    kind = record.get("kind")
    task = task_named(kind) if isinstance(kind, str) else None
    if task is None:
        return None
    state = state if isinstance(state, dict) else {}
    asked = (folder / "cancel").exists()
    status = state.get("status", "cancelled" if asked else "queued")
    return Job(
        id=folder.name,
        task=task,
        title=record.get("title", ""),
        arguments=record.get("arguments", {}),
        identity=record.get("identity", ""),
        origin=record.get("origin", ""),
        home=record.get("home", ""),
        status=status,
        stopping=asked and status == "running",
        error=state.get("error", ""),
        created=record.get("created", 0.0),
        started=state.get("started"),
        finished=state.get("finished"),
        folder=folder,
        **_progress(moved if isinstance(moved, dict) else {}, status),
    )


def _progress(moved: dict[str, Any], status: str) -> dict[str, Any]:
    done, total, seconds = moved.get("done", 0), moved.get("total", 0), moved.get("seconds", 0.0)
    rate = done / seconds if seconds > 0.2 and done else None
    left = (total - done) / rate if rate and total and status == "running" else None
    return {"done": done, "total": total, "doing": moved.get("doing", ""), "rate": rate, "left": left}
