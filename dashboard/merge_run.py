"""The lower part of the Merge page: the output, a dry run, the job, the recipe."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from . import jobs
from .folders import Folders
from .job_view import show_ended, show_job
from .library import content_of
from .markdown import plain
from .merge_draft import draft_id, followed_drafts
from .merge_form import runnable
from .merge_parameters import KEEP
from .merge_state import merge_state
from .report_view import show_report

if TYPE_CHECKING:
    from ..merge import Recipe


def run_panel(recipe: Recipe | None, complaint: str, folders: Folders, unfinished: bool = False) -> None:
    """Name, dry run and start; `complaint` says why there is no recipe, which is not a mistake as long as it is `unfinished`."""
    name = st.text_input(
        "Name of the result",
        key="m.name",
        placeholder="my-merge",
        help=f"Written to {plain(folders.output)}",
        **KEEP,
    )
    # Above what comes and goes below it: a button that moves under the pointer misses its click.
    buttons, below = st.container(horizontal=True), st.container()
    target, problem, overwrite = None, complaint, False
    with below:
        try:
            target = folders.target(name)
        except UnetscopeError as error:
            problem = problem or str(error)
            if name:
                st.error(plain(error))
        if target and target.exists():
            st.caption(f"{plain(target.name)} exists already; choose another name, or:")
            overwrite = _replace_it(target)
            if not overwrite:
                problem = problem or f"{target.name} exists already: tick Replace it, or choose another name"
        if complaint:
            (st.info if unfinished else st.error)(plain(complaint))
    with buttons:
        dry = st.button(
            "Dry run", key="m.dry run", icon=":material/fact_check:", help="Says what would be done; writes nothing."
        )
        run = st.button("Merge", key="m.run", icon=":material/merge:", type="primary", help="Starts the merge.")
    asked = {
        "recipe": recipe and recipe.to_yaml(),
        "target": str(target),
        "overwrite": overwrite,
        "complaint": complaint,
    }
    with below:
        if dry or run:
            merge_state().dry, merge_state().refused = None, (asked, problem) if problem else None
            if not problem:
                _start(recipe, target, folders, overwrite, dry, asked)
        progress_panel(recipe, target, folders, asked, () if unfinished else (complaint,))


def _replace_it(target: Path) -> bool:
    """The tick that lets a file be replaced: this file with what is in it now, and no other."""
    own, now = merge_state(), content_of(target)
    if own.replaces != now:
        st.session_state["m.overwrite"], own.replaces = False, now
    return st.checkbox("Replace it", key="m.overwrite")


def _start(recipe: Recipe, target: Path, folders: Folders, overwrite: bool, dry: bool, asked: dict[str, Any]) -> None:
    """A dry run comes first in any case: what it refuses never becomes a job."""
    from ..merge import Recipe, dry_run

    own = merge_state()
    try:
        data = runnable(recipe, folders)
        report = dry_run(Recipe.parse(data), target, overwrite=overwrite)
    except UnetscopeError as error:
        own.refused = (asked, str(error))
        return
    if dry:
        own.dry = (asked["recipe"], report.to_plain())
        return
    arguments = {"recipe": data, "output": str(target), "overwrite": overwrite}
    if overwrite:
        arguments["replaces"], own.replaces = own.replaces, None  # the next merge asks again
    jobs.submit("merge", f"Merge {output_name(target, folders)}", arguments, origin=draft_id())
    st.rerun()


def output_name(target: Path, folders: Folders) -> str:
    """The output's name below its folder."""
    return target.relative_to(folders.output).as_posix()


def own_merges() -> list[jobs.Job]:
    """The merges that were started from this page's draft, newest first: those of other tabs and apps are on the page Jobs."""
    followed = followed_drafts()
    return [job for job in jobs.listed("merge") if job.origin in followed]


def progress_panel(
    recipe: Recipe | None, target: Path | None, folders: Folders, asked: dict[str, Any], said: tuple[str, ...] = ()
) -> None:
    """What came of the last click: the refusal, the merges that run or wait, how the one of these very controls ended.

    Args:
        asked: what a click would ask for now.
        said: what stands above already.
    """
    refused = merge_state().refused
    if refused and refused[0] == asked and refused[1] not in said:
        st.error(plain(refused[1]))
    merges = own_merges()
    for job in reversed([job for job in merges if not job.ended]):
        show_job(job.id, key="merge")
    if merge_state().dry:
        st.info("The dry run's report is below; nothing was written.")
    elif merges and merges[0].ended and _is_of(merges[0], recipe, target, folders):
        show_ended(merges[0])


def _is_of(job: jobs.Job, recipe: Recipe | None, target: Path | None, folders: Folders) -> bool:
    """Whether a merge was started with what the controls say now."""
    if recipe is None or job.arguments.get("output") != str(target):
        return False
    try:
        return job.arguments.get("recipe") == runnable(recipe, folders)
    except UnetscopeError:
        return False


def outcome(recipe: Recipe | None) -> None:
    """The reports: of the dry run, and of the last merge of this page that ended."""
    if merge_state().dry:
        text, report = merge_state().dry
        if recipe is None or text != recipe.to_yaml():
            st.caption("The dry run below is of the controls before the last change.")
        show_report(report, key="dry")
    if ended := next((job for job in own_merges() if job.ended), None):
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
