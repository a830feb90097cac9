"""What the diagram pages share: choosing what to look at, and the diagram of it at a level."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from .folders import FolderError, current_folders
from .library import Entry, Shelf
from .shell import shelf_of
from .subject import Subject, architectures
from .wording import plain

# Level as people call it -> as `diagrams` does.
LEVELS = {"Blocks": "block", "Modules": "module", "Layers": "layer"}
HEIGHT = 570


def shelf_or_none() -> Shelf:
    """The library; an empty one where no folder was chosen, for architectures can be drawn without files."""
    try:
        folders = current_folders()
    except FolderError as error:
        st.warning(plain(error))
        return Shelf(())
    return shelf_of(folders) if folders else Shelf(())


def choose_subject(shelf: Shelf, where=st) -> Subject:
    """An architecture or a file, chosen on the page or named in its address (`of`)."""
    drawable = [entry for entry in shelf.entries if entry.family and not entry.error and entry.what != "lora"]
    subjects = {name: Subject(name, name) for name in architectures()}
    subjects |= {entry.name: Subject.of_entry(entry) for entry in drawable}
    # Not bound to the address by the widget, which would write titles there: a link says sdxl, not "SDXL".
    names = list(subjects)
    wanted = st.query_params.get("of", st.session_state.get("kept of"))
    chosen = where.selectbox(
        "Architecture or file",
        names,
        index=names.index(wanted) if wanted in names else 0,
        format_func=lambda name: architectures().get(name, name),
        key="of",
        help="Published architectures, and every model of the library.",
    )
    st.session_state["kept of"] = st.query_params["of"] = chosen
    return subjects[chosen]


def choose_entry(
    label: str, entries: Sequence[Entry], key: str, *, optional: str = "", where=st, index: int = 0, help: str = ""
) -> Entry | None:
    """A file of the library; `optional` is what stands for none of them."""
    names = [entry.name for entry in entries]
    options = [optional, *names] if optional else names
    chosen = where.selectbox(
        label, options, index=min(index, len(options) - 1), key=key, bind="query-params", help=help or None
    )
    return next((entry for entry in entries if entry.name == chosen), None)


def say(error: UnetscopeError) -> None:
    """A user's mistake, in the page."""
    st.error(plain(error))
