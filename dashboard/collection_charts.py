"""A collection of models as charts: a map, a matrix, a tree of who is near whom."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd

from .heatmap import PALETTE
from .map_labels import LINE, labels

if TYPE_CHECKING:
    from ..analysis.collection import Comparison

# From here on numbers in the cells of a matrix do not fit.
_PRINTED = 14


def map_chart(found: Comparison, group: str) -> alt.LayerChart:
    """The map; models that share a point are written there together, and so are those whose names would cover each other."""
    frame = found.map(group)
    reach = max(float(np.abs(frame[["x", "y"]].to_numpy()).max()), 1e-12)
    frame["spot"] = [f"{x / reach:.6f} {y / reach:.6f}" for x, y in zip(frame["x"], frame["y"], strict=True)]
    spots = (
        frame.groupby("spot", sort=False).agg(x=("x", "first"), y=("y", "first"), names=("name", list)).reset_index()
    )
    spots["all"] = [", ".join(names) for names in spots["names"]]
    span = max(np.ptp(spots["x"]), np.ptp(spots["y"]), 1e-12)
    room = {axis: (spots[axis].min() + spots[axis].max()) / 2 for axis in "xy"}
    ends = {axis: [room[axis] - 0.72 * span, room[axis] + 0.72 * span] for axis in "xy"}
    scales = {axis: alt.Scale(domain=ends[axis], nice=False) for axis in "xy"}
    named = labels(spots[["x", "y"]].to_numpy(), list(spots["names"]), np.transpose([ends["x"], ends["y"]]))
    spots["name"] = ""
    placed: dict[tuple, list[str]] = {}
    for label in named:
        spots.loc[label.at, "name"] = label.text
        placed.setdefault((label.dx, label.dy, label.align), []).append(spots.loc[label.at, "spot"])
    base = alt.Chart(spots.drop(columns=["names"])).encode(
        x=alt.X("x:Q", scale=scales["x"], title="first axis, L2 distance", axis=alt.Axis(tickCount=8)),
        y=alt.Y("y:Q", scale=scales["y"], title="second axis, L2 distance", axis=alt.Axis(tickCount=6)),
        tooltip=[
            alt.Tooltip("all:N", title="models"),
            alt.Tooltip("x:Q", format=".4g"),
            alt.Tooltip("y:Q", format=".4g"),
        ],
    )
    points = base.mark_circle(size=140, opacity=0.9, color=PALETTE[9])
    words = [
        base.transform_filter(alt.FieldOneOfPredicate("spot", oneOf=where))
        .mark_text(dx=dx, dy=dy, align=align, fontSize=12, color="#808a98", lineBreak="\n", lineHeight=LINE)
        .encode(text="name:N")
        for (dx, dy, align), where in placed.items()
    ]
    return alt.layer(points, *words).properties(height=430).interactive()


def matrix_chart(found: Comparison, group: str, what: str) -> alt.LayerChart | alt.Chart:
    """All pairs, neighbours next to each other. `what`: `distance` (relative) or `cosine`."""
    matrix = found.distances(group, relative=True) if what == "distance" else found.cosines(group)
    order = clustered(found, group)
    matrix = matrix.loc[order, order]
    rows = [
        {"a": a, "b": b, "value": float(matrix.iloc[i, j]) if np.isfinite(matrix.iloc[i, j]) else None}
        for i, a in enumerate(order)
        for j, b in enumerate(order)
    ]
    frame = pd.DataFrame(rows)
    away = frame["value"][(frame["a"] != frame["b"]) & frame["value"].notna()]
    ends = [float(away.min()), float(away.max())] if len(away) and away.min() < away.max() else [0.0, 1.0]
    title, form = ("relative L2 distance", ".2%") if what == "distance" else ("cosine", ".3f")
    # Large is bright where far apart is the news, and dark where being alike is.
    axis = {"sort": order, "title": None}
    names = alt.Axis(labelLimit=190, labelOverlap=False)
    base = alt.Chart(frame).encode(
        x=alt.X("b:N", **axis, axis=alt.Axis(labelAngle=-40, labelLimit=190, labelOverlap=False)),
        y=alt.Y("a:N", **axis, axis=names),
        tooltip=[
            alt.Tooltip("a:N", title="of"),
            alt.Tooltip("b:N", title="and"),
            alt.Tooltip("value:Q", title=title, format=form),
        ],
    )
    colour = alt.Color(
        "value:Q",
        title=title,
        scale=alt.Scale(range=PALETTE, domain=ends, clamp=True),
        legend=alt.Legend(orient="top", format=form, gradientLength=260),
    )
    cells = base.mark_rect().encode(color=colour)
    height = max(420, 36 * len(order) + 240)
    if len(order) > _PRINTED:
        return cells.properties(height=height)
    middle = (ends[0] + ends[1]) / 2
    ink = alt.condition(f"datum.value > {middle}", alt.value("#10151d"), alt.value("#ffffff"))
    printed = base.mark_text(fontSize=11).encode(text=alt.Text("value:Q", format=form), color=ink)
    return (cells + printed).properties(height=height)


def clustered(found: Comparison, group: str) -> list[str]:
    """Names in the order of the tree's leaves; those without finite weights last."""
    from scipy.cluster.hierarchy import leaves_list

    finite = list(found.finite(found.distances(group)).index)
    ordered = [finite[i] for i in leaves_list(found.linkage(group))] if len(finite) > 1 else finite
    return ordered + [name for name in found.names if name not in ordered]


def tree_chart(found: Comparison, group: str) -> alt.Chart:
    """The dendrogram: models join at the relative distance at which their groups are, on average."""
    from scipy.cluster.hierarchy import dendrogram

    names = list(found.finite(found.distances(group)).index)
    tree = dendrogram(found.linkage(group), labels=names, no_plot=True)
    rows = [
        {"join": n, "corner": i, "at": y, "distance": x}
        for n, (ys, xs) in enumerate(zip(tree["icoord"], tree["dcoord"], strict=True))
        for i, (y, x) in enumerate(zip(ys, xs, strict=True))
    ]
    leaves = json.dumps(tree["ivl"])
    places = [5 + 10 * i for i in range(len(names))]
    axis = alt.Axis(
        values=places, labelExpr=f"{leaves}[round((datum.value - 5) / 10)]", grid=False, ticks=False, domain=False,
        labelLimit=240, labelOverlap=False,
    )  # fmt: skip
    return (
        alt.Chart(pd.DataFrame(rows))
        .mark_line(strokeWidth=2, color=PALETTE[9])
        .encode(
            x=alt.X(
                "distance:Q", title="relative L2 distance between groups", axis=alt.Axis(format=".2~%", tickCount=8)
            ),
            y=alt.Y("at:Q", axis=axis, title=None, scale=alt.Scale(domain=[0, 10 * len(names)], reverse=True)),
            detail="join:N",
            order="corner:Q",
            tooltip=[alt.Tooltip("distance:Q", format=".3%")],
        )
        .properties(height=max(240, 34 * len(names) + 60))
    )
