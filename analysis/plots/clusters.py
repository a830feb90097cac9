"""Many checkpoints as a matrix of distances, sorted so that near ones stand together, with the tree that sorts them."""

from __future__ import annotations

import pandas as pd
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from scipy.cluster.hierarchy import dendrogram, leaves_list

from ...checkpoints.text import short_number
from ..collection import MODEL, Comparison
from .style import Theme, clipped, colour_bar, dress, ink_on, new_figure, palette, scale, theme

# Inches.
_CELL, _SMALLEST_CELL = 0.50, 0.36
_TREE, _LETTER, _EDGE, _GAP = 1.3, 0.095, 0.15, 0.08
_TOP, _BOTTOM, _BAR = 0.75, 0.75, 0.12
_NARROWEST = 3.0


def draw_clusters(
    comparison: Comparison, group: str = MODEL, *, dark: bool = False, title: str | None = None
) -> Figure:
    """Relative distances of all pairs in percent, and a dendrogram (average linkage) next to them.

    A frame with 0 marks bit-identical checkpoints. Those with NaN or infinite weights are not drawn.

    Args:
        comparison: from `compare`.
        group: `model`, a component or a label.
        dark: for a dark background.
        title: instead of the group's name.

    Raises:
        UnetscopeError: the group was not measured, or fewer than two checkpoints can be compared.
    """
    look, tree = theme(dark), comparison.linkage(group)
    away = comparison.finite(comparison.distances(group, relative=True)) * 100
    order = leaves_list(tree)
    away = away.iloc[order, order]
    names, count = [f"{i}  {clipped(name)}" for i, name in enumerate(away.index, start=1)], len(away)
    side = count * max(_SMALLEST_CELL, _CELL - 0.006 * count)
    width = _EDGE + _TREE + _GAP + max(side + _LETTER * max(map(len, names)) + 0.2, _NARROWEST)
    height = _TOP + side + _BOTTOM
    figure = new_figure(width, height, look, layout=None)

    def place(left: float, bottom: float, wide: float, high: float):
        return figure.add_axes((left / width, bottom / height, wide / width, high / height))

    branches, left = place(_EDGE, _BOTTOM, _TREE, side), _EDGE + _TREE + _GAP
    # The root stands at the left, as many units away as its children differ.
    dendrogram(tree, ax=branches, orientation="left", no_labels=True, link_color_func=lambda _: look.ink)
    branches.invert_yaxis()
    branches.set_xlim(max(tree[:, 2].max(), 1e-300) * 1.03, -max(tree[:, 2].max(), 1e-300) * 0.03)
    branches.set_xticks([])
    dress(branches, look)
    norm = scale(away.to_numpy().ravel(), log=True)
    cells = place(left, _BOTTOM, side, side)
    _paint(cells, away, norm, look)
    cells.set_yticks(range(count), names, fontsize=9)
    cells.yaxis.tick_right()
    cells.set_xticks(range(count), range(1, count + 1), fontsize=8)
    cells.xaxis.tick_top()
    dress(cells, look)
    bar = place(left, _BOTTOM - 0.12 - _BAR, max(side, 2.2), _BAR)
    colour_bar(figure, norm, "relative L2 distance (%)", look, cax=bar)
    figure.suptitle(
        title or f"Distances, {group}", color=look.ink, fontsize=12, x=_EDGE / width, ha="left", y=1 - 0.1 / height
    )
    return figure


def _paint(axes, away: pd.DataFrame, norm: Normalize, look: Theme) -> None:
    count = len(away)
    for y in range(count):
        for x in range(count):
            value = away.iat[y, x]
            if x == y:
                fill, edge, ink = look.nothing, "none", look.ink
            elif value == 0:
                fill, edge, ink = look.background, look.faint, look.ink
            else:
                fill, edge = palette()(float(norm(value))), "none"
                ink = ink_on(fill)
            axes.add_patch(Rectangle((x - 0.48, y - 0.48), 0.96, 0.96, facecolor=fill, edgecolor=edge, linewidth=0.8))
            if x != y:
                axes.text(x, y, short_number(value), ha="center", va="center", color=ink, fontsize=7)
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
