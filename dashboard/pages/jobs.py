"""Jobs: what runs, what waits, how everything ended."""

from __future__ import annotations

import streamlit as st

from ...checkpoints.wording import counted
from .. import jobs
from ..job_view import ended_line, show_job
from ..page import Page, Scene
from ..wording import plain

_SHOWN = 50
_ICONS = {"done": ":material/check_circle:", "failed": ":material/error:", "cancelled": ":material/cancel:"}


def show() -> None:
    """Draw the page."""
    st.title("Jobs")
    st.caption(
        "Jobs run in processes of their own: they go on when this page is closed, and are found again when it is opened."
    )
    jobs.tend()
    everything = jobs.listed()
    active, ended = [j for j in everything if not j.ended], [j for j in everything if j.ended]
    st.subheader("Now")
    if not active:
        st.info("Nothing runs. Merges, scans and comparisons that you start on the other pages appear here.")
    for job in reversed(active):
        show_job(job.id, key="jobs")
    st.subheader("Ended")
    if not ended:
        st.info("Nothing has ended yet.")
        return
    for job in ended[:_SHOWN]:
        _ended(job)
    if len(ended) > _SHOWN:
        st.caption(f"and {counted(len(ended) - _SHOWN, 'older one')}")
    if st.button("Clear the list", help="Removes these records, not the files that were made."):
        for job in ended:
            jobs.forget(job.id)
        st.rerun()


PAGE = Page(
    id="jobs",
    title="Jobs",
    icon=":material/pending_actions:",
    show=show,
    order=80,
    scenes=(Scene("jobs"),),
)


def _ended(job: jobs.Job) -> None:
    with st.expander(f"{plain(job.title)} · {ended_line(job)}", icon=_ICONS[job.status]):
        if job.status == "failed":
            st.error(plain(job.error))
            log = job.folder / "log.txt"
            if log.exists():
                st.code(log.read_text(encoding="utf-8", errors="replace"), language=None)
        elif job.status == "cancelled":
            st.text(f"{job.task.verb}: stopped on request. Nothing was left behind.")
        elif job.task.show and job.result:
            job.task.show(job.result, job.id)
        else:
            st.json(job.result, expanded=False)
