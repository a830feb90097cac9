"""What surrounds every page: navigation, the models folder, running jobs, and messages when there is nothing to show yet."""

from __future__ import annotations

import threading
import time

import streamlit as st
from streamlit.errors import StreamlitAPIException

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.text import counted
from . import jobs
from .folder_choice import choose_here
from .folders import Folders, current_folders
from .job_view import progress_line
from .library import Library, read_library
from .markdown import plain
from .own_methods import load_own_methods
from .page import PAGES, Page, bring_in, in_order

# How long a page may read headers before it shows what it has.
READ_SECONDS = 0.8
# The first page's own requests come before.
_WARM_UP_SECONDS = 0.5
# A UNET in sixteen pixels. Streamlit would fetch an icon of a name from the internet; nothing here leaves the machine.
_ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 16 16"><rect width="16" height="16" rx="3" fill="#2563c9"/>'
    '<path d="M4 3v7a4 4 0 0 0 8 0V3" fill="none" stroke="#fff" stroke-width="2"/><path d="M4 6h8" stroke="#9cf"/></svg>'
)
# Streamlit leaves much air at the top and around titles; a diagram needs it.
_STYLE = """<style>
[data-testid=stMainBlockContainer] { padding: 3.6rem 2rem 2rem; max-width: 1800px; }
h1 { font-size: 1.7rem !important; padding: 0.2rem 0 !important; }
h2, h3 { font-size: 1.25rem !important; }
</style>"""


def main() -> None:
    """Draw the page that was asked for."""
    st.set_page_config(page_title="Unetscope", page_icon=_ICON, layout="wide")
    st.html(_STYLE)
    try:
        load_own_methods()
        pages = in_order()
        links = {page.id: _link(page, first=page is pages[0]) for page in pages}
    except UnetscopeError as error:  # a file of methods, or somebody else's page
        st.error(plain(error))
        st.stop()
    jobs.tend()
    st.session_state["pages"] = links
    # At the top, so that diagrams have the whole width.
    chosen = st.navigation(_sections(pages, links), position="top")
    _running()
    chosen.run()
    _warm_up(pages)


def _sections(pages: list[Page], links: dict[str, st.Page]) -> dict[str, list[st.Page]] | list[st.Page]:
    """The navigation: pages without a group stand by themselves, and each group below its heading."""
    groups = {page.group for page in pages}
    if groups == {""}:
        return list(links.values())
    return {group: [links[page.id] for page in pages if page.group == group] for group in sorted(groups)}


def _link(page: Page, first: bool) -> st.Page:
    """A page as Streamlit has it; the first one is the app's own address.

    Raises:
        UnetscopeError: Streamlit does not take its title or icon.
    """
    try:
        return st.Page(page.show, title=page.title, icon=page.icon, url_path=page.id, default=first)
    except StreamlitAPIException as error:
        raise UnetscopeError(f"page {page.id} ({PAGES.home(page.id)}): {error}") from None


@st.cache_resource(show_spinner=False)
def _warm_up(_pages: list[Page]) -> None:
    """Import what the other pages need after the first one was drawn, so that switching to them does not wait for it."""

    def load() -> None:
        time.sleep(_WARM_UP_SECONDS)
        for page in _pages:
            for need in page.needs:
                bring_in(need)

    threading.Thread(target=load, daemon=True).start()


def link_to(name: str, label: str, **parameters: str) -> None:
    """A link to another page, with parameters of its address; plain text where pages run alone, as in tests."""
    page = st.session_state.get("pages", {}).get(name)
    if page:
        st.page_link(page, label=label, icon=PAGES[name].icon, query_params=parameters or None)
    else:
        st.text(label)


def require_folders() -> Folders:
    """The folders of this run; without any, says how to choose one and ends the page."""
    try:
        folders = current_folders()
    except UnetscopeError as error:
        st.error(plain(error))
        choose_here()
    else:
        if folders:
            return folders
        st.info("No models folder is chosen yet: the folder with your checkpoints, with all its sub-folders.")
        choose_here()
    st.stop()


def library_of(folders: Folders, whole: bool = True) -> Library:
    """The library. A page that does not have all of it yet says so, and looks again by itself.

    With `whole` it ends there: a choice from the files that happen to have been read would be another one a moment later.
    """
    known = st.session_state.setdefault("whole library of", None) == str(folders.models)
    # Once it was there, new files are waited for: a page that ends here loses the click that it was drawn for.
    library = read_library(folders.models, None if known and whole else READ_SECONDS)
    if not library.unread:
        st.session_state["whole library of"] = str(folders.models)
    else:
        st.caption(f"reading the headers of {counted(library.unread, 'more file')} …")
        _look_again([])
        if whole:
            st.stop()
    return library


@st.fragment(run_every=0.1)
def _look_again(looks: list[None]) -> None:
    """Have the page drawn anew, but not while it is being drawn: what has been read is shown first."""
    looks.append(None)
    if len(looks) > 1:
        st.rerun()


@st.fragment(run_every=2.0)
def _running() -> None:
    """One line on the jobs that run, on every page."""
    active = jobs.here([job for job in jobs.listed() if not job.ended])
    if active:
        job = next((job for job in reversed(active) if job.status == "running"), active[-1])
        more = f" · and {len(active) - 1} more, see Jobs" if len(active) > 1 else ""
        st.caption(f":material/pending_actions: {plain(job.title)}: {progress_line(job)}{more}")
