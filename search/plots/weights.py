"""The weight of every block in the best trial, and how far the best trials agree on it."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from ...analysis.plots.style import dress, new_figure, palette, theme
from ...checkpoints.text import short_number
from ..overview import Spread


def draw_weights(spread: Mapping[str, Spread], top: int, limits: tuple[float, float], *, dark: bool = False) -> Figure:
    """A column for each block in network order: the best trial's weight as a bar with its number, the range of the `top` best
    trials as a line, their median as a mark."""
    look, low = theme(dark), limits[0]
    figure = new_figure(max(4.5, 1.0 + 0.37 * len(spread)), 3.6, look)
    axes = figure.subplots()
    places, found = range(len(spread)), list(spread.values())
    wide = limits[1] - limits[0] or 1.0
    colours = [palette()((one.best - limits[0]) / wide) for one in found]
    axes.bar(places, [one.best - low for one in found], 0.8, bottom=low, color=colours, edgecolor=look.faint, lw=0.5)
    for at, one in zip(places, found, strict=True):
        axes.plot([at, at], [one.low, one.high], color=look.background, lw=4, solid_capstyle="butt")
        axes.plot([at, at], [one.low, one.high], color=look.ink, lw=1.5, solid_capstyle="butt")
        axes.plot([at - 0.22, at + 0.22], [one.middle] * 2, color=look.ink, lw=1.5)
        axes.text(
            at, limits[1] + 0.02 * wide, short_number(one.best), ha="center", va="bottom", fontsize=7, color=look.ink
        )
    axes.set_ylim(low - 0.02 * wide, limits[1] + 0.1 * wide)
    axes.set_xlim(-0.6, len(spread) - 0.4)
    axes.set_xticks(list(places), [label.replace("_", "\n") for label in spread], fontsize=7, rotation=90)
    axes.set_ylabel("weight", fontsize=9)
    axes.set_xlabel(f"bar and number: the best trial; line: range of the {top} best, with their median", fontsize=9)
    dress(axes, look)
    axes.tick_params(axis="y", labelsize=8)
    return figure
