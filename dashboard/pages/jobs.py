"""Jobs: what runs, what waits, how everything ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.text import ago, counted, file_size, readable
from .. import jobs
from ..folders import Folders, current_folders
from ..job_view import ended_line, show_job
from ..markdown import plain
from ..page import Page, Scene
from ..shell import link_to

if TYPE_CHECKING:
    from ...checkpoints.files.partial import Leftover

_SHOWN = 50
_ICONS = {"done": ":material/check_circle:", "failed": ":material/error:", "cancelled": ":material/cancel:"}


def show() -> None:
    """Draw the page."""
    st.title("Jobs")
    st.caption(
        "Jobs run in processes of their own: they continue when this page is closed, and are found again when it is opened."
    )
    jobs.tend()
    everything = jobs.listed()
    active, ended = [j for j in everything if not j.ended], [j for j in everything if j.ended]
    st.subheader("Now")
    if not active:
        st.info("Nothing runs. Merges, scans and comparisons that you start on the other pages appear here.")
    for job in reversed(active):
        show_job(job.id, key="jobs")
    _left_behind()
    st.subheader("Ended")
    if not ended:
        st.info("Nothing has ended yet.")
        return
    home = jobs.own_home()
    for job in ended[:_SHOWN]:
        _ended(job, home)
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
    needs=("unetscope.dashboard.unfinished_files", "unetscope.dashboard.merge_draft"),
)


def _left_behind() -> None:
    """What killed runs left on the disk, with a button to be rid of each."""
    from ..unfinished_files import unfinished_files

    try:
        folders = current_folders()
    except UnetscopeError:
        return
    found = unfinished_files(folders) if folders else []
    if not found:
        return
    st.subheader("Left behind")
    total = plain(file_size(sum(one.size for one in found)))
    st.caption(
        f"Runs that were killed left {counted(len(found), 'unfinished file')}, {total} in all. "
        "A merge that is started again begins anew and needs none of this."
    )
    for one in found:
        _leftover(one, folders)


def _leftover(one: Leftover, folders: Folders) -> None:
    root = folders.output if one.path.is_relative_to(folders.output) else folders.models
    name = readable(one.path.relative_to(root).as_posix())
    words, button = st.columns([5, 1], vertical_alignment="center")
    use = "; `--resumable` can continue with it" if one.resumable else ""
    words.markdown(f"{plain(name)}: {plain(file_size(one.size))}, {ago(time.time() - one.age)}{use}")
    if root != folders.output:
        button.caption("not in the output folder")
    elif button.button("Remove", key=f"remove {name}", icon=":material/delete:", width="stretch"):
        from ...checkpoints.files.partial import remove_leftover

        if remove_leftover(one):
            st.rerun()
        st.error(f"{plain(name)} cannot be removed: a run is at work on it, or the system does not let it go.")


def _again(job: jobs.Job) -> None:
    """Ways on from a job that came to nothing."""
    from ..merge_draft import has_draft

    with st.container(horizontal=True):
        if st.button("Start again", key=f"again-{job.id}", icon=":material/replay:", help="The same job, anew."):
            jobs.start_again(job.id)
            st.rerun()
        if job.origin and has_draft(job.origin):
            link_to("merge", "Its controls", draft=job.origin)


def _ended(job: jobs.Job, home: str) -> None:
    """A job that has ended; `home` is this app's models folder."""
    elsewhere = f" · in {plain(job.home)}" if job.home not in ("", home) else ""
    with st.expander(f"{plain(job.title)} · {ended_line(job)}{elsewhere}", icon=_ICONS[job.status]):
        if job.status == "failed":
            st.error(plain(job.error))
            log = job.folder / "log.txt"
            if log.exists():
                st.code(log.read_text(encoding="utf-8", errors="replace"), language=None)
            _again(job)
        elif job.status == "cancelled":
            st.text(f"{job.task.verb}: stopped on request. Nothing was left behind.")
            _again(job)
        elif job.task.show and job.result:
            job.task.show(job.result, job.id)
        else:
            st.json(job.result, expanded=False)
