"""How a job looks on a page: progress with rate and time left, a button to stop it, how it ended."""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from . import jobs
from .jobs import Job
from .wording import ago, duration, plain, size

_REFRESH_SECONDS = 0.5


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
    parts = [f"{size(job.done)} of {size(job.total)}"]
    if job.rate:
        parts.append(f"{size(job.rate)}/s")
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
