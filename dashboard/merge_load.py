"""Loading a recipe, or the recipe in a merge's metadata, into the Merge page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import Family
from .drawable import Drawable
from .folders import Folders
from .library import Entry, Library
from .markdown import plain
from .merge_controls import apply
from .merge_form import finder, from_recipe, in_library, replaced_paths, typed
from .merge_parameters import KEEP, held
from .merge_state import UnloadedRecipe, merge_state

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


def load_panel(library: Library, folders: Folders) -> None:
    """Pick a recipe file or a merged checkpoint and load it."""
    with st.popover("Load a recipe, or repeat a merge", icon=":material/upload_file:"):
        given = st.file_uploader("Recipe (YAML)", type=["yaml", "yml"], key="m.file", max_upload_size=_MOST_MB)
        st.button("Load the recipe", disabled=given is None, on_click=_load_file, args=(library, folders))
        merged = [entry.name for entry in library.entries if entry.merged]
        name = st.selectbox("Merged file of the library", merged, index=None, key="m.repeat", placeholder="choose one")
        st.button("Load its recipe", disabled=name is None, on_click=_load_metadata, args=(library, folders, name))


def say_loaded(library: Library, folders: Folders) -> None:
    """What came of loading; a recipe whose files stand in other places waits for a word."""
    own = merge_state()
    for went_well, text in own.loaded:
        (st.success if went_well else st.warning)(plain(text))
    own.loaded = []
    if own.waiting is None:
        return
    lines = "\n".join(f"- {plain(path)}  →  **{plain(found)}**" for path, found in own.waiting.replaced.items())
    st.warning(
        f"{plain(own.waiting.where)} is not loaded yet. It names files that are not where it says; the library has others of the "
        f"same name, which may hold something else:\n{lines}"
    )
    with st.container(horizontal=True):
        st.button("Take these files", key="m.take", type="primary", on_click=_take, args=(library, folders))
        st.button("Load it as text, unchanged", key="m.leave", on_click=_leave)


def _take(library: Library, folders: Folders) -> None:
    waiting = merge_state().waiting
    _load(waiting.text, waiting.where, library, folders, agreed=waiting.replaced)


def _leave() -> None:
    own = merge_state()
    st.session_state["m.text"], st.session_state["m.mode"] = own.waiting.text, TEXT
    own.waiting = None


def recipe_text(library: Library, folders: Folders) -> tuple[Recipe | None, str]:
    """The recipe that is typed as text, or what is wrong with it."""
    text = st.text_area(
        "Recipe", key="m.text", height=420, help="Paths count from the models folder.", **KEEP,
        placeholder="models:\n  a: base.safetensors\n  b: tuned.safetensors\nsteps:\n  mix: {method: weighted_sum, inputs: [a, b], "
        "alpha: GRAD_V}\nresult: mix",
    )  # fmt: skip
    if not text.strip():
        return None, "type or load a recipe first"
    try:
        return typed(parse(text, "the recipe"), folders, _names(library)), ""
    except UnetscopeError as error:
        return None, str(error)


def parse(text: str, where: str) -> Recipe:
    """A recipe from YAML text; raises RecipeError."""
    from ..merge import Recipe
    from ..merge.recipe_file import parse_yaml

    return Recipe.parse(parse_yaml(text, where), where)


def _names(library: Library) -> tuple[str, ...]:
    return tuple(entry.name for entry in library.entries)


def _load_file(library: Library, folders: Folders) -> None:
    given = st.session_state.get("m.file")
    if given is not None:
        _load(given.getvalue().decode("utf-8-sig", errors="replace"), given.name, library, folders)


def _load_metadata(library: Library, folders: Folders, name: str) -> None:
    from ..checkpoints import open_checkpoint

    entry = library.named(name)
    try:
        with open_checkpoint(entry.path, to_look=True) as checkpoint:
            text = checkpoint.metadata.get("unetscope.recipe")
    except UnetscopeError as error:
        _say(False, str(error))
        return
    if text is None:
        _say(False, f"{name}: was merged by another program, whose record names models by hash only; the page Library shows it "
                    "under `Merged from`.")  # fmt: skip
        return
    _load(text, name, library, folders)


def _load(text: str, where: str, library: Library, folders: Folders, agreed: dict[str, str] | None = None) -> None:
    """Into the controls where they can say it, else into the text.

    Files that the library has in other places than the recipe says are taken when somebody has agreed to these very ones.
    """
    state, names = st.session_state, _names(library)
    find = finder(names, folders.models)
    merge_state().waiting = None
    try:
        recipe = parse(text, where)
        replaced = replaced_paths(recipe, names, folders.models)
        if replaced and replaced != agreed:
            merge_state().waiting = UnloadedRecipe(text, where, replaced)
            return
        recipe = in_library(recipe, find)
    except UnetscopeError as error:
        _say(False, str(error))
        return
    state["m.text"] = recipe.to_yaml()
    try:
        apply(from_recipe(recipe, find, lambda name: _record(library.named(name))))
    except UnetscopeError as error:
        state["m.mode"] = TEXT
        _say(False, f"{where}: {error}. It is loaded as text.")
    else:
        state["m.mode"] = CONTROLS
        _say(True, f"{where}: loaded into the controls.")


def _record(entry: Entry) -> Family | None:
    """The record of a file of the library, whose blocks a recipe weighs."""
    drawable = Drawable.of_blocks(entry)
    return drawable.record if drawable else None


def _say(went_well: bool, text: str) -> None:
    merge_state().loaded.append((went_well, text))
