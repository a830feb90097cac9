"""Where two checkpoints differ: kinds of layer against blocks, and a panel with each block's total."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import in_order, kinds_in_order
from ...checkpoints.text import short_number
from ..difference import Difference
from ..grouping import is_weight
from ..metrics import BASE_METRICS, PAIR_METRICS
from .style import Theme, colour_bar, dress, ink_on, new_figure, palette, scale, theme

# Inches of a cell: wide enough for five characters at the size they are printed in.
_CELL_WIDTH, _CELL_HEIGHT = 0.40, 0.30
_NUMBER = 7.0


def draw_heatmap(
    difference: Difference, metric: str = "relative_l2", *, dark: bool = False, title: str | None = None
) -> Figure:
    """Rows are kinds of layer, columns are labels in network order, colour and number are a metric.

    A grey cell: the block has no such layer. A frame with 0: nothing changed. A dash: the metric is undefined there. EMA,
    buffers and unknown keys are not drawn.

    Args:
        difference: from `diff`.
        metric: one of `difference.metrics`.
        dark: for a dark background.
        title: instead of the names of the two checkpoints.

    Raises:
        UnetscopeError: no such metric, or nothing to draw.
    """
    if metric not in difference.metrics:
        raise UnetscopeError(f"there is no metric {metric!r}; there are {', '.join(difference.metrics)}")
    cells, totals = difference.table("kind"), difference.table("label")
    cells, totals = (frame[is_weight(frame) & (frame["parameters"] > 0)] for frame in (cells, totals))
    if cells.empty:
        raise UnetscopeError("nothing to draw: the checkpoints share no weights")
    look, about = theme(dark), (PAIR_METRICS | BASE_METRICS)[metric]
    factor = 100 if about.percent else 1
    cells, totals = (frame.assign(**{metric: frame[metric] * factor}) for frame in (cells, totals))
    grid = _grid(cells, metric)
    columns, rows = len(grid.columns), len(grid.index)
    figure = new_figure(2.2 + columns * _CELL_WIDTH, 2.3 + (rows + 1) * _CELL_HEIGHT, look)
    norm = scale(np.concatenate([grid.to_numpy(float).ravel(), totals[metric].to_numpy(float)]), about.log)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[rows, 1])
    _paint(top, grid, _present(cells, grid), norm, look)
    whole = totals.set_index("label")[[metric]].T.reindex(columns=grid.columns)
    whole.index = ["whole block"]
    _paint(bottom, whole, pd.DataFrame(True, whole.index, whole.columns), norm, look)
    top.tick_params(labelbottom=False, labeltop=True, labelrotation=0)
    top.set_xticks(range(columns), _column_names(grid.columns), fontsize=8, rotation=0)
    bottom.tick_params(labelbottom=False)
    label = f"{about.title}{' (%)' if about.percent else ''}: {about.meaning}"
    colour_bar(figure, norm, label, look, ax=[top, bottom], fraction=0.05, aspect=60, pad=0.03, shrink=0.6)
    unit = " in percent" if about.percent else ""
    seen_from = f"{difference.a} and {difference.b}, seen from {difference.base}"
    subject = seen_from if metric in BASE_METRICS else f"{difference.b} against {difference.a}"
    figure.suptitle(title or f"{subject}: {about.title}{unit}", color=look.ink, fontsize=12)
    return figure


def _grid(cells: pd.DataFrame, metric: str) -> pd.DataFrame:
    grid = cells.pivot(index="kind", columns="label", values=metric)
    return grid.reindex(index=kinds_in_order(grid.index), columns=in_order(grid.columns))


def _present(cells: pd.DataFrame, grid: pd.DataFrame) -> pd.DataFrame:
    there = set(cells[["kind", "label"]].itertuples(index=False, name=None))
    return pd.DataFrame(
        [[(kind, label) in there for label in grid.columns] for kind in grid.index], grid.index, grid.columns
    )


def _column_names(labels) -> list[str]:
    """Two lines where a name has two words."""
    return [label.replace("_", "\n") for label in labels]


def _paint(axes, grid: pd.DataFrame, present: pd.DataFrame, norm: Normalize, look: Theme) -> None:
    for y, kind in enumerate(grid.index):
        for x, label in enumerate(grid.columns):
            fill, edge, ink = _cell(grid.loc[kind, label], present.loc[kind, label], norm, look)
            axes.add_patch(Rectangle((x - 0.48, y - 0.47), 0.96, 0.94, facecolor=fill, edgecolor=edge, linewidth=0.8))
            if present.loc[kind, label]:
                axes.text(
                    x, y, short_number(grid.loc[kind, label]), ha="center", va="center", color=ink, fontsize=_NUMBER
                )
    axes.set_xlim(-0.5, len(grid.columns) - 0.5)
    axes.set_ylim(len(grid.index) - 0.5, -0.5)
    axes.set_yticks(range(len(grid.index)), list(grid.index), fontsize=9)
    dress(axes, look)


def _cell(value: float, present: bool, norm: Normalize, look: Theme):
    """Fill, edge and ink of a cell."""
    if not present:
        return look.nothing, "none", look.ink
    if np.isnan(value) or (value == 0 and isinstance(norm, LogNorm)):
        return look.background, look.faint, look.ink
    fill = palette()(float(norm(value)))
    return fill, "none", ink_on(fill)
