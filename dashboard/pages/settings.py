"""Settings: which folders the app may touch, and what it keeps on disk."""

from __future__ import annotations

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.files.cache import cache_folder
from ...checkpoints.text import printable
from ..demo import DEMO
from ..folder_choice import choose_here
from ..folders import current_folders
from ..markdown import plain
from ..page import Page, Scene
from ..state_files import state_folder


def show() -> None:
    """Draw the page."""
    st.title("Settings")
    st.subheader("Folders")
    try:
        folders = current_folders()
    except UnetscopeError as error:
        st.error(plain(error))
        folders = None
    if folders:
        st.text(printable(f"Models: {folders.models}\nOutput: {folders.output}"))
        st.caption("Checkpoints are read in the models folder and its sub-folders, and merges are written into the output folder. "
                   "The app touches nothing else.")  # fmt: skip
    choose_here()
    st.subheader("Kept on disk")
    st.text(printable(f"Jobs, drafts and settings: {state_folder()}\nIndexes, scans and comparisons: {cache_folder()}"))
    st.caption("Both can be deleted at any time; what is in the second one is computed again.")
    st.subheader("Appearance")
    st.caption("Light or dark follows your system. The menu at the top right has the other one, under Settings.")


PAGE = Page(
    id="settings",
    title="Settings",
    icon=":material/settings:",
    show=show,
    order=90,
    tasks=(DEMO,),
    scenes=(Scene("settings"),),
)
