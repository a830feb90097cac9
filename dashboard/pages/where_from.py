"""Where from: of which models a merge is made, block by block, and the recipe that makes it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import streamlit as st

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.text import file_size, printable
from ..choices import Choices, why_not
from ..drawable import Drawable, drawing_of, svg_of
from ..drawable_choice import HEIGHT, say
from ..job_view import offer
from ..library import Entry, Library
from ..markdown import plain
from ..measuring import TRACE
from ..page import Page, Scene
from ..results import kept
from ..shell import library_of, link_to, require_folders

_NONE = "none"
# Candidates in order of their colour; more than these share grey.
_COLOURS = ("#4e79a7", "#f28e2b", "#59a14f", "#e15759", "#b07aa1", "#edc948", "#76b7b2", "#ff9da7", "#9c755f")
_OTHERS = "#9aa3ad"
# Verdict -> colour of the box, and what it means.
VERDICTS: dict[str, tuple[str, str]] = {
    "identical": ("#8fd3a8", "identical: the bits of a candidate"),
    "equal": ("#a9dfbd", "equal: a candidate, rounded"),
    "exact": ("#c4ead1", "exact: a linear merge, rounded once"),
    "nearly": ("#ffe08a", "nearly: extra rounding, or a little is missing"),
    "incomplete": ("#ffb3a7", "incomplete: something is missing"),
    "unknown": ("#d0d4da", "unknown: in no listed file"),
}


def show() -> None:
    """Draw the page."""
    st.title("Where from")
    folders = require_folders()
    library = library_of(folders)
    models = library.models
    if len(models) < 2:
        st.info("Tracing takes a merge and a model that it may be made of. Add some, or make the demo checkpoints.")
        link_to("library", "To the library")
        return
    merged, among, base = _choose(library)
    if merged is None or not among:
        st.info("Choose at least one model that the merge may be made of.")
        return
    files = [merged, base, *among]
    arguments = {"merged": merged.path, "base": base.path if base else None, "among": [entry.path for entry in among]}
    reads = file_size(sum(entry.size for entry in files if entry))
    if key := offer("trace", f"Trace {Path(merged.name).name}", arguments, f"Trace (reads {reads})"):
        _result(merged, kept("trace", key))


PAGE = Page(
    id="where_from",
    title="Where from",
    icon=":material/history_edu:",
    show=show,
    order=70,
    tasks=(TRACE,),
    scenes=(Scene("where_from", click="Trace"),),
    needs=(
        "unetscope.dashboard.diagram",
        "unetscope.diagrams",
    ),
)


def _choose(library: Library) -> tuple[Entry | None, list[Entry], Entry | None]:
    one, two, three = st.columns([2, 3, 2])
    choices, models, bound = Choices(why_not(library)), library.models, {"bind": "query-params"}
    first = next((entry for entry in models if entry.merged), models[0])
    merged = library.named(
        choices.one("The merge", [e.name for e in models], "merged", proposal=first.name, where=one, **bound)
    )
    if merged is None:
        choices.stop_if_gone()
        return None, [], None
    others = [entry for entry in models if entry != merged and entry.family in (merged.family, None)]
    unfit = f"cannot be a part of {merged.name} ({merged.architecture}); choose another"
    likely = [entry.name for entry in others if not entry.merged and entry.model in (merged.model, None)]
    names = choices.many(
        "May be made of", [entry.name for entry in others], f"among {merged.name}", proposal=likely, unfit=unfit, where=two,
        help="List whatever it could be made of: what it is not gets a share of 0.",
    )  # fmt: skip
    free = [entry.name for entry in others if entry.name not in names]
    base = choices.one(
        "Common base", [_NONE, *free], "trace base", usual=_NONE, where=three, **bound,
        unfit="is among the candidates, or cannot be one; choose another",
        help="What the candidates were tuned from, if it is not among them; it is one more candidate.",
    )  # fmt: skip
    choices.stop_if_gone()
    return merged, [entry for entry in others if entry.name in names], library.named(base)


def _result(merged: Entry, report: dict[str, Any]) -> None:
    sentences = [plain(sentence) for sentence in report["sentences"]] or ["Nothing can be said."]
    (st.success if report["complete"] else st.warning)(sentences[0])
    left, right = st.columns([3, 2], gap="small")
    with left:
        selected = _diagram(merged, report)
    with right:
        for sentence in sentences[1:]:
            st.markdown(f"- {sentence}")
        _recipe(report)
    rows = [row for row in share_rows(report) if not selected or row["block"] in selected]
    st.subheader(f"Shares of {plain(', '.join(selected))}" if selected else "Shares")
    st.dataframe(
        rows, hide_index=True, key="trace shares", alt="The share of each candidate in each block",
        column_config={f"{name} ±": st.column_config.NumberColumn(format="%.1e", help="95 % interval") for name in report["among"]}
        | {name: st.column_config.NumberColumn(format="%.4f") for name in report["among"]}
        | {
            "rho": st.column_config.NumberColumn(format="%.3g", help="What is left over, in units of what one rounding leaves"),
            "missing": st.column_config.NumberColumn(format="percent", help="Of the distance to the nearest candidate"),
        },
    )  # fmt: skip


def share_rows(report: dict[str, Any]) -> list[dict[str, Any]]:
    """A row for each block: its verdict, and each candidate's share with the half width of its 95 % interval."""
    rows = []
    for label in report["labels"]:
        row = {"block": label["label"], "verdict": label["verdict"]}
        for name in report["among"]:
            share, error = label["shares"].get(name), label["errors"].get(name)
            row |= {name: share, f"{name} ±": None if error is None else 1.96 * error}
        rows.append(row | {"rho": label["rho"], "missing": label["missing"], "parameters": label["parameters"]})
    return rows


def stacked(report: dict[str, Any]) -> dict[str, list[tuple[float, str]]]:
    """label -> (share, colour) of what it is made of; shares of less than half a percent are too thin to see."""
    colours = colours_of(report["among"])
    out = {}
    for label in report["labels"]:
        parts = [(share, colours[name]) for name, share in label["shares"].items() if share and abs(share) >= 0.005]
        if not parts and label["identical"]:
            parts = [(1.0, colours[label["identical"][0]])]
        out[label["label"]] = parts
    return out


def colours_of(names: list[str]) -> dict[str, str]:
    """The colour of each candidate."""
    return {name: _COLOURS[i] if i < len(_COLOURS) else _OTHERS for i, name in enumerate(names)}


def _diagram(merged: Entry, report: dict[str, Any]) -> tuple[str, ...]:
    """The diagram with the shares; answers what is selected in it."""
    from ..diagram import unet_diagram

    drawable = Drawable.of_entry(merged)
    if drawable.family is None:
        st.info("There is no diagram for this kind of file; the table says the same.")
        return ()
    try:
        drawing = drawing_of(drawable, "block", badges=drawable.labels, title=report["merged"])
    except UnetscopeError as error:
        say(error)
        return ()
    verdicts = {label["label"]: label["verdict"] for label in report["labels"]}
    shares = stacked(report)
    used = {colour for parts in shares.values() for _, colour in parts}
    legend = [(colour, printable(name)) for name, colour in colours_of(report["among"]).items() if colour in used]
    legend += [VERDICTS[verdict] for verdict in VERDICTS if verdict in verdicts.values()]
    state = unet_diagram(
        svg_of(drawing),
        fills={label: VERDICTS[verdict][0] for label, verdict in verdicts.items()},
        printed={label["label"]: _in_words(label) for label in report["labels"]},
        shares=shares,
        legend=legend,
        height=HEIGHT,
        key="where-from",
    )
    st.caption(
        "The bar in a box is the share of each candidate, the box's colour the verdict; a pale part is subtracted."
    )
    return state.selected


def _in_words(label: dict[str, Any]) -> str:
    """What a box says: the verdict and the largest share."""
    largest = max((share for share in label["shares"].values() if share), default=None)
    mixed = label["verdict"] in ("exact", "nearly", "incomplete") and largest is not None
    return f"{label['verdict']} {largest:.0%}" if mixed else label["verdict"]


def _recipe(report: dict[str, Any]) -> None:
    if not report["yaml"]:
        st.info("No recipe can be given. List more of the models that it may be made of.")
        return
    with st.expander("The recipe", icon=":material/receipt_long:", expanded=True):
        st.code(report["yaml"], language="yaml", height=220)
        st.download_button(
            "Recipe, YAML", report["yaml"], f"{Path(report['merged']).stem}-recipe.yaml", "application/yaml",
            icon=":material/download:", on_click="ignore",
        )  # fmt: skip
        st.caption("Run it on the Merge page, or with: unetscope merge run RECIPE -o OUTPUT")
