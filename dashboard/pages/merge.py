"""Merge: method, models and components at the left, block weights in the diagram at the right, the run below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ..drawable import Drawable
from ..library import Entry, Library
from ..measuring import GRAM
from ..merging import MERGE
from ..page import Page, Scene
from ..shell import library_of, link_to, require_folders

if TYPE_CHECKING:
    from ...merge.methods import Method
    from ..weights_editing import Weights

_ON_DEMAND = "This merge has no block weights: turn on *by block* next to a parameter to set them in the diagram."
_A_MODEL_EACH = "Here every model has one weight; in a recipe as text it may differ by block as well."
_NONE = "This method has no block weights."


def show() -> None:
    """Draw the page."""
    st.title("Merge")
    folders = require_folders()
    library = library_of(folders)
    if not library.models:
        st.info(
            "There is no checkpoint to merge yet. The page Library makes demo checkpoints, or says why files cannot be used."
        )
        link_to("library", "Go to Library")
        return
    from ..merge_controls import begin_with
    from ..merge_draft import continue_panel, keep_draft, open_draft
    from ..merge_load import TEXT, choose_mode, load_panel, recipe_text, say_loaded
    from ..merge_run import outcome, run_panel, show_recipe

    open_draft(folders)
    if "a" in st.query_params:  # a link of the library
        begin_with(st.query_params["a"], library)
        del st.query_params["a"]
    with st.container(horizontal=True, vertical_alignment="center"):
        mode = choose_mode()
        load_panel(library, folders)
        continue_panel(folders)
    say_loaded(library, folders)
    if mode == TEXT:
        recipe, complaint = recipe_text(library, folders)
        run_panel(recipe, complaint, folders)
    else:
        recipe = _with_controls(library, folders)
    show_recipe(recipe)
    outcome(recipe)
    keep_draft(folders)


PAGE = Page(
    id="merge",
    title="Merge",
    icon=":material/merge:",
    show=show,
    order=40,
    tasks=(MERGE, GRAM),
    scenes=(Scene("merge"),),
    needs=(
        "unetscope.diagrams",
        "unetscope.dashboard.merge_load",
        "unetscope.dashboard.merge_predict",
        "unetscope.dashboard.merge_run",
        "unetscope.dashboard.merge_weights",
        "unetscope.merge.methods:METHODS",
    ),
)


def _with_controls(library: Library, folders) -> Any:
    from ..choices import Choices, why_not
    from ..merge_controls import choose_components, choose_method, choose_models, choose_output
    from ..merge_form import UNFINISHED, MergeForm
    from ..merge_parameters import choose_parameters
    from ..merge_run import run_panel

    choices = Choices(why_not(library))
    left, right = st.columns([1, 2.2], gap="medium")
    with left:
        method = choose_method()
        models = choose_models(method, library, choices)
        choices.say_proposed()
        values = choose_parameters(method, models)
        drawable = Drawable.of_blocks(models[0]) if models else None
        family = drawable.record if drawable else None
        with st.container(horizontal=True, gap="small"):
            components = choose_components(library, family, choices)
            output = choose_output()
        panel = st.container()
    with right:
        values = _block_weights(method, values, models)
    loras = frozenset(entry.name for entry in models if entry.what == "lora")
    form = MergeForm(method.name, tuple(entry.name for entry in models), values, components, output, loras=loras)
    recipe, complaint, unfinished = None, " ".join(f"{said}." for said in choices.complaints), False
    try:
        recipe = None if complaint else form.recipe()
    except UnetscopeError as error:
        complaint, unfinished = str(error), error.code == UNFINISHED
    with panel:
        run_panel(recipe, complaint, folders, unfinished)
    return recipe


def _block_weights(
    method: Method, values: dict[str, Any], models: tuple[Entry, ...]
) -> dict[str, float | Weights | list[float] | bool]:
    """The parameters with their block weights; the diagram edits one of those that have any."""
    from ..merge_parameters import usual_number, weights_of
    from ..merge_predict import gram_for
    from ..merge_weights import edit_weights

    by_block = [name for name, value in values.items() if value is None]
    if not by_block:
        kinds = {p.kind for p in method.parameters.values()}
        st.info(_ON_DEMAND if "number" in kinds else _A_MODEL_EACH if "numbers" in kinds else _NONE)
        return values
    drawable = Drawable.of_blocks(models[0]) if models else None
    if drawable is None:
        st.info("Choose a first model of a known architecture; its blocks appear here with a weight each.")
        return values | {name: usual_number(method.parameters[name]) for name in by_block}
    shown = by_block[0]
    if len(by_block) > 1:
        if st.session_state.get("m.diagram") not in by_block:  # the parameter of another method
            st.session_state.pop("m.diagram", None)
        shown = (
            st.segmented_control("The diagram sets", by_block, default=by_block[0], key="m.diagram", required=True)
            or shown
        )
    whole = values | {name: weights_of(method.parameters[name], drawable.record) for name in by_block}
    gram = gram_for(method, whole, shown, models)
    return whole | {shown: edit_weights(method.parameters[shown], drawable, gram)}
