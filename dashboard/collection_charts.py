"""A collection of models as charts: a map, a matrix, a tree of who is near whom."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import altair as alt
import numpy as np
import pandas as pd
from scipy.sparse.csgraph import connected_components

from .heatmap import PALETTE

if TYPE_CHECKING:
    from ..analysis.collection import Comparison

# From here on numbers in the cells of a matrix do not fit.
_PRINTED = 14
_SHORT = 26
# Names of places nearer than this cover each other: parts of the map's width, across and upright.
_CROWDED = (0.12, 0.07)


def short_name(name: str) -> str:
    """A name that fits beside a chart: its middle gives way."""
    return name if len(name) <= _SHORT else f"{name[: _SHORT - 12]}…{name[-11:]}"


def map_chart(found: Comparison, group: str) -> alt.LayerChart:
    """The map; models that share a point are written there together, and so are those whose names would cover each other."""
    frame = found.map(group)
    reach = max(float(np.abs(frame[["x", "y"]].to_numpy()).max()), 1e-12)
    frame["spot"] = [f"{x / reach:.6f} {y / reach:.6f}" for x, y in zip(frame["x"], frame["y"], strict=True)]
    spots = (
        frame.groupby("spot", sort=False).agg(x=("x", "first"), y=("y", "first"), names=("name", list)).reset_index()
    )
    spots["all"] = [", ".join(names) for names in spots["names"]]
    spots["name"] = written(spots[["x", "y"]].to_numpy(), list(spots["names"]))
    span = max(np.ptp(spots["x"]), np.ptp(spots["y"]), 1e-12)
    room = {axis: (spots[axis].min() + spots[axis].max()) / 2 for axis in "xy"}
    scales = {a: alt.Scale(domain=[room[a] - 0.72 * span, room[a] + 0.72 * span], nice=False) for a in "xy"}
    base = alt.Chart(spots.drop(columns=["names", "spot"])).encode(
        x=alt.X("x:Q", scale=scales["x"], title="first axis, L2 distance", axis=alt.Axis(tickCount=8)),
        y=alt.Y("y:Q", scale=scales["y"], title="second axis, L2 distance", axis=alt.Axis(tickCount=6)),
        tooltip=[
            alt.Tooltip("all:N", title="models"),
            alt.Tooltip("x:Q", format=".4g"),
            alt.Tooltip("y:Q", format=".4g"),
        ],
    )
    points = base.mark_circle(size=140, opacity=0.9, color=PALETTE[9])
    words = base.mark_text(dy=-13, fontSize=12, color="#808a98").encode(text="name:N")
    return (points + words).properties(height=430).interactive()


def written(places: np.ndarray, names: list[list[str]]) -> list[str]:
    """What is written at each of the places (N, 2) of a map: the names there, and at the top of a heap those of all its places,
    of which the others have nothing then."""
    span = max(float(np.ptp(places, axis=0).max()), 1e-12)
    scaled = places / np.multiply(_CROWDED, span)
    near = np.abs(scaled[:, None] - scaled[None]).max(axis=2) < 1
    count, heaps = connected_components(near, directed=False)
    found = [""] * len(names)
    for heap in range(count):
        members = np.flatnonzero(heaps == heap)
        top = members[np.argmax(places[members, 1])]
        between = " = " if len(members) == 1 else ", "
        found[top] = _together([name for i in members for name in names[i]], between)
    return found


def _together(names: list[str], between: str) -> str:
    return between.join(map(short_name, names[:3])) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def matrix_chart(found: Comparison, group: str, what: str) -> alt.LayerChart | alt.Chart:
    """All pairs, neighbours beside each other. `what`: `distance` (relative) or `cosine`."""
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
