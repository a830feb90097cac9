"""Compare: what one checkpoint changed against another, on the diagram, as a heatmap and as a table."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.text import file_size, listed
from ..choices import Choices, why_not
from ..drawable import Drawable, drawing_of, opened, rows_of, svg_of, tensor_rows
from ..drawable_choice import LEVELS, say
from ..job_view import offer
from ..library import Entry, Library
from ..markdown import plain
from ..measuring import DIFFERENCE, kept_difference
from ..page import Page, Scene
from ..results import kept
from ..shell import library_of, link_to, require_folders

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

    from ...analysis.difference import Difference

_HEIGHT = 560
_NONE = "none"
# A histogram of more values than this looks no different.
_SAMPLE = 1_000_000


def show() -> None:
    """Draw the page."""
    st.title("Compare")
    folders = require_folders()
    library = library_of(folders)
    models = library.models
    if len(models) < 2:
        st.info(
            "Comparing takes two checkpoints, and the models folder has fewer. Add some, or make the demo checkpoints."
        )
        link_to("library", "To the library")
        return
    *where, last = st.columns(4)
    a, b, base = _choose(library, where)
    if a is None or b is None:
        return
    if a.name == b.name:
        st.info("A and B are the same file. Choose another one for B.")
        return
    reads = sum(entry.size for entry in (a, b, base) if entry)
    arguments = {"a": a.path, "b": b.path, "base": base.path if base else None}
    title = f"Compare {Path(b.name).name} with {Path(a.name).name}"
    if key := offer("difference", title, arguments, f"Compare (reads {file_size(reads)})"):
        _result(a, b, key, last)


PAGE = Page(
    id="compare",
    title="Compare",
    icon=":material/compare:",
    show=show,
    order=30,
    tasks=(DIFFERENCE,),
    scenes=(Scene("compare", "?a=sd1-base.safetensors&b=sd1-photo.safetensors", click="Compare"),),
    needs=("numpy", "unetscope.dashboard.diagram", "unetscope.diagrams"),
)


def _choose(library: Library, where) -> tuple[Entry | None, Entry | None, Entry | None]:
    one, two, three = where
    choices, models, bound = Choices(why_not(library)), library.models, {"bind": "query-params"}
    names = [entry.name for entry in models]
    a = library.named(choices.one("A: compared with", names, "a", proposal=names[0], where=one, **bound))
    alike = [entry for entry in models if a and entry.family == a.family]
    alike = alike if len(alike) > 1 else list(models)
    other = min(
        range(len(alike)), key=lambda i: (alike[i] == a, a is not None and alike[i].model != a.model), default=0
    )
    names, unfit = (
        [entry.name for entry in alike],
        f"does not go with A ({a.architecture}); choose another" if a else "",
    )
    b = choices.one(
        "B: what changed", names, "b", proposal=names[other], basis=a and a.name, unfit=unfit, where=two, **bound
    )
    base = choices.one(
        "C: common base", [_NONE, *names], "c", usual=_NONE, unfit=unfit, where=three, **bound,
        help="What A and B were both tuned from. With it you learn whether they pull the same way and merge well.",
    )  # fmt: skip
    choices.stop_if_gone()
    return a, library.named(b), library.named(base)


def _result(a: Entry, b: Entry, key: str, where) -> None:
    # What draws charts takes long to import, and a page that has none to draw need not wait for it.
    from ...analysis.metrics import BASE_METRICS, PAIR_METRICS
    from ..heatmap import colour_range, heatmap

    found = _found(key)
    metrics = {name: (PAIR_METRICS | BASE_METRICS)[name] for name in found.metrics}
    metric = where.selectbox(
        "Colour by", list(metrics), format_func=lambda name: metrics[name].title, key="metric", bind="query-params"
    )
    _sentences(key)
    drawable = Drawable.of_entry(a)
    one, two, three = st.columns([3, 2, 1.2], vertical_alignment="center")
    one.caption(f"{plain(metrics[metric].title)}: {plain(metrics[metric].meaning)}.")
    level = two.radio("Level", list(LEVELS), key="compare level", horizontal=True, label_visibility="collapsed")
    block = _block(drawable, level, three)
    kinds = _by_kind(key)
    ends = colour_range(kinds, metric, metrics[metric].log)
    left, right = st.columns([1, 1], gap="small")
    with left:
        _diagram(drawable, key, metric, metrics[metric], ends, level, block)
    selected, kind = st.session_state.get("compare selected", ()), st.session_state.get("compare kind")
    with right:
        chart = heatmap(
            kinds, metric, metrics[metric].title, log=metrics[metric].log, ends=ends,
            labels=_labels(drawable, selected), kind=kind, height=_HEIGHT,
        )  # fmt: skip
        st.altair_chart(
            chart, width="stretch", on_select=_cell_clicked, key="compare cells", alt="Heatmap of the differences"
        )
        st.caption("A row for each kind of layer, a column for each block; grey where there is no such layer.")
    _table(a, b, drawable, found, metric, selected, kind)


# What was measured under a key never changes, and a click should not wait for it to be read and summed again.


@lru_cache(maxsize=4)
def _found(key: str) -> Difference:
    return kept_difference(key)


@lru_cache(maxsize=4)
def _by_kind(key: str) -> pd.DataFrame:
    return _found(key).table("kind")


@lru_cache(maxsize=32)
def _values(key: str, metric: str, level: str, drawable: Drawable) -> dict[str, float | None]:
    return values_at(_found(key), metric, level, drawable)


def _sentences(key: str) -> None:
    from ...analysis.summary import IDENTICAL

    said = (kept("difference", key) or {}).get("sentences") or ["Nothing differs."]
    order = sorted(said, key=lambda sentence: sentence.startswith(IDENTICAL))
    with st.expander(plain(order[0]), expanded=False, icon=":material/notes:"):
        for sentence in order[1:] or ["There is no more to say."]:
            st.markdown(plain(sentence))


def _block(drawable: Drawable, level: str, where) -> str | None:
    """The block whose layers are shown at the layer level: the selected one."""
    if level != "Layers" or not drawable.labels:
        return None
    chosen = next(iter(_labels(drawable, st.session_state.get("compare selected", ()))), None)
    labels = list(drawable.labels)
    if chosen in labels or st.session_state.get("compare block") not in labels:
        st.session_state["compare block"] = chosen if chosen in labels else labels[0]
    return where.selectbox("Layers of", labels, key="compare block", label_visibility="collapsed")


def _labels(drawable: Drawable, selected: tuple[str, ...]) -> list[str]:
    """The blocks of the selected boxes."""
    if not selected or all(name in drawable.labels for name in selected):
        return list(selected)
    return list(dict.fromkeys(row["label"] for row in rows_of(drawable, selected)))


def _diagram(drawable: Drawable, key: str, metric: str, shown, ends, level: str, block: str | None) -> None:
    """The diagram in the metric's colours; a click on it selects, and forgets the kind of layer chosen in the heatmap."""
    from ..diagram import unet_diagram

    if drawable.family is None:
        st.info("There is no diagram for this kind of file; the heatmap and the table say the same.")
        return
    values, found = _values(key, metric, level, drawable), _found(key)
    if block:  # where a metric is undefined throughout, boxes are grey
        inside = {row["key"] for row in rows_of(drawable, [block])}
        values = {name: value for name, value in values.items() if name in inside}
    try:
        drawing = drawing_of(
            drawable, LEVELS[level], block, values=values, units=shown.title, title=f"{found.b} against {found.a}",
            scale="log" if shown.log else "linear", value_range=ends,
        )  # fmt: skip
    except UnetscopeError as error:
        say(error)
        return
    before = st.session_state.get("compare selected", ())
    state = unet_diagram(svg_of(drawing), selected=before, height=_HEIGHT, key=f"compare-{level.lower()}")
    if state.changed:
        st.session_state["compare selected"], st.session_state["compare kind"] = state.selected, None


def values_at(found: Difference, metric: str, level: str, drawable: Drawable) -> dict[str, float | None]:
    """What colours each box of a level; None where the files have it in different shapes or one lacks it."""
    import numpy as np

    if level == "Layers":
        table, name, lost = found.table("tensor"), "key", found.left_out["key"]
    elif level == "Modules":
        modules = {row["key"]: row["module"] or row["label"] for row in tensor_rows(drawable)}
        # Sums are taken over a module's tensors and divided then, as everywhere: a module stands where labels do.
        terms = found.terms.assign(label=found.terms["key"].map(lambda key: _unit(modules.get(key, ""))))
        table, name, lost = replace(found, terms=terms).table("label"), "label", []
    else:
        table, name = found.table("label"), "label"
        lost = [label for label in found.left_out["label"] if label not in set(table["label"])]
    values = {
        row[name]: float(row[metric]) for row in table[[name, metric]].to_dict("records") if np.isfinite(row[metric])
    }
    return values | dict.fromkeys(lost)


def _unit(module: str) -> str:
    """The ResNet, transformer... that a module is part of, or the module itself at the top of the network."""
    parts = module.split(".")
    deep = {"down_blocks": 4, "up_blocks": 4, "mid_block": 3}.get(parts[0], 1)
    return ".".join(parts[:deep])


def _cell_clicked() -> None:
    """A click in the heatmap selects its block, and its kind of layer in the table."""
    from ..heatmap import clicked

    cell = clicked(st.session_state.get("compare cells"))
    st.session_state["compare selected"] = (cell[0],) if cell else ()
    st.session_state["compare kind"] = cell[1] if cell else None


def _table(
    a: Entry, b: Entry, drawable: Drawable, found: Difference, metric: str, selected: tuple[str, ...], kind: str | None
) -> None:
    """The tensors of the selection; choosing one shows its values."""
    table = tensors_of(found, metric, drawable, selected, kind)
    what = listed(selected, 4)
    head, clear, save = st.columns([4, 1, 1], vertical_alignment="bottom")
    words = f"Tensors of {plain(what)}" if selected else "All tensors, the most different first"
    head.subheader(words + (f", {plain(kind)} only" if kind else ""))
    if selected:
        clear.button("Show all", on_click=_clear, width="stretch")
    save.download_button(
        "CSV", lambda: table.to_csv(index=False), "difference.csv", "text/csv", icon=":material/download:",
        on_click="ignore", width="stretch", disabled=table.empty,
    )  # fmt: skip
    if table.empty:
        st.info("Both files have no tensor in common here. The notes above say what one of them lacks.")
        return
    shown = table.assign(key=table["key"].map(drawable.short))
    event = st.dataframe(
        shown, hide_index=True, height=min(420, 38 + 35 * len(shown)), on_select="rerun", selection_mode="single-row",
        key=f"compare tensors {hash((a.identity, b.identity, selected, kind, metric))}",
        column_config=_columns(found),
        alt="The tensors of the selection with every metric",
    )  # fmt: skip
    rows = event.selection.rows
    if rows and rows[0] < len(table):
        _histograms(a, b, table.iloc[rows[0]]["key"])
    else:
        st.caption(
            "Choose a row (the box at its left) to see the histogram of its values in A, in B, and of the difference."
        )


def _columns(found: Difference) -> dict[str, object]:
    """Titles and meanings of the metrics, as the table's heads."""
    from ...analysis.metrics import BASE_METRICS, PAIR_METRICS

    metrics = PAIR_METRICS | BASE_METRICS
    return {
        name: st.column_config.NumberColumn(metrics[name].title, help=plain(metrics[name].meaning), format="%.3e")
        for name in found.metrics
    }


def tensors_of(
    found: Difference, metric: str, drawable: Drawable, selected: tuple[str, ...], kind: str | None
) -> pd.DataFrame:
    """The rows of a selection, the metric first, the most different at the top."""
    table = found.table("tensor", sort=metric)
    if selected:
        keys = {row["key"] for row in rows_of(drawable, selected)} if drawable.labels else set()
        table = table[table["key"].isin(keys) | table["label"].isin(selected)]
    if kind:
        table = table[table["kind"] == kind]
    front = ["key", metric, "label", "kind", "shape", "parameters", "dtypes"]
    return table[[*front, *(c for c in table.columns if c not in front and c != "component")]]


def _clear() -> None:
    st.session_state["compare selected"], st.session_state["compare kind"] = (), None


def _histograms(a: Entry, b: Entry, key: str) -> None:
    from ..histogram import sample_histogram

    st.markdown(f"**{plain(key)}**")
    values = _sampled(a.path, a.identity, b.path, b.identity, key)
    one, two = st.columns(2)
    one.altair_chart(sample_histogram({"A": values[0], "B": values[1]}), width="stretch")
    two.altair_chart(sample_histogram({"B − A": values[1] - values[0]}), width="stretch")
    if values[0].size == _SAMPLE:
        st.caption(f"From {_SAMPLE:,} values, evenly spread over the tensor.")


@st.cache_data(max_entries=16, show_spinner="Reading the tensor")
def _sampled(a: str, a_identity: str, b: str, b_identity: str, key: str) -> np.ndarray:
    """The same values of a tensor in both files: 2 x n, float32."""
    import numpy as np

    both = [opened(path, identity).numpy(key).reshape(-1) for path, identity in ((a, a_identity), (b, b_identity))]
    size = both[0].size
    at = slice(None) if size <= _SAMPLE else np.linspace(0, size - 1, _SAMPLE).astype(np.int64)
    return np.stack([np.asarray(values[at], np.float32) for values in both])
