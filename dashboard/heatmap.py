"""A difference as a heatmap, layer kind by block, that can be hovered and clicked; the same colours as the diagram's."""

from __future__ import annotations

from collections.abc import Collection

import altair as alt
import numpy as np
import pandas as pd

from ..checkpoints.families import BUFFER_LABELS, in_order, kinds_in_order
from ..diagrams.palette import VIRIDIS

# The name of the chart's selection.
CELL = "cell"
PALETTE = ["#" + "".join(f"{c:02x}" for c in rgb) for rgb in VIRIDIS]
_CHOSEN, _NOTHING = "#e5484d", "#8888882e"


def colour_range(table: pd.DataFrame, metric: str, log: bool) -> tuple[float, float] | None:
    """The values at the ends of the palette, for heatmap and diagram alike; None where all are the same."""
    values = table.loc[~table["label"].isin(BUFFER_LABELS), metric].to_numpy(float)
    values = values[np.isfinite(values) & ((values > 0) | (not log))]
    if values.size == 0 or values.min() == values.max():
        return None
    return float(values.min()), float(values.max())


def heatmap(
    table: pd.DataFrame,
    metric: str,
    title: str,
    *,
    log: bool,
    ends: tuple[float, float] | None,
    labels: Collection[str] = (),
    kind: str | None = None,
    height: int = 420,
) -> alt.Chart:
    """A cell for each kind of layer in each block.

    Args:
        table: a difference by `kind`.
        metric: its column to colour by; title: what it is, for the legend.
        log: whether the scale is logarithmic; ends: from `colour_range`.
        labels, kind: which cells are framed: those of these blocks, and of this kind alone if one is given.
    """
    frame = _cells(table, metric, ends[0] if log and ends else None)
    frame["chosen"] = frame["label"].isin(list(labels)) & ((frame["kind"] == kind) | (kind is None))
    scale = alt.Scale(
        type="log" if log and ends else "linear", range=PALETTE, domain=list(ends) if ends else [0, 1], clamp=True
    )
    legend = alt.Legend(orient="top", gradientLength=260, format="~g", tickCount=4)
    across, down = alt.Axis(labelAngle=-90, labelOverlap=False), alt.Axis(labelOverlap=False)
    return (
        alt.Chart(frame)
        .mark_rect(strokeWidth=2)
        .encode(
            x=alt.X("label:N", sort=in_order(set(frame["label"])), title=None, axis=across),
            y=alt.Y("kind:N", sort=kinds_in_order(set(frame["kind"])), title=None, axis=down),
            color=alt.Color("shade:Q", scale=scale, title=title, legend=legend),
            stroke=alt.condition("datum.chosen", alt.value(_CHOSEN), alt.value("transparent")),
            tooltip=[
                alt.Tooltip("label:N", title="block"),
                alt.Tooltip("kind:N", title="layers"),
                alt.Tooltip("printed:N", title=title),
                alt.Tooltip("tensors:Q", title="tensors"),
                alt.Tooltip("parameters:Q", title="parameters", format=","),
            ],
        )
        .add_params(alt.selection_point(name=CELL, fields=["label", "kind"], on="click", clear=False))
        .properties(height=height)
        .configure_view(fill=_NOTHING, stroke=None)
    )


def _cells(table: pd.DataFrame, metric: str, lowest: float | None) -> pd.DataFrame:
    """A row for each cell: `value`, `shade` that colours it, and `printed`.

    A log scale has no place for 0: what did not change gets the `lowest` colour, as in the diagram.
    """
    shown = ["label", "kind", "tensors", "parameters", metric, "identical"]
    frame = table[~table["label"].isin(BUFFER_LABELS)][shown].copy()
    frame["value"] = frame[metric].astype(float)
    frame["shade"] = frame["value"].clip(lower=lowest) if lowest else frame["value"]
    frame["printed"] = [_printed(value, same) for value, same in zip(frame["value"], frame["identical"], strict=True)]
    return frame


def _printed(value: float, same: bool) -> str:
    return "bit-identical" if same else "undefined" if np.isnan(value) else f"{value:.4g}"


def clicked(event: object) -> tuple[str, str] | None:
    """The label and kind of the cell that a selection of the chart holds."""
    cells = event.get("selection", {}).get(CELL, []) if isinstance(event, dict) else []
    cell = cells[-1] if isinstance(cells, list) and cells else None
    return (
        (str(cell["label"]), str(cell["kind"])) if isinstance(cell, dict) and {"label", "kind"} <= set(cell) else None
    )
