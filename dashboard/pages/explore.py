"""Explore: the diagram of an architecture or a file, and what is in the boxes that are clicked."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.wording import counted
from ..measure_view import offer
from ..measuring import STATISTICS, identity_for, kept_statistics
from ..page import Page, Scene
from ..subject import Subject, draw_subject, label_of, picture, rows_as, rows_of, svg_of
from ..subject_view import HEIGHT, LEVELS, choose_subject, say, shelf_or_none
from ..wording import amount, plain, printable

# More names than this do not go into the address.
_IN_ADDRESS = 40
_SHOWN = ("mean", "std", "min", "max", "zeros", "subnormal", "nan", "inf", "beyond_fp16")
_SHARES = ("zeros", "subnormal")


def show() -> None:
    """Draw the page."""
    st.title("Explore")
    first, second, third, fourth = st.columns([3, 2.2, 1.6, 1.1], vertical_alignment="bottom")
    subject = choose_subject(shelf_or_none(), first)
    if subject is None:  # what the address selects is of a file that is gone
        st.session_state["explore selected"] = ()
        return
    with second:
        level = st.radio("Level", list(LEVELS), key="level", bind="query-params", horizontal=True)
    block = _choose_block(subject, level, third)
    try:
        drawing = draw_subject(subject, LEVELS[level], block)
    except UnetscopeError as error:
        say(error)
        return
    with fourth:
        _downloads(subject, level, block, drawing)
    left, right = st.columns([3, 2], gap="small")
    with left:
        selected = _diagram(subject, level, drawing)
    with right:
        _details(subject, level, block, selected)


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


def _choose_block(subject: Subject, level: str, where) -> str | None:
    """The block whose layers are shown: at the layer level alone, since all of them together are thousands of boxes."""
    if level != "Layers":
        # The widget is gone for now; what it held stays.
        if "block" in st.session_state:
            st.session_state["explore block"] = st.session_state["block"]
        return None
    labels = list(subject.labels)
    wanted = st.session_state.get("block", st.session_state.get("explore block"))
    if wanted not in labels:
        wanted = "IN05" if "IN05" in labels else labels[0]
    # Until the widget was there once, what the page's address says comes first.
    start = {} if "block" in st.session_state else {"index": labels.index(wanted)}
    if not start:
        st.session_state["block"] = wanted
    return where.selectbox("Layers of", labels, key="block", bind="query-params", **start)


def _diagram(subject: Subject, level: str, drawing) -> tuple[str, ...]:
    """The diagram; what is selected in it is remembered, and in the page's address."""
    from ..diagram import unet_diagram

    if "explore selected" not in st.session_state:
        named = [name for name in st.query_params.get("selected", "").split(",") if name]
        st.session_state["explore selected"] = tuple(name for name in named if rows_of(subject, [name]))
    before = st.session_state["explore selected"]
    state = unet_diagram(svg_of(drawing), selected=before, height=HEIGHT, key=f"explore-{level.lower()}")
    st.session_state["explore selected"] = state.selected
    if state.selected and len(state.selected) <= _IN_ADDRESS:
        st.query_params["selected"] = ",".join(state.selected)
    elif "selected" in st.query_params:
        del st.query_params["selected"]
    return state.selected


def _downloads(subject: Subject, level: str, block: str | None, drawing) -> None:
    """The diagram and the list of layers as files."""
    name = "-".join(filter(None, (subject.title.rpartition(".")[0] or subject.name, block or level.lower())))
    rows = rows_of(subject, [block] if block else [])
    with st.popover("Download", width="stretch"):
        st.download_button(
            "Diagram, SVG",
            lambda: svg_of(draw_subject(subject, LEVELS[level], block, theme="auto")),
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


# -- the panel beside the diagram -------------------------------------------------------------------------------------


def _details(subject: Subject, level: str, block: str | None, selected: Sequence[str]) -> None:
    inside = [name for name in selected if rows_of(subject, [name])]
    rows = rows_of(subject, inside or ([block] if block else []))
    _headline(subject, level, block, inside, rows)
    if not inside and not block:
        _by_label(subject)
        return
    tensors, statistics = st.tabs(["Tensors", "Statistics and histogram"])
    with tensors:
        st.dataframe(
            [_row(row, subject) for row in rows],
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
        _statistics(subject, inside or [block], rows)


def _row(row: dict[str, Any], subject: Subject) -> dict[str, Any]:
    short = printable(subject.short(row["key"]))
    out = {"key": short, "shape": row["shape"], "parameters": row["params"], "kind": row["kind"], "label": row["label"]}
    return out | ({"dtype": row["dtype"]} if row["dtype"] else {})


def _headline(subject: Subject, level: str, block: str | None, selected: list[str], rows: list[dict[str, Any]]) -> None:
    """What the panel is about, how much it is, and the way down and back."""
    names = selected or ([block] if block else [])
    title = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    what = f"{subject.record.describe(names[0])} · " if len(names) == 1 and names[0] in subject.labels else ""
    total = sum(row["params"] for row in rows)
    st.markdown(f"**{plain(title or subject.title)}**")
    st.caption(plain(f"{what}{amount(total)} parameters in {counted(len(rows), 'tensor')}"))
    label = label_of(subject, selected[0]) if selected else None
    down, up = st.columns(2)
    if level != "Layers" and label in subject.labels:
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


def _by_label(subject: Subject) -> None:
    """The text alternative to the whole diagram: a row for each block."""
    st.caption("Click a block to see its tensors; Shift-click for several. The table says the same in words.")
    totals: dict[str, list[int]] = {}
    for row in rows_of(subject, []):
        count = totals.setdefault(row["label"], [0, 0])
        count[0] += 1
        count[1] += row["params"]
    table = [
        {
            "block": label,
            "parameters": params,
            "tensors": tensors,
            "what": subject.record.describe(label) if subject.record else "",
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


def _statistics(subject: Subject, names: Sequence[str], rows: list[dict[str, Any]]) -> None:
    if not subject.path:
        st.info("An architecture has shapes and no values. Choose a file of the library above to see its statistics.")
        return
    identity = identity_for("statistics", [subject.identity])
    title = f"Statistics of {subject.name}"
    help = "Reads the file once, in the background, and remembers the result until the file changes."
    if not offer("statistics", identity, title, {"file": subject.path}, "Measure all values of this file", help=help):
        return
    from ..histogram import value_histogram

    found = kept_statistics(subject.identity)
    labels = list(dict.fromkeys(row["label"] for row in rows))
    st.altair_chart(
        value_histogram({x: found.histograms[x] for x in labels[:6] if x in found.histograms}), width="stretch"
    )
    whole = all(name in subject.labels for name in names)
    st.caption(
        f"Histogram of all values of {', '.join(labels[:6])}"
        + ("" if whole else ", the blocks around the selection")
        + "."
    )
    table = found.table("tensor")
    table = table[table["key"].isin([row["key"] for row in rows])]
    table = table.assign(key=table["key"].map(subject.short))
    st.dataframe(
        table[["key", *_SHOWN]],
        hide_index=True,
        column_config={"key": st.column_config.TextColumn(width=200)}
        | {name: st.column_config.NumberColumn(format="percent") for name in _SHARES}
        | {name: st.column_config.NumberColumn(format="%.4g") for name in ("mean", "std", "min", "max")},
        key="explore statistics",
        alt="Statistics of the selected tensors",
    )
