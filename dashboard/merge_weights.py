"""The right side of the Merge page: block weights in the diagram, and the tools around it.

The weights of a parameter live in session state with the way back (`merge_parameters.undo_of`); the diagram, the tools and the
table all change them there, so they never disagree.
"""

from __future__ import annotations

from collections.abc import Callable

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import Family
from ..checkpoints.families.conventions import CONVENTIONS, DEFAULT_CONVENTION
from ..checkpoints.families.presets import preset_names
from ..merge.methods import MethodParameter
from . import weights_editing as editing
from .diagram import DistancePrediction, last_act, unet_diagram
from .drawable import Drawable, drawing_of, svg_of
from .markdown import plain
from .merge_parameters import KEEP, MIDDLE, held, keep_weights, undo_of, weights_key, weights_of
from .merge_state import merge_state
from .weights_editing import Undo, Weights

_HEIGHT = 620
_DIGITS = 4  # finer than anybody drags
# What a tool makes of the weights as they are, for the blocks that it is about.
_Change = Callable[[Weights, list[str]], Weights]


def edit_weights(parameter: MethodParameter, drawable: Drawable, gram: DistancePrediction | None) -> Weights:
    """Tools, diagram and table for one parameter; returns its weights."""
    family = drawable.record
    name, weights, key = parameter.name, weights_of(parameter, family), f"merge-{parameter.name}-{drawable.name}"
    weights = _taken_over(name, weights, key)
    _tools(parameter, family, weights)
    low, high = (0.0, 1.0) if parameter.share else st.session_state.get("m.limits", (0.0, 1.0))
    limits = (min(low, *weights.values()), max(high, *weights.values()))
    unet_diagram(
        _drawing(drawable),
        weights=weights,
        editable=True,
        limits=limits,
        selected=st.session_state.get("m.selected", ()),
        gram=gram,
        height=_HEIGHT,
        key=key,
    )
    _table(name, weights)
    return weights


def _taken_over(parameter: str, weights: Weights, key: str) -> Weights:
    """The weights and the selection as the user has just changed them in the diagram."""
    state = last_act(key, st.session_state.get("m.selected", ()), weights)
    if not state.changed:
        return weights
    moved = {label: round(state.weights.get(label, value), _DIGITS) for label, value in weights.items()}
    st.session_state["m.selected"] = tuple(label for label in state.selected if label in weights)
    if moved != weights:
        keep_weights(parameter, moved)
    return moved


def _drawing(drawable: Drawable) -> str:
    """The block diagram with room for handles."""
    return svg_of(drawing_of(drawable, "block", badges=editing.weighted_labels(drawable.record)))


# -- tools ------------------------------------------------------------------------------------------------------------


def _tools(parameter: MethodParameter, family: Family, weights: Weights) -> None:
    chosen = _selected(weights)
    where = f"the {len(chosen)} selected blocks" if len(chosen) > 1 else chosen[0] if chosen else "all blocks"
    state, own = st.session_state, merge_state()

    def change(make: _Change) -> Callable[[], None]:
        """A button's action. It looks at the controls when it acts: what was typed just before a click counts."""

        def act() -> None:
            now = weights_of(parameter, family)
            try:
                changed = make(now, _selected(now) or list(now))
                for label, value in changed.items():
                    parameter.check_number(value, f"{parameter.name} of {label}")
                keep_weights(parameter.name, changed)
            except UnetscopeError as error:
                own.complaint = str(error)

        return act

    with st.container(horizontal=True, vertical_alignment="center", gap="small"):
        _history_buttons(parameter.name)
        with st.popover("Set", icon=":material/edit:"):
            _number(f"Weight of {where}", MIDDLE, "m.set")
            set_it = change(lambda now, labels: editing.with_value(now, labels, state["m.set"]))
            st.button("Set it", on_click=set_it, type="primary")
            if not parameter.share:  # whose handles run from 0 to 1, as it does
                limits = held("m.limits", (0.0, 1.0))
                st.slider("Handles in the diagram run from, to", -2.0, 3.0, step=0.5, **limits)
        with st.popover("Preset", icon=":material/bookmarks:"):
            st.selectbox("Preset", preset_names(), key="m.preset", **KEEP)
            use = change(lambda now, labels: editing.from_text(state["m.preset"], DEFAULT_CONVENTION, family))
            st.button("Use it", on_click=use, type="primary")
        with st.popover("Vector", icon=":material/data_array:"):
            _paste_fields()
            paste = change(lambda now, labels: editing.from_text(state["m.paste"], state["m.convention"], family))
            st.button("Use them", on_click=paste, type="primary")
            _copy(weights, family)
        with st.popover("Gradient", icon=":material/gradient:"):
            _gradient(where, family, change)
        with st.popover("Random", icon=":material/casino:"):
            _random(where, family, change)
        st.button(
            "Mirror", icon=":material/flip:", on_click=change(lambda now, labels: editing.mirrored(now, family)),
            help="Each OUT block takes the weight of the IN block whose skip connection it receives.",
        )  # fmt: skip
    if own.complaint:
        st.error(plain(own.complaint))
        own.complaint = ""


def _gradient(where: str, family: Family, change: Callable[[_Change], Callable[[], None]]) -> None:
    def make(now: Weights, labels: list[str]) -> Weights:
        first, last, curve = (st.session_state[f"m.gradient.{name}"] for name in ("first", "last", "curve"))
        return editing.gradient(now, labels, first, last, curve, family)

    _number("From", 0.0, "m.gradient.first")
    _number("To", 1.0, "m.gradient.last")
    st.selectbox("Curve", ("linear", "cosine"), key="m.gradient.curve", **KEEP)
    st.caption(f"Over {where}, in network order.")
    st.button("Apply", on_click=change(make), type="primary")


def _random(where: str, family: Family, change: Callable[[_Change], Callable[[], None]]) -> None:
    def make(now: Weights, labels: list[str]) -> Weights:
        limits, seed = st.session_state["m.random.range"], int(st.session_state["m.random.seed"])
        return editing.randomised(now, labels, *limits, seed, family)

    st.slider("Between", -1.0, 2.0, step=0.05, **held("m.random.range", (0.0, 1.0)))
    st.number_input("Seed", step=1, help="The same seed, the same weights.", **held("m.random.seed", 1))
    st.button(f"Randomise {where}", on_click=change(make), type="primary")


def _selected(weights: Weights) -> list[str]:
    return [label for label in st.session_state.get("m.selected", ()) if label in weights]


def _number(label: str, value: float, key: str) -> None:
    st.number_input(label, step=0.05, format="%.4g", **held(key, value))


def _history_buttons(parameter: str) -> None:
    undo = undo_of(parameter)

    def go(step: Callable[[Undo], Undo]) -> Callable[[], None]:
        return lambda: st.session_state.update({weights_key(parameter): step(undo_of(parameter))})

    st.button(":material/undo:", help="Undo", on_click=go(Undo.back), disabled=not undo.past)
    st.button(":material/redo:", help="Redo", on_click=go(Undo.forward), disabled=not undo.future)


def _paste_fields() -> None:
    example = "0,0.1,0.2,... or GRAD_V or IN04-IN08: 0.7; OUT*: 0.3"
    st.text_area("Paste weights", key="m.paste", height=120, placeholder=example, **KEEP)
    about = {name: f"{name}: {convention.about}" for name, convention in CONVENTIONS.items()}
    st.selectbox("Convention", list(CONVENTIONS), key="m.convention", format_func=about.get, **KEEP)


def _copy(weights: Weights, family: Family) -> None:
    convention = st.selectbox("Copy them as a vector for", list(CONVENTIONS), key="m.copy.convention", **KEEP)
    try:
        vector, wrong = editing.vector_of(weights, convention, family)
    except UnetscopeError as error:
        st.info(plain(error))
        return
    st.code(",".join(f"{x:.6g}" for x in vector), language=None, wrap_lines=True)
    if wrong:
        st.warning(
            f"This vector has no place for the weights of {plain(', '.join(wrong))}; there it says something else."
        )


def _table(parameter: str, weights: Weights) -> None:
    """The same weights as a table that can be edited: for the keyboard, and for those who cannot see the diagram."""
    with st.expander("Weights as a table", icon=":material/table:"):
        # Another name for other weights: what was typed into the old table is in them already.
        name = f"m.table.{parameter}.{hash(tuple(weights.values()))}"
        rows = [{"label": label, "weight": value} for label, value in weights.items()]
        config = {"weight": st.column_config.NumberColumn(step=0.01, format="%.4g", required=True)}
        st.data_editor(
            rows,
            key=name,
            hide_index=True,
            disabled=["label"],
            column_config=config,
            height=300,
            alt="Weight of each block",
            on_change=_table_edited,
            args=(name, parameter, weights),
        )


def _table_edited(key: str, parameter: str, weights: Weights) -> None:
    """Take over what was typed into the table; before the page is drawn, so that a click that came with it counts."""
    labels, changed = list(weights), dict(weights)
    for row, cells in st.session_state[key]["edited_rows"].items():
        if cells.get("weight") is not None:
            changed[labels[int(row)]] = float(cells["weight"])
    if changed != weights:
        keep_weights(parameter, changed)
