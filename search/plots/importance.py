"""Which free numbers went with the score."""

from __future__ import annotations

from collections.abc import Mapping

from matplotlib.figure import Figure

from ...analysis.plots.style import clipped, dress, new_figure, palette, theme
from ..importance import Importance

_SHOWN = 30


def draw_importance(found: Mapping[str, Importance], method: str, chance: float, *, dark: bool = False) -> Figure:
    """Two panels with a row for each free number, the most important at the top: its importance, and its rank correlation with
    the score between the lines within which chance alone would keep it in 19 of 20 cases."""
    look = theme(dark)
    names = list(found)[:_SHOWN]
    figure = new_figure(9.2, 1.1 + 0.24 * len(names), look)
    left, right = figure.subplots(1, 2, sharey=True, width_ratios=[4, 3])
    places = range(len(names))
    shares = [found[name].share for name in names]
    left.barh(places, shares, 0.75, color=palette()(0.62 if dark else 0.45))
    for at, share in zip(places, shares, strict=True):
        left.text(share, at, f" {share:.2f}", va="center", fontsize=7, color=look.ink)
    left.set_yticks(list(places), [clipped(name, 34) for name in names], fontsize=7)
    left.set_ylim(len(names) - 0.4, -0.6)
    left.set_xlim(0, max([*shares, 1e-9]) * 1.15)
    left.set_xlabel(f"importance ({method})", fontsize=8)
    shown = [(at, found[name].correlation) for at, name in enumerate(names) if found[name].correlation is not None]
    right.axvspan(-chance, chance, color=look.nothing, lw=0)
    right.axvline(0, color=look.faint, lw=0.8)
    right.hlines([at for at, _ in shown], 0, [value for _, value in shown], color=look.ink, lw=1)
    right.plot([value for _, value in shown], [at for at, _ in shown], "o", ms=4, color=look.ink)
    for at, value in shown:
        right.text(1.05, at, f"{value:+.2f}", va="center", fontsize=7, color=look.ink)
    right.set_xlim(-1, 1.35)
    right.set_xticks([-1, 0, 1], ["less is better", "0", "more is better"], fontsize=7)
    right.set_xlabel("rank correlation with the score (grey: chance)", fontsize=8)
    for axes in (left, right):
        dress(axes, look)
        axes.tick_params(axis="x", labelsize=7)
    return figure
