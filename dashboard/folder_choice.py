"""The form that chooses the app's folders, and a way to try the app without any checkpoint."""

from __future__ import annotations

from pathlib import Path

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.text import printable
from . import jobs
from .folders import choose_folders, given_folders
from .markdown import plain

# Where other programs keep checkpoints, below the user's home; offered when they are there.
_USUAL = (
    "ComfyUI/models/checkpoints",
    "stable-diffusion-webui/models/Stable-diffusion",
    "stable-diffusion-webui-forge/models/Stable-diffusion",
    "StabilityMatrix/Models/StableDiffusion",
    "models",
)
_DEMO = "unetscope-demo"
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def choose_here() -> None:
    """A form that sets the models folder, where that is allowed, and a way to try the app without any checkpoint."""
    if given_folders()[0]:
        st.caption(
            "The folders were set when the app was started (`--models`, `--output`); start it with others to change them."
        )
        return
    if not _only_here():
        st.warning(
            "Other machines can reach this app, so folders cannot be chosen in the page: start it with --models DIR."
        )
        return
    with st.form("folders", border=True):
        usual = [str(Path.home() / folder) for folder in _USUAL if (Path.home() / folder).is_dir()]
        models = st.text_input(
            "Models folder", value=usual[0] if usual else "", placeholder="/home/me/models", key="models folder",
            help="The folder with your checkpoints. Sub-folders are read too. Nothing in it is changed.",
        )  # fmt: skip
        fixed_output = given_folders()[1]
        output = st.text_input(
            "Output folder", placeholder=printable(fixed_output or "the models folder"), key="output folder",
            disabled=fixed_output is not None,
            help="Where merges are written." + (" It was set when the app was started." if fixed_output else ""),
        )  # fmt: skip
        if st.form_submit_button("Use this folder", type="primary"):
            _choose(models, output)
    if st.button(f"Try it with demo checkpoints in ~/{_DEMO} (about 90 MB)", icon=":material/science:"):
        folder = Path.home() / _DEMO
        folder.mkdir(exist_ok=True)
        make_demo(folder)
        _choose(str(folder), "")


def make_demo(folder: Path) -> jobs.Job:
    """Have the demo checkpoints made in a folder."""
    return jobs.submit("demo", "Make demo checkpoints", {"folder": str(folder)})


def _choose(models: str, output: str) -> None:
    try:
        if not models.strip():
            raise UnetscopeError("type the folder with your checkpoints first")
        choose_folders(models, output)
    except UnetscopeError as error:
        st.error(plain(error))
    else:
        st.rerun()


def _only_here() -> bool:
    """Whether the server listens on this machine alone."""
    return (st.get_option("server.address") or "") in _LOOPBACK
