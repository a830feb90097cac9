"""How a job looks on a page: a button that starts it, progress with rate and time left, a button to stop it, how it ended."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import streamlit as st

from ..checkpoints.text import ago, duration, file_size
from . import jobs
from .jobs import Job
from .markdown import plain
from .results import kept, key_of

_REFRESH_SECONDS = 0.5


def offer(
    kind: str,
    title: str,
    arguments: dict[str, Any],
    button: str,
    *,
    help: str | None = None,
    icon: str | None = None,
    at_once: bool = False,
) -> str | None:
    """The key of what a measurement found; where it has not been measured, None and a way to it: a button, or the job on its way.

    Args:
        kind: of the task, which a page's record holds.
        title: of the job, for people.
        arguments: of the job.
        button: what stands on the button.
        help, icon: of the button.
        at_once: start it without a click, unless it was stopped or has failed.
    """
    key = key_of(jobs.task_named(kind), arguments)
    if kept(kind, key) is not None:
        return key
    job = jobs.newest(kind, arguments)
    came_to_nothing = job is not None and job.status in ("failed", "cancelled")
    if job is not None and job.status != "done":
        show_job(job.id, key=f"offer-{kind}")
        if not job.ended:
            return None
    if at_once and not came_to_nothing:
        show_job(jobs.submit(kind, title, arguments).id, key=f"offer-{kind}")
    elif st.button(button, type="secondary" if icon else "primary", key=f"start-{kind}", icon=icon, help=help):
        jobs.submit(kind, title, arguments)
        st.rerun()
    return None


def progress_line(job: Job) -> str:
    """One line on a job that has not ended: how far it is, its rate, the time left."""
    if job.status == "queued":
        return "waits for the job before it"
    if job.stopping:
        return "stopping at the next piece"
    if not job.total:
        return "starting"
    if job.task.counts == "files":
        return f"{job.done} of {job.total} · {plain(job.doing)}"
    parts = [f"{file_size(job.done)} of {file_size(job.total)}"]
    if job.rate:
        parts.append(f"{file_size(job.rate)}/s")
    if job.left is not None:
        parts.append(f"{duration(job.left)} left")
    return plain(" · ".join(parts))


def ended_line(job: Job) -> str:
    """One line on how a job ended."""
    took = f" in {duration(job.finished - job.started)}" if job.started and job.finished else ""
    when = ago(job.finished or job.created)
    return {"done": f"done{took}, {when}", "failed": f"failed, {when}", "cancelled": f"cancelled, {when}"}[job.status]


def show_job(own: str, when_done: Callable[[Job], None] | None = None, key: str = "") -> None:
    """A job, kept up to date while it runs; the whole page is drawn anew when it ends.

    Args:
        own: the job's id.
        when_done: draws the result of a job that is done.
        key: tells two views of the same job on one page apart.
    """
    job = jobs.get(own)
    if job is None:
        st.info("This job is not recorded any more. Start it again.")
    elif job.ended:
        show_ended(job, when_done)
    else:
        _follow(own, key)


def show_ended(job: Job, when_done: Callable[[Job], None] | None = None) -> None:
    """How a job ended, in words, and its result."""
    if job.status == "failed":
        st.error(f"{plain(job.title)} failed: {plain(job.error)}")
    elif job.status == "cancelled":
        st.warning(f"{plain(job.title)} was cancelled; nothing was left behind. Start it again whenever you like.")
    elif when_done:
        when_done(job)
    else:
        st.success(f"{plain(job.title)}: {ended_line(job)}")


@st.fragment(run_every=_REFRESH_SECONDS)
def _follow(own: str, key: str) -> None:
    job = jobs.get(own)
    if job is None or job.ended:
        st.rerun()
    jobs.tend()
    st.progress(job.share, text=f"{plain(job.title)}: {progress_line(job)}")
    what = job.task.verb.lower()
    stop = st.button(
        "Cancel", key=f"cancel-{own}-{key}", disabled=job.stopping, help=f"Stop: {what}. Nothing is left behind."
    )
    if stop:
        jobs.cancel(own)
        st.rerun(scope="fragment")
