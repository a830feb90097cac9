"""A button that starts a measurement, its progress while it runs, and nothing more once its result is kept."""

from __future__ import annotations

from typing import Any

import streamlit as st

from . import jobs
from .job_view import show_job
from .measuring import kept


def offer(
    kind: str, identity: str, title: str, arguments: dict[str, Any], button: str, *, help: str | None = None
) -> bool:
    """Whether a measurement is there; if not, a way to it: a button, or the job that is on its way.

    Args:
        kind: of the task, which a page's record holds.
        identity: what the result is kept under.
        title: of the job, for people.
        arguments: of the job.
        button: what stands on the button.
    """
    if kept(kind, identity) is not None:
        return True
    job = jobs.newest(kind, identity)
    if job is not None and job.status != "done":
        show_job(job.id, key=f"offer-{kind}")
        if not job.ended:
            return False
    if st.button(button, type="primary", key=f"start-{kind}", help=help):
        jobs.submit(kind, title, arguments, identity=identity)
        st.rerun()
    return False
