"""Explore: the diagram of an architecture or a file, and what is in the boxes that are clicked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.text import amount, counted, listed, printable
from ..drawable import Drawable, drawing_of, label_of, picture, rows_as, rows_of, svg_of
from ..drawable_choice import HEIGHT, LEVELS, choose_drawable, library_or_empty, say
from ..job_view import offer
from ..markdown import plain
from ..measuring import STATISTICS, kept_statistics
from ..page import Page, Scene

# More names than this do not go into the address.
_IN_ADDRESS = 40
_SHOWN = ("mean", "std", "min", "max", "zeros", "subnormal", "nan", "inf", "beyond_fp16")
_SHARES = ("zeros", "subnormal")


def show() -> None:
    """Draw the page."""
    st.title("Explore")
    first, second, third, fourth = st.columns([3, 2.2, 1.6, 1.1], vertical_alignment="bottom")
    drawable = choose_drawable(library_or_empty(), first)
    if drawable is None:  # what the address selects is of a file that is gone
        st.session_state["explore selected"] = ()
        return
    with second:
        level = st.radio("Level", list(LEVELS), key="level", bind="query-params", horizontal=True)
    block = _choose_block(drawable, level, third)
    try:
        drawing = drawing_of(drawable, LEVELS[level], block)
    except UnetscopeError as error:
        say(error)
        return
    with fourth:
        _downloads(drawable, level, block, drawing)
    left, right = st.columns([3, 2], gap="small")
    with left:
        selected = _diagram(drawable, level, drawing)
    with right:
        _details(drawable, level, block, selected)


PAGE = Page(
    id="explore",
    title="Explore",
    icon=":material/account_tree:",
    show=show,
    order=20,
    tasks=(STATISTICS,),
    scenes=(Scene("explore", "?of=sd1-photo.safetensors&selected=IN05"),),
    needs=(
        "unetscope.dashboard.diagram",
        "unetscope.diagrams",
    ),
)


def _choose_block(drawable: Drawable, level: str, where) -> str | None:
    """The block whose layers are shown: at the layer level alone, since all of them together are thousands of boxes."""
    if level != "Layers":
        # The widget is gone for now; what it held stays.
        if "block" in st.session_state:
            st.session_state["explore block"] = st.session_state["block"]
        return None
    labels = list(drawable.labels)
    wanted = st.session_state.get("block", st.session_state.get("explore block"))
    if wanted not in labels:
        wanted = "IN05" if "IN05" in labels else labels[0]
    # Until the widget was there once, what the page's address says comes first.
    start = {} if "block" in st.session_state else {"index": labels.index(wanted)}
    if not start:
        st.session_state["block"] = wanted
    return where.selectbox("Layers of", labels, key="block", bind="query-params", **start)


def _diagram(drawable: Drawable, level: str, drawing) -> tuple[str, ...]:
    """The diagram; what is selected in it is remembered, and in the page's address."""
    from ..diagram import unet_diagram

    if "explore selected" not in st.session_state:
        named = [name for name in st.query_params.get("selected", "").split(",") if name]
        st.session_state["explore selected"] = tuple(name for name in named if rows_of(drawable, [name]))
    before = st.session_state["explore selected"]
    state = unet_diagram(svg_of(drawing), selected=before, height=HEIGHT, key=f"explore-{level.lower()}")
    st.session_state["explore selected"] = state.selected
    if state.selected and len(state.selected) <= _IN_ADDRESS:
        st.query_params["selected"] = ",".join(state.selected)
    elif "selected" in st.query_params:
        del st.query_params["selected"]
    return state.selected


def _downloads(drawable: Drawable, level: str, block: str | None, drawing) -> None:
    """The diagram and the list of layers as files."""
    name = "-".join(filter(None, (drawable.title.rpartition(".")[0] or drawable.name, block or level.lower())))
    rows = rows_of(drawable, [block] if block else [])
    with st.popover("Download", width="stretch"):
        st.download_button(
            "Diagram, SVG",
            lambda: svg_of(drawing_of(drawable, LEVELS[level], block, theme="auto")),
            f"{name}.svg",
            "image/svg+xml",
            on_click="ignore",
        )
        st.download_button(
            "Diagram, PNG", lambda: picture(drawing, ".png"), f"{name}.png", "image/png", on_click="ignore"
        )
        st.download_button(
            f"{counted(len(rows), 'layer')}, CSV",
            lambda: rows_as(rows, "csv"),
            f"{name}.csv",
            "text/csv",
            on_click="ignore",
        )
        st.download_button(
            f"{counted(len(rows), 'layer')}, JSON",
            lambda: rows_as(rows, "json"),
            f"{name}.json",
            "application/json",
            on_click="ignore",
        )


# -- the panel next to the diagram -------------------------------------------------------------------------------------


def _details(drawable: Drawable, level: str, block: str | None, selected: Sequence[str]) -> None:
    inside = [name for name in selected if rows_of(drawable, [name])]
    rows = rows_of(drawable, inside or ([block] if block else []))
    _headline(drawable, level, block, inside, rows)
    if not inside and not block:
        _by_label(drawable)
        return
    tensors, statistics = st.tabs(["Tensors", "Statistics and histogram"])
    with tensors:
        st.dataframe(
            [_row(row, drawable) for row in rows],
            hide_index=True,
            height=min(HEIGHT - 160, 38 + 35 * len(rows)),
            column_config={
                "key": st.column_config.TextColumn(width=230),
                "parameters": st.column_config.NumberColumn(format="localized"),
            },
            key="explore tensors",
            alt="The tensors of the selected boxes",
        )
    with statistics:
        _statistics(drawable, inside or [block], rows)


def _row(row: dict[str, Any], drawable: Drawable) -> dict[str, Any]:
    short = printable(drawable.short(row["key"]))
    out = {"key": short, "shape": row["shape"], "parameters": row["params"], "kind": row["kind"], "label": row["label"]}
    return out | ({"dtype": row["dtype"]} if row["dtype"] else {})


def _headline(
    drawable: Drawable, level: str, block: str | None, selected: list[str], rows: list[dict[str, Any]]
) -> None:
    """What the panel is about, how much it is, and the way down and back."""
    names = selected or ([block] if block else [])
    title = listed(names, 4)
    what = f"{drawable.record.describe(names[0])} · " if len(names) == 1 and names[0] in drawable.labels else ""
    total = sum(row["params"] for row in rows)
    st.markdown(f"**{plain(title or drawable.title)}**")
    st.caption(plain(f"{what}{amount(total)} parameters in {counted(len(rows), 'tensor')}"))
    label = label_of(drawable, selected[0]) if selected else None
    down, up = st.columns(2)
    if level != "Layers" and label in drawable.labels:
        down.button(
            f"Layers of {label}", icon=":material/zoom_in:", on_click=_open, args=("Layers", label), width="stretch"
        )
    if level != "Blocks":
        up.button(
            "All blocks", icon=":material/arrow_back:", on_click=_open, args=("Blocks", label or block), width="stretch"
        )


def _open(level: str, label: str | None) -> None:
    """Go to a level; what was selected becomes the block that it is in."""
    st.session_state["level"] = level
    if label and level == "Layers":
        st.session_state["block"] = label
    st.session_state["explore selected"] = (label,) if label and level != "Layers" else ()


def _by_label(drawable: Drawable) -> None:
    """The text alternative to the whole diagram: a row for each block."""
    st.caption("Click a block to see its tensors; Shift-click for several. The table says the same in words.")
    totals: dict[str, list[int]] = {}
    for row in rows_of(drawable, []):
        count = totals.setdefault(row["label"], [0, 0])
        count[0] += 1
        count[1] += row["params"]
    table = [
        {
            "block": label,
            "parameters": params,
            "tensors": tensors,
            "what": drawable.record.describe(label) if drawable.record else "",
        }
        for label, (tensors, params) in totals.items()
    ]
    st.dataframe(
        table,
        hide_index=True,
        height=HEIGHT - 120,
        column_config={"parameters": st.column_config.NumberColumn(format="localized")},
        key="explore blocks",
        alt="The blocks of the diagram",
    )


def _statistics(drawable: Drawable, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
    if not drawable.path:
        st.info("An architecture has shapes and no values. Choose a file of the library above to see its statistics.")
        return
    title = f"Statistics of {drawable.name}"
    help = "Reads the file once, in the background, and remembers the result until the file changes."
    key = offer("statistics", title, {"file": drawable.path}, "Measure all values of this file", help=help)
    if key is None:
        return
    from ..histogram import value_histogram

    found = kept_statistics(key)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    st.altair_chart(
        value_histogram({x: found.histograms[x] for x in labels[:6] if x in found.histograms}), width="stretch"
    )
    whole = all(name in drawable.labels for name in names)
    st.caption(
        f"Histogram of all values of {', '.join(labels[:6])}"
        + ("" if whole else ", the blocks around the selection")
        + "."
    )
    table = found.table("tensor")
    table = table[table["key"].isin([row["key"] for row in rows])]
    table = table.assign(key=table["key"].map(drawable.short))
    st.dataframe(
        table[["key", *_SHOWN]],
        hide_index=True,
        column_config={"key": st.column_config.TextColumn(width=200)}
        | {name: st.column_config.NumberColumn(format="percent") for name in _SHARES}
        | {name: st.column_config.NumberColumn(format="%.4g") for name in ("mean", "std", "min", "max")},
        key="explore statistics",
        alt="Statistics of the selected tensors",
    )
