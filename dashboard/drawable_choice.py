"""What the diagram pages share: choosing what to look at, and the diagram of it at a level."""

from __future__ import annotations

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from .choices import Choices, why_not
from .drawable import Drawable, architectures
from .folders import current_folders
from .library import Library
from .markdown import plain
from .shell import library_of

# Level as people call it -> as `diagrams` does.
LEVELS = {"Blocks": "block", "Modules": "module", "Layers": "layer"}
HEIGHT = 570


def library_or_empty() -> Library:
    """The library; an empty one where no folder was chosen, for architectures can be drawn without files."""
    try:
        folders = current_folders()
    except UnetscopeError as error:
        st.warning(plain(error))
        return Library(())
    return library_of(folders) if folders else Library(())


def choose_drawable(library: Library, where=st) -> Drawable | None:
    """An architecture or a file, chosen on the page or named in its address (`of`); None, and a sentence, for one that is gone."""
    drawable = [entry for entry in library.entries if entry.family and not entry.error and entry.what != "lora"]
    files = {entry.name: Drawable.of_entry(entry) for entry in drawable}

    def apart(name: str) -> str:
        """An architecture's id or title, told from a folder that is called so."""
        return f"{name} (architecture)" if name in files else name

    titles = {apart(family): apart(title) for family, title in architectures().items()}
    drawables = {apart(family): Drawable(family, family) for family in architectures()} | files
    choices, names = Choices(why_not(library)), list(drawables)
    # Not bound to the address by the widget, which would write titles there: a link says sdxl, not "SDXL".
    if "of" not in st.session_state and (wanted := st.query_params.get("of", st.session_state.get("kept of"))):
        st.session_state["of"] = wanted
    chosen = choices.one(
        "Architecture or file", names, "of", usual=names[0], unfit="cannot be drawn; choose another", where=where,
        format_func=lambda name: titles.get(name, name),
        help="Published architectures, and every model of the library.",
    )  # fmt: skip
    choices.say()
    if chosen is None:
        return None
    st.session_state["kept of"] = st.query_params["of"] = chosen
    return drawables[chosen]


def say(error: UnetscopeError) -> None:
    """A user's mistake, in the page."""
    st.error(plain(error))
