"""The clickable diagram: an SVG of the diagrams room with zoom, search, selection, weight handles and live prediction.

The SVG travels to the page once; afterwards only colours, weights and the selection do. Nothing reruns while a weight is
dragged: values arrive when it is released.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypedDict

import streamlit as st

_FOLDER = Path(__file__).parent / "diagram_component"
# The parts of the component's script, in the order in which they are joined into one module.
_SCRIPT = ("view.js", "items.js", "weights.js", "shares.js", "prediction.js", "diagram.js")


class DistancePrediction(TypedDict, total=False):
    """What the page needs to predict distances of a merge that was never run.

    The result of a block whose weight is w is x = at_zero + w * per_weight, a share for each model; its squared distance to
    model j is x'Gx - 2 (Gx)_j + G_jj, which is shown as a share of model j's own norm.

    Keys:
        labels: block label -> N x N inner products of the models' values in that block.
        models: N names, for people.
        at_zero: N shares at weight 0; by default all of the first model.
        per_weight: what a weight adds to each share; by default it moves from the first model to the second.
        target: the position of the model whose distance colours the boxes; people can choose another.
    """

    labels: Mapping[str, Sequence[Sequence[float]]]
    models: Sequence[str]
    at_zero: Sequence[float]
    per_weight: Sequence[float]
    target: int


@dataclass(frozen=True)
class DiagramState:
    """What the page holds.

    Attributes:
        selected: the names of the selected boxes: block labels, module paths or tensor keys, whatever the level shows.
        weights: label -> weight, as of the last release; empty unless the diagram is editable.
        changed: whether the user did something in the diagram since the run before this one.
    """

    selected: tuple[str, ...]
    weights: dict[str, float]
    changed: bool = False


def unet_diagram(
    svg: str,
    *,
    fills: Mapping[str, str] | None = None,
    printed: Mapping[str, str] | None = None,
    weights: Mapping[str, float] | None = None,
    editable: bool = False,
    limits: tuple[float, float] = (0.0, 1.0),
    selected: Sequence[str] = (),
    gram: DistancePrediction | None = None,
    shares: Mapping[str, Sequence[tuple[float, str]]] | None = None,
    legend: Sequence[tuple[str, str]] = (),
    height: int = 700,
    key: str,
) -> DiagramState:
    """Show a diagram that can be panned, zoomed, searched and clicked, and whose boxes may carry weights.

    What the user does wins over the arguments of the same run; an argument that changes afterwards wins over the user. So
    a page can let the diagram keep its own state, or store what it returns and pass it in again.

    Args:
        svg: from `diagrams.draw(...).svg`, never from anywhere else. Draw it with `badges={label: 0.0, ...}` to leave room
            for the weight handles of these labels.
        fills: `#rrggbb` by box (label, module path, tensor key, or the id of its element); "" takes the drawn colour.
        printed: what stands in the box as its value.
        weights: the weight of each label that has a handle.
        editable: whether weights can be changed.
        limits: the least and largest weight.
        selected: names of boxes to select.
        gram: what live prediction needs; see `DistancePrediction`.
        shares: label -> what it is made of, as (share, `#rrggbb`), drawn as a stacked bar in its box (which needs the room of
            a badge); shares below 0 are drawn pale.
        legend: (`#rrggbb`, words) for the colours of `fills` and `shares`.
        height: pixels.
        key: unique name in the app; zoom is remembered under it.
    """
    digest = hashlib.sha256(svg.encode()).hexdigest()[:16]
    state = _merged(key, tuple(selected), dict(weights or {}))
    data = {
        "name": key,
        "svg": digest,
        "fills": dict(fills or {}),
        "printed": dict(printed or {}),
        "weights": state["weights"],
        "editable": editable,
        "limits": list(limits),
        "selected": list(state["selected"]),
        "turn": state["turn"],
        "gram": _plain(gram),
        "shares": {label: [[float(n), colour] for n, colour in parts] for label, parts in (shares or {}).items()},
        "legend": [list(entry) for entry in legend],
        "height": height,
    }
    with st.container(gap=None):
        _store()(data={"digest": digest, "svg": svg}, key=f"{key}:svg")
        _component()(data=data, key=key, on_page_change=_nothing)
    return DiagramState(state["selected"], dict(state["weights"]) if weights is not None else {}, state["changed"])


def last_act(key: str, selected: Sequence[str], weights: Mapping[str, float]) -> DiagramState:
    """What the user did in a diagram since the last run, before it is drawn, so that what stands above it can know.

    Who takes it over draws the diagram with it; `unet_diagram` then says that nothing changed. A page that draws first and runs
    again instead loses the click that came with it.

    Args:
        key, selected, weights: of `unet_diagram`.
    """
    state = _merged(key, tuple(selected), dict(weights))
    return DiagramState(state["selected"], dict(state["weights"]), state["changed"])


def _nothing() -> None:
    """A state of the page needs a callback to exist."""


def _merged(key: str, selected: tuple[str, ...], weights: dict[str, float]) -> dict[str, Any]:
    """What is selected and how heavy blocks are: the user's last act if it is new, else arguments if they changed."""
    given = (selected, weights)
    kept = st.session_state.get(f"{key}:kept")
    if kept is None:
        kept = {"selected": selected, "weights": weights, "turn": 0, "given": given}
    state = {**kept, "changed": False}
    page = _from_page(st.session_state.get(key))
    if page and page["turn"] > kept["turn"]:
        state |= page | {"changed": True}
        state["weights"] = {x: page["weights"].get(x, w) for x, w in weights.items()}
    else:
        state |= {n: v for n, v, old in zip(("selected", "weights"), given, kept["given"], strict=True) if v != old}
    state["given"] = given
    st.session_state[f"{key}:kept"] = {name: state[name] for name in ("selected", "weights", "turn", "given")}
    return state


def _from_page(value: Any) -> dict[str, Any] | None:
    """What the page sent, checked: anything may come over a socket."""
    page = value.get("page") if isinstance(value, Mapping) else None
    if not isinstance(page, Mapping) or not isinstance(page.get("turn"), int | float):
        return None
    names = page.get("selected")
    numbers = page.get("weights")
    return {
        "turn": int(page["turn"]),
        "selected": tuple(str(n) for n in names) if isinstance(names, Sequence) and not isinstance(names, str) else (),
        "weights": {str(k): float(v) for k, v in numbers.items() if isinstance(v, int | float)}
        if isinstance(numbers, Mapping)
        else {},
    }


def _plain(gram: DistancePrediction | None) -> dict[str, Any] | None:
    """The Gram matrices as JSON, with defaults and the palette that the page colours with."""
    if gram is None:
        return None
    from ..diagrams.palette import VIRIDIS

    count = len(gram["models"])
    return {
        "labels": {label: [[float(v) for v in row] for row in matrix] for label, matrix in gram["labels"].items()},
        "models": [str(name) for name in gram["models"]],
        "at_zero": list(gram.get("at_zero") or [1.0] + [0.0] * (count - 1)),
        "per_weight": list(gram.get("per_weight") or [-1.0, 1.0] + [0.0] * (count - 2)),
        "target": int(gram.get("target", 0)),
        "palette": ["#" + "".join(f"{c:02x}" for c in rgb) for rgb in VIRIDIS],
    }


@cache
def _component():
    """The diagram, registered once."""
    from ..diagrams.theme import stylesheet

    css = (_FOLDER / "diagram.css").read_text(encoding="utf-8") + stylesheet("light") + stylesheet("dark")
    script = "\n".join((_FOLDER / name).read_text(encoding="utf-8") for name in _SCRIPT)
    html = (_FOLDER / "diagram.html").read_text(encoding="utf-8")
    return st.components.v2.component("unetscope_diagram", html=html, css=css, js=script)


@cache
def _store():
    """An invisible component that hands the SVG to the page, apart from everything that changes."""
    script = (_FOLDER / "store.js").read_text(encoding="utf-8")
    return st.components.v2.component("unetscope_diagram_svg", js=script)
