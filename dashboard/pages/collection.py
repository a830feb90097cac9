"""Collection: many models at once: who is near whom, which are equal, which parts are shared."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import streamlit as st

from ...checkpoints.families import short_title
from ...checkpoints.text import counted, file_size
from ..choices import Choices, why_not
from ..job_view import offer
from ..library import Entry, Library
from ..markdown import plain
from ..measuring import COMPARISON, kept_comparison
from ..page import Page, Scene
from ..shell import library_of, link_to, require_folders

if TYPE_CHECKING:
    from ...analysis.collection import Comparison

# So many models are chosen to begin with.
_AT_FIRST = 12
_NONE = "none"


def show() -> None:
    """Draw the page."""
    st.title("Collection")
    folders = require_folders()
    library = library_of(folders)
    models = library.models
    if len(models) < 2:
        st.info(
            "A collection takes two checkpoints or more. Add some to the models folder, or make the demo checkpoints."
        )
        link_to("library", "To the library")
        return
    chosen, reference = _choose(library)
    if len(chosen) < 2:
        st.info("Choose two models or more.")
        return
    arguments = {"files": [entry.path for entry in chosen], "reference": reference.path if reference else None}
    reads = file_size(sum(entry.size for entry in chosen))
    help = "One pass reads every file once, in the background; the result is remembered until a file changes."
    button = f"Compare {len(chosen)} models (reads {reads})"
    if key := offer("comparison", f"Compare {len(chosen)} models", arguments, button, help=help):
        _result(kept_comparison(key))


PAGE = Page(
    id="collection",
    title="Collection",
    icon=":material/scatter_plot:",
    show=show,
    order=60,
    tasks=(COMPARISON,),
    scenes=(Scene("collection", click="Compare"),),
)


def _choose(library: Library) -> tuple[list[Entry], Entry | None]:
    """The models, sorted by name so that the same choice is the same collection, and the reference among them."""
    choices, models = Choices(why_not(library)), library.models
    most = Counter(entry.model for entry in models).most_common(1)[0][0]
    first = [entry.name for entry in models if entry.model == most][:_AT_FIRST]
    left, right = st.columns([3, 1])
    names = choices.many(
        "Models", [entry.name for entry in models], "collection models", proposal=first, where=left,
        help="Models of one architecture, for only tensors that all of them have are compared.",
    )  # fmt: skip
    chosen = sorted((entry for entry in models if entry.name in names), key=lambda entry: entry.name)
    seen_from = choices.one(
        "Seen from", [_NONE, *(entry.name for entry in chosen)], "collection reference", usual=_NONE, where=right,
        unfit="is not among the models any more; choose another",
        help="A common base: cosines are then those of the changes from it, which tell more than cosines of whole weights.",
    )  # fmt: skip
    choices.stop_if_gone()
    return chosen, next((entry for entry in chosen if entry.name == seen_from), None)


def _result(found: Comparison) -> None:
    from ..collection_charts import map_chart, tree_chart

    groups = {"All weights": "model"}
    groups |= {f"Component {short_title(name)}": name for name in found.groups("component")}
    groups |= {f"Block {name}": name for name in found.groups("label")}
    left, right = st.columns([1, 3], vertical_alignment="bottom")
    shown = left.selectbox("Of what", list(groups), key="collection of", bind="query-params")
    group = groups[shown]
    right.caption(
        f"{counted(found.parameters[group], 'parameter')} that all of them have; {counted(len(found.left_out), 'tensor')} left out."
    )
    if found.not_finite:
        st.warning(plain(f"NaN or infinite weights, so without distances: {', '.join(found.not_finite)}"))
    if len(found.finite(found.distances(group))) < 2:
        st.info(
            "Fewer than two of these models have finite weights here, so there is nothing to compare. Choose others."
        )
        return
    views = st.tabs(["Map", "Matrix", "Tree", "Shared parts", "Neighbours"])
    with views[0]:
        st.altair_chart(map_chart(found, group), width="stretch", key="collection map", alt="Map of the models")
        share = found.map(group).attrs["shown"]
        st.caption(
            f"Near is alike: the two axes show {share:.0%} of all squared distance. Equal models share a point. "
            "Drag to move, wheel to zoom."
        )
    with views[1]:
        _matrix(found, group)
    with views[2]:
        st.altair_chart(tree_chart(found, group), width="stretch", key="collection tree", alt="Tree of the models")
        st.caption(
            "Models join where their groups are, on average, so far apart (average linkage of relative L2 distances)."
        )
    with views[3]:
        _shared(found)
    with views[4]:
        _neighbours(found, group)


def _matrix(found: Comparison, group: str) -> None:
    from ..collection_charts import matrix_chart

    cosine = "cosine of the changes" if found.reference is not None else "cosine of the weights"
    what = st.radio(
        "Shown", ["distance", cosine], horizontal=True, key="collection matrix of", label_visibility="collapsed"
    )
    chart = matrix_chart(found, group, "distance" if what == "distance" else "cosine")
    st.altair_chart(chart, width="stretch", key="collection matrix", alt="Matrix of all pairs")
    st.caption("Neighbours stand next to each other. The distance is relative to the size of the weights.")
    st.download_button(
        "All pairs and blocks, CSV", lambda: found.pairs("label").to_csv(index=False), "pairs.csv", "text/csv",
        icon=":material/download:", on_click="ignore",
    )  # fmt: skip


def _shared(found: Comparison) -> None:
    parts = found.shared_parts()
    if parts.empty:
        st.info("No two of these models have a component in common, bit by bit.")
        return
    rows = [
        {"component": short_title(row.component), "models": row.count, "shared by": ", ".join(row.names)}
        for row in parts.itertuples(name="Shared")
    ]
    st.dataframe(
        rows,
        hide_index=True,
        key="collection shared",
        alt="Components that are the same, bit by bit, in several models",
    )
    st.caption("The same, bit by bit, in all models of a row.")


def _neighbours(found: Comparison, group: str) -> None:
    st.dataframe(
        found.neighbours(group),
        hide_index=True,
        key="collection neighbours",
        column_config={
            "distance": st.column_config.NumberColumn("L2 distance", format="%.4g"),
            "relative_l2": st.column_config.NumberColumn("relative L2", format="%.3e"),
            "identical": st.column_config.CheckboxColumn("bit-identical"),
        },
        alt="The nearest other model of each",
    )
