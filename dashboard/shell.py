"""What surrounds every page: navigation, the models folder, running jobs, and messages when there is nothing to show yet."""

from __future__ import annotations

from importlib import import_module

import streamlit as st

from . import jobs
from .folders import FolderError, Folders, current_folders

# Module of `pages` -> title and icon, in the order of the navigation.
PAGES: dict[str, tuple[str, str]] = {
    "library": ("Library", ":material/folder_open:"),
    "explore": ("Explore", ":material/account_tree:"),
    "compare": ("Compare", ":material/compare:"),
    "merge": ("Merge", ":material/merge:"),
    "collection": ("Collection", ":material/scatter_plot:"),
    "jobs": ("Jobs", ":material/pending_actions:"),
    "settings": ("Settings", ":material/settings:"),
}
# Pixels; and margins that leave the diagrams room on a screen of 1280 by 800.
_SIDEBAR = 200
_ROOM = """<style>
.stMainBlockContainer { padding: 2.2rem 1.6rem 2rem; }
.stMainBlockContainer h1 { font-size: 1.7rem; padding: 0; }
</style>"""


def main() -> None:
    """Draw the page that was asked for."""
    st.set_page_config(
        page_title="Unetscope", page_icon=":material/account_tree:", layout="wide", initial_sidebar_state=_SIDEBAR
    )
    st.html(_ROOM)
    jobs.tend()
    pages = {name: _page(name) for name in PAGES}
    st.session_state["pages"] = pages
    chosen = st.navigation(list(pages.values()))
    _sidebar(pages)
    chosen.run()


def _page(name: str) -> st.Page:
    title, icon = PAGES[name]

    # A page's module is imported when it is shown: none waits for what another needs.
    def show() -> None:
        import_module(f".pages.{name}", __package__).show()

    show.__name__ = name
    return st.Page(show, title=title, icon=icon, url_path=name, default=name == "library")


def link_to(name: str, label: str) -> None:
    """A link to another page; plain text where pages run alone, as in tests."""
    page = st.session_state.get("pages", {}).get(name)
    if page:
        st.page_link(page, label=label, icon=PAGES[name][1])
    else:
        st.text(label)


def require_folders() -> Folders:
    """The folders of this run; without any, says how to choose one and ends the page."""
    try:
        folders = current_folders()
    except FolderError as error:
        from .wording import plain

        st.error(plain(error))
        _offer_folder()
    else:
        if folders:
            return folders
        st.info("No models folder is chosen yet: the folder with your checkpoints, with all its sub-folders.")
        _offer_folder()
    st.stop()


def _offer_folder() -> None:
    from .pages.settings import choose_here

    choose_here()


def _sidebar(pages: dict[str, st.Page]) -> None:
    with st.sidebar:
        _running()


@st.fragment(run_every=2.0)
def _running() -> None:
    """The jobs that run, on every page."""
    from .job_view import progress_line
    from .wording import plain

    for job in [job for job in jobs.listed() if not job.ended]:
        st.caption(plain(job.title))
        st.progress(job.share, text=progress_line(job))
