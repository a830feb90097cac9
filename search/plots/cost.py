"""What each trial cost."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...analysis.plots.style import dress, new_figure, palette, theme
from ...checkpoints.text import duration
from ..overview import COST_WORDS, COSTS, Overview

# So far apart in lightness that they are told apart without colour; hatched besides.
_SHADES = {"merge": 0.95, "generate": 0.35, "reward": 0.7, "evaluate": 0.35, "other": 0.1}
_HATCHES = {"merge": "", "generate": "", "reward": "////", "evaluate": "", "other": "...."}


def draw_cost(overview: Overview, *, dark: bool = False) -> Figure:
    """Seconds of every trial, stacked; the legend has the totals."""
    look = theme(dark)
    figure = new_figure(9.0, 3.2, look)
    axes = figure.subplots()
    trials = [t for t in overview.trials if overview.costs(t)]
    numbers = np.array([t.number for t in trials])
    seconds = {name: np.array([overview.costs(t).get(name, 0.0) for t in trials]) for name in COSTS}
    below = np.zeros(len(trials))
    for name, values in seconds.items():
        if values.any():
            axes.bar(
                numbers, values, 0.9, bottom=below, color=palette()(_SHADES[name]), hatch=_HATCHES[name],
                edgecolor=look.background, lw=0, label=f"{COST_WORDS[name]}: {duration(values.sum())}",
            )  # fmt: skip
            below = below + values
    legend = figure.legend(loc="outside upper left", ncols=5, frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_color(look.ink)
    dress(axes, look)
    axes.grid(axis="y", color=look.faint, linewidth=0.4, alpha=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("trial", fontsize=9)
    axes.set_ylabel("seconds", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure
