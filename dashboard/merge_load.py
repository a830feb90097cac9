"""Loading a recipe, or the recipe in a merge's metadata, into the Merge page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import Family
from .library import Entry, Shelf
from .merge_controls import apply
from .merge_form import FormError, finder, from_recipe, in_library
from .merge_parameters import KEEP
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
        default=CONTROLS,
        key="m.mode",
        required=True,
        label_visibility="collapsed",
        **KEEP,
    )


def load_panel(shelf: Shelf) -> None:
    """Pick a recipe file or a merged checkpoint and load it."""
    with st.popover("Load a recipe, or repeat a merge", icon=":material/upload_file:"):
        given = st.file_uploader("Recipe (YAML)", type=["yaml", "yml"], key="m.file", max_upload_size=_MOST_MB)
        st.button("Load the recipe", disabled=given is None, on_click=_load_file, args=(shelf,))
        merged = [entry.name for entry in shelf.entries if entry.merged]
        name = st.selectbox("Merged file of the library", merged, index=None, key="m.repeat", placeholder="choose one")
        st.button("Load its recipe", disabled=name is None, on_click=_load_metadata, args=(shelf, name))


def say_loaded() -> None:
    """What came of loading."""
    for kind, text in st.session_state.pop("m.loaded", ()):
        (st.success if kind == "good" else st.warning)(plain(text))


def recipe_text(shelf: Shelf) -> tuple[Recipe | None, str]:
    """The recipe that is typed as text, or what is wrong with it."""
    text = st.text_area(
        "Recipe", key="m.text", height=420, help="Paths count from the models folder.", **KEEP,
        placeholder="models:\n  a: base.safetensors\n  b: tuned.safetensors\nsteps:\n  mix: {method: weighted_sum, inputs: [a, b], "
        "alpha: GRAD_V}\nresult: mix",
    )  # fmt: skip
    if not text.strip():
        return None, "type or load a recipe first"
    try:
        return in_library(parse(text, "the recipe"), finder(tuple(entry.name for entry in shelf.entries))), ""
    except UnetscopeError as error:
        return None, str(error)


def parse(text: str, where: str) -> Recipe:
    """A recipe from YAML text; raises RecipeError."""
    from ..merge import Recipe
    from ..merge.recipe_file import parse_yaml

    return Recipe.parse(parse_yaml(text, where), where)


def _load_file(shelf: Shelf) -> None:
    given = st.session_state.get("m.file")
    if given is not None:
        _load(given.getvalue().decode("utf-8-sig", errors="replace"), given.name, shelf)


def _load_metadata(shelf: Shelf, name: str) -> None:
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
    _load(text, name, shelf)


def _load(text: str, where: str, shelf: Shelf) -> None:
    """Into the controls where they can say it, else into the text."""
    find = finder(tuple(entry.name for entry in shelf.entries))
    try:
        recipe = in_library(parse(text, where), find)
    except UnetscopeError as error:
        _say("bad", str(error))
        return
    state = st.session_state
    state["m.text"] = recipe.to_yaml()
    try:
        apply(from_recipe(recipe, find, lambda name: _record(shelf.named(name))))
    except FormError as error:
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
