"""The parameters of a method as widgets of the Merge page. Session state holds their values, under `m.`.

Each method has values of its own: what was set for one is not another's, whose usual value may be quite different. Block weights
are shared by name, so that methods can be compared with the same ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import streamlit as st

from ..checkpoints.families import Family
from ..merge.methods import Method, MethodParameter
from .library import Entry
from .markdown import plain
from .weights_editing import Undo, Weights, even

KEEP = {"persist_state": "session"}
# Where a parameter has no usual value.
MIDDLE = 0.5
_SHARE_LIMITS = {"min_value": 0.0, "max_value": 1.0}


def held(key: str, usual: Any) -> dict[str, Any]:
    """Arguments of a widget whose value stays in session state, `usual` until somebody sets it: in the page or by loading a recipe.

    Streamlit takes a value from one place alone, its arguments or the state.
    """
    st.session_state.setdefault(key, usual)
    return {"key": key} | KEEP


def usual_number(parameter: MethodParameter) -> float:
    """What a parameter of kind `number` is until somebody sets it."""
    return MIDDLE if parameter.default is None else float(parameter.default)


def choose_parameters(method: Method, models: tuple[Entry, ...]) -> dict[str, Any]:
    """The parameters but for block weights: name -> value; a list of numbers, one a model; None where the diagram has it."""
    return {p.name: _parameter(p, method, models) for p in method.parameters.values()}


def keep_parameters(method: Method, models: Sequence[str], values: Mapping[str, Any]) -> None:
    """Set the widgets to these values. To be called before they are drawn.

    Args:
        models: the names of those that have a number each.
    """
    state = st.session_state
    for name, value in values.items():
        parameter = method.parameters[name]
        if parameter.kind == "numbers":
            state.update({f"m.each.{name}.{model}": weight for model, weight in zip(models, value, strict=True)})
            continue
        by_block = isinstance(value, Mapping)
        if parameter.kind == "number":
            state[f"m.by_block.{name}"] = by_block
        if by_block:
            keep_weights(name, dict(value))
        else:
            state[_key(method, parameter)] = float(value) if parameter.kind == "number" else value


def _key(method: Method, parameter: MethodParameter) -> str:
    return f"m.{parameter.kind}.{method.name}.{parameter.name}"


def _parameter(p: MethodParameter, method: Method, models: tuple[Entry, ...]) -> Any:
    key = _key(method, p)
    if p.kind == "switch":
        return st.checkbox(p.name, **held(key, bool(p.default)))
    if p.kind == "choice":
        return st.selectbox(p.name, p.choices, **held(key, p.choices[0] if p.default is None else p.default))
    if p.kind == "integer":
        return int(st.number_input(p.name, step=1, help="A whole number.", **held(key, p.default or 0)))
    if p.kind == "number":
        return _number(p, key)
    weighed = models[len(method.inputs) :] if method.variadic else models
    return [_number_of(p, entry) for entry in weighed]


def _number_of(p: MethodParameter, entry: Entry) -> float:
    """One of a list of numbers: that of a model."""
    usual = 1.0 if p.default is None else float(p.default)
    key = f"m.each.{p.name}.{entry.name}"
    return st.number_input(
        f"{p.name}: {plain(entry.name)}", step=0.05, format="%.4g", help=_help(p), **held(key, usual)
    )


def _number(p: MethodParameter, key: str) -> float | None:
    """A number, or None where the diagram has one for each block."""
    left, right = st.columns([1, 1], vertical_alignment="bottom")
    by_block = right.toggle(
        "by block",
        help=f"Set {p.name} for each block in the diagram.",
        **held(f"m.by_block.{p.name}", p.name == "alpha"),
    )
    value = left.number_input(
        p.name, step=0.01 if p.share else 0.05, format="%.4g", disabled=by_block, help=_help(p),
        **(_SHARE_LIMITS if p.share else {}), **held(key, usual_number(p)),
    )  # fmt: skip
    return None if by_block else value


def _help(p: MethodParameter) -> str:
    kind = "A share, from 0 to 1" if p.share else "Any number"
    return f"{kind}{'' if p.default is None else f'; usually {p.default:g}'}. *About this method* says what it does."


# -- block weights ----------------------------------------------------------------------------------------------------


def weights_key(parameter: str) -> str:
    """Where session state holds a parameter's block weights, as an `Undo`."""
    return f"m.weights.{parameter}"


def undo_of(parameter: str) -> Undo:
    """A parameter's block weights, with the way back."""
    return st.session_state.get(weights_key(parameter), Undo())


def keep_weights(parameter: str, weights: Weights) -> None:
    """Set a parameter's block weights, as a change that can be undone."""
    st.session_state[weights_key(parameter)] = undo_of(parameter).changed(dict(weights))


def weights_of(parameter: MethodParameter, family: Family) -> Weights:
    """A parameter's block weights for an architecture; what another architecture had and this one has is taken over.

    As long as nobody has touched them they are the method's usual value, which another method's is not.
    """
    undo, state = undo_of(parameter.name), st.session_state
    usual = usual_number(parameter)
    now, start = undo.now or {}, even(family, usual)
    began = f"m.began.{parameter.name}"
    untouched = not undo.past and not undo.future and set(now.values()) <= {state.get(began)}
    wanted = start if untouched else {label: now.get(label, usual) for label in start}
    if tuple(now.items()) != tuple(wanted.items()):
        state[weights_key(parameter.name)] = Undo(now=wanted)
    if untouched:
        state[began] = usual
    return wanted
