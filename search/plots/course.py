"""How a search went: every score, the best so far, and the baselines."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ...analysis.plots.style import clipped, dress, new_figure, palette, theme
from ..overview import Overview

# Of the baselines, so many are named; the others are points like every trial.
_NAMED = 6


def draw_course(overview: Overview, *, dark: bool = False) -> Figure:
    """Trials from left to right, the best score so far as a line, baselines as dashed lines with their names and scores."""
    look = theme(dark)
    figure = new_figure(9.0, 4.2, look)
    axes = figure.subplots()
    proposed = [t for t in overview.complete if not t.baseline]
    pruned = [t for t in overview.trials if t.state == "pruned" and t.score is not None]
    bright = palette()(0.62 if dark else 0.45)
    axes.plot([t.number for t in proposed], [t.score for t in proposed], "o", ms=4, color=bright, alpha=0.6, mew=0)
    axes.plot([t.number for t in pruned], [t.score for t in pruned], "x", ms=4, color=look.ink, alpha=0.5)
    axes.plot(
        [t.number for t in overview.baselines], [t.score for t in overview.baselines], "D", ms=5, color=look.ink, mew=0
    )
    line = overview.best_so_far()
    if line:
        last = max((t.number for t in overview.trials), default=0)
        axes.step([*(n for n, _ in line), last], [*(s for _, s in line), line[-1][1]], where="post", lw=2, color=bright)
    _name_baselines(axes, overview, look)
    best = overview.best
    if best is not None:
        axes.annotate(
            f"{best.score:.4g}", (best.number, best.score), (0, 7 if overview.higher_is_better else -14),
            textcoords="offset points", ha="center", color=look.ink, fontsize=9, weight="bold",
        )  # fmt: skip
    dress(axes, look)
    axes.grid(axis="y", color=look.faint, linewidth=0.4, alpha=0.6)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.margins(y=0.12)
    better = "higher" if overview.higher_is_better else "lower"
    axes.set_xlabel("trial   (● proposal, ◆ baseline, × given up before its last image; line: best so far)", fontsize=9)
    axes.set_ylabel(f"{clipped(str(overview.reward.get('name', 'score')), 40)} ({better} is better)", fontsize=9)
    axes.tick_params(labelsize=8)
    return figure


def _name_baselines(axes, overview: Overview, look) -> None:
    """Names at the right edge, pushed apart where scores are close."""
    named = sorted(overview.baselines[:_NAMED], key=lambda t: t.score)
    scores = [t.score for t in overview.complete]
    least = 0.055 * ((max(scores) - min(scores)) or 1.0) if scores else 0.0
    at = float("-inf")
    for trial in named:
        axes.axhline(trial.score, ls="--", lw=0.8, color=look.faint)
        at = max(trial.score, at + least)
        axes.annotate(
            f" {clipped(trial.baseline, 22)} {trial.score:.4g}", (1.0, at), xycoords=("axes fraction", "data"),
            va="center", color=look.ink, fontsize=8, annotation_clip=False,
        )  # fmt: skip
