"""The lower part of the Merge page: the output, a dry run, the job, the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from . import jobs
from .folders import FolderError, Folders
from .job_view import show_ended, show_job
from .merge_form import runnable
from .merge_parameters import KEEP
from .report_view import show_report
from .wording import plain

if TYPE_CHECKING:
    from ..merge import Recipe


def run_panel(recipe: Recipe | None, complaint: str, folders: Folders, unfinished: bool = False) -> None:
    """Name, dry run and start; `complaint` says why there is no recipe, which is no mistake as long as it is `unfinished`."""
    name = st.text_input(
        "Name of the result", key="m.name", placeholder="my-merge", help=f"Written to {folders.output}", **KEEP
    )
    target, problem = None, complaint
    try:
        target = folders.target(name)
    except FolderError as error:
        problem = problem or str(error)
        if name:
            st.error(plain(error))
    overwrite = False
    if target and target.exists():
        st.caption(f"{plain(target.name)} exists already; choose another name, or:")
        overwrite = st.checkbox("Replace it", key="m.overwrite")
        if not overwrite:
            problem = problem or f"{target.name} exists already: tick Replace it, or choose another name"
    if complaint:
        (st.info if unfinished else st.error)(plain(complaint))
    with st.container(horizontal=True):
        dry = st.button(
            "Dry run", key="m.dry run", icon=":material/fact_check:", help="Says what would be done; writes nothing."
        )
        run = st.button("Merge", key="m.run", icon=":material/merge:", type="primary", help="Starts the merge.")
    if dry or run:
        st.session_state.pop("m.dry", None)
        st.session_state["m.refused"] = problem
        if not problem:
            _start(recipe, target, folders, overwrite, dry)
    progress_panel()


def _start(recipe: Recipe, target: Path, folders: Folders, overwrite: bool, dry: bool) -> None:
    """A dry run comes first in any case: what it refuses never becomes a job."""
    from ..merge import Recipe, dry_run

    try:
        data = runnable(recipe, folders)
        report = dry_run(Recipe.parse(data), target, overwrite=overwrite)
    except UnetscopeError as error:
        st.session_state["m.refused"] = str(error)
        return
    if dry:
        st.session_state["m.dry"] = (recipe.to_yaml(), report.to_plain())
        return
    arguments = {"recipe": data, "output": str(target), "overwrite": overwrite}
    job = jobs.submit("merge", f"Merge {folders_name(target, folders)}", arguments)
    st.session_state["m.shown"] = job.id


def folders_name(target: Path, folders: Folders) -> str:
    """The output's name below its folder."""
    return target.relative_to(folders.output).as_posix()


def progress_panel() -> None:
    """What came of the last click: the refusal, the merges that run or wait, how the last one ended."""
    if refused := st.session_state.get("m.refused"):
        st.error(plain(refused))
    merges = jobs.listed("merge")
    for job in reversed([job for job in merges if not job.ended]):
        show_job(job.id, key="merge")
    if st.session_state.get("m.dry"):
        st.info("The dry run's report is below; nothing was written.")
    elif merges and merges[0].ended and merges[0].id == st.session_state.get("m.shown"):
        show_ended(merges[0])


def outcome(recipe: Recipe | None) -> None:
    """The reports: of the dry run, and of the last merge that ended."""
    if kept := st.session_state.get("m.dry"):
        text, report = kept
        if recipe is None or text != recipe.to_yaml():
            st.caption("The dry run below is of the controls before the last change.")
        show_report(report, key="dry")
    if ended := next((job for job in jobs.listed("merge") if job.ended), None):
        st.subheader("Last merge", anchor=False)
        show_ended(ended, lambda job: show_report(job.result, key=job.id))


def show_recipe(recipe: Recipe | None) -> None:
    """The recipe as text, to copy or keep."""
    if recipe is None:
        return
    with st.expander("Recipe", icon=":material/description:"):
        text = recipe.to_yaml()
        st.code(text, language="yaml")
        st.download_button(
            "Download the recipe",
            text,
            file_name=f"{st.session_state.get('m.name') or 'recipe'}.yaml",
            mime="text/yaml",
        )
        st.caption("Paths are below the models folder. `unetscope merge run` takes this file, laid into that folder.")
