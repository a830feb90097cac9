"""Loading a recipe, or the recipe in a merge's metadata, into the Merge page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import Family
from .folders import Folders
from .library import Entry, Shelf
from .merge_controls import apply
from .merge_form import finder, from_recipe, in_library, replaced_paths, typed
from .merge_parameters import KEEP, held
from .subject import Subject
from .wording import plain

if TYPE_CHECKING:
    from ..merge import Recipe

CONTROLS, TEXT = "Controls", "Recipe as text"
_MOST_MB = 1


def choose_mode() -> str:
    """Whether the page shows controls or a recipe's text."""
    return st.segmented_control(
        "Make it with",
        (CONTROLS, TEXT),
        required=True,
        label_visibility="collapsed",
        **held("m.mode", CONTROLS),
    )


def load_panel(shelf: Shelf, folders: Folders) -> None:
    """Pick a recipe file or a merged checkpoint and load it."""
    with st.popover("Load a recipe, or repeat a merge", icon=":material/upload_file:"):
        given = st.file_uploader("Recipe (YAML)", type=["yaml", "yml"], key="m.file", max_upload_size=_MOST_MB)
        st.button("Load the recipe", disabled=given is None, on_click=_load_file, args=(shelf, folders))
        merged = [entry.name for entry in shelf.entries if entry.merged]
        name = st.selectbox("Merged file of the library", merged, index=None, key="m.repeat", placeholder="choose one")
        st.button("Load its recipe", disabled=name is None, on_click=_load_metadata, args=(shelf, folders, name))


def say_loaded(shelf: Shelf, folders: Folders) -> None:
    """What came of loading; a recipe whose files stand in other places waits for a word."""
    for kind, text in st.session_state.pop("m.loaded", ()):
        (st.success if kind == "good" else st.warning)(plain(text))
    waits = st.session_state.get("m.waits")
    if not waits:
        return
    lines = "\n".join(f"- {plain(path)}  →  **{plain(found)}**" for path, found in waits["replaced"].items())
    st.warning(
        f"{plain(waits['where'])} is not loaded yet. It names files that are not where it says; the library has others of the "
        f"same name, which may hold something else:\n{lines}"
    )
    with st.container(horizontal=True):
        st.button("Take these files", key="m.take", type="primary", on_click=_take, args=(shelf, folders))
        st.button("Load it as text, unchanged", key="m.leave", on_click=_leave)


def _take(shelf: Shelf, folders: Folders) -> None:
    waits = st.session_state.pop("m.waits")
    _load(waits["text"], waits["where"], shelf, folders, agreed=waits["replaced"])


def _leave() -> None:
    st.session_state["m.text"], st.session_state["m.mode"] = st.session_state.pop("m.waits")["text"], TEXT


def recipe_text(shelf: Shelf, folders: Folders) -> tuple[Recipe | None, str]:
    """The recipe that is typed as text, or what is wrong with it."""
    text = st.text_area(
        "Recipe", key="m.text", height=420, help="Paths count from the models folder.", **KEEP,
        placeholder="models:\n  a: base.safetensors\n  b: tuned.safetensors\nsteps:\n  mix: {method: weighted_sum, inputs: [a, b], "
        "alpha: GRAD_V}\nresult: mix",
    )  # fmt: skip
    if not text.strip():
        return None, "type or load a recipe first"
    try:
        return typed(parse(text, "the recipe"), folders, _names(shelf)), ""
    except UnetscopeError as error:
        return None, str(error)


def parse(text: str, where: str) -> Recipe:
    """A recipe from YAML text; raises RecipeError."""
    from ..merge import Recipe
    from ..merge.recipe_file import parse_yaml

    return Recipe.parse(parse_yaml(text, where), where)


def _names(shelf: Shelf) -> tuple[str, ...]:
    return tuple(entry.name for entry in shelf.entries)


def _load_file(shelf: Shelf, folders: Folders) -> None:
    given = st.session_state.get("m.file")
    if given is not None:
        _load(given.getvalue().decode("utf-8-sig", errors="replace"), given.name, shelf, folders)


def _load_metadata(shelf: Shelf, folders: Folders, name: str) -> None:
    from ..checkpoints import open_checkpoint

    entry = shelf.named(name)
    try:
        with open_checkpoint(entry.path, to_look=True) as checkpoint:
            text = checkpoint.metadata.get("unetscope.recipe")
    except UnetscopeError as error:
        _say("bad", str(error))
        return
    if text is None:
        _say("bad", f"{name}: was merged by another program, whose record names models by hash only; the page Library shows it "
                    "under `Merged from`.")  # fmt: skip
        return
    _load(text, name, shelf, folders)


def _load(text: str, where: str, shelf: Shelf, folders: Folders, agreed: dict[str, str] | None = None) -> None:
    """Into the controls where they can say it, else into the text.

    Files that the library has in other places than the recipe says are taken when somebody has agreed to these very ones.
    """
    state, names = st.session_state, _names(shelf)
    find = finder(names, folders.models)
    state.pop("m.waits", None)
    try:
        recipe = parse(text, where)
        replaced = replaced_paths(recipe, names, folders.models)
        if replaced and replaced != agreed:
            state["m.waits"] = {"text": text, "where": where, "replaced": replaced}
            return
        recipe = in_library(recipe, find)
    except UnetscopeError as error:
        _say("bad", str(error))
        return
    state["m.text"] = recipe.to_yaml()
    try:
        apply(from_recipe(recipe, find, lambda name: _record(shelf.named(name))))
    except UnetscopeError as error:
        state["m.mode"] = TEXT
        _say("bad", f"{where}: {error}. It is loaded as text.")
    else:
        state["m.mode"] = CONTROLS
        _say("good", f"{where}: loaded into the controls.")


def _record(entry: Entry) -> Family | None:
    """The record of a file of the library, whose blocks a recipe weighs."""
    subject = Subject.of_blocks(entry)
    return subject.record if subject else None


def _say(kind: str, text: str) -> None:
    st.session_state["m.loaded"] = (*st.session_state.get("m.loaded", ()), (kind, text))
