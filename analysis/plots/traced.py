"""Where a merge comes from, as a picture: the candidates' shares stacked for every label."""

from __future__ import annotations

from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.text import short_number
from ..trace_report import LabelTrace, TraceReport
from .style import Theme, clipped, dress, ink_on, new_figure, theme

# Okabe and Ito's colours, which people with any colour vision tell apart; what comes after them shares a grey.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442")
_REST = "#8a8c96"
_COLUMN, _HEIGHT = 0.42, 4.2
# Shares smaller than this part of the axis have no room for their number, and those smaller than the next are not drawn.
_PRINTED = 0.07
_LEAST = 2e-3
_INCOMPLETE = ("incomplete", "unknown")


def draw_shares(report: TraceReport, *, dark: bool = False, title: str | None = None) -> Figure:
    """Columns are labels in network order; each stacks the shares of the candidates, negative ones below the line.

    Hatched columns: the listed candidates do not explain that label.

    Args:
        report: from `trace`.
        dark: for a dark background.
        title: instead of the name of the merge.

    Raises:
        UnetscopeError: no label was traced.
    """
    if not report.labels:
        raise UnetscopeError("nothing to draw: no label was traced")
    look = theme(dark)
    used = [n for n in report.names if any(abs(t.shares.get(n, 0.0)) > _LEAST for t in report.labels)]
    used.sort(key=lambda name: -sum(abs(t.shares.get(name, 0.0)) * t.parameters for t in report.labels))
    colours = {name: _COLOURS[i] if i < len(_COLOURS) else _REST for i, name in enumerate(used)}
    figure = new_figure(3.2 + _COLUMN * len(report.labels), _HEIGHT, look)
    axes = figure.subplots()
    high = max(sum(s for s in t.shares.values() if s > 0) for t in report.labels)
    low = min(sum(s for s in t.shares.values() if s < 0) for t in report.labels)
    for at, label in enumerate(report.labels):
        _stack(axes, at, label, colours, look, _PRINTED * max(high - low, 1.0))
    axes.axhline(0, color=look.ink, linewidth=0.8)
    axes.axhline(1, color=look.faint, linewidth=0.8, linestyle="--")
    names = [t.label.replace("_", "\n") for t in report.labels]
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=90 if len(names) > 24 else 0)
    axes.set_xlim(-0.6, len(names) - 0.4)
    axes.set_ylabel("share of the weights")
    dress(axes, look)
    _key(axes, used, colours, report, look)
    figure.suptitle(title or f"Where {clipped(report.merged, 60)} comes from", color=look.ink, fontsize=12)
    return figure


def _stack(axes, at: int, label: LabelTrace, colours: dict[str, str], look: Theme, room: float) -> None:
    """One label's shares, the largest candidates of the whole merge nearest to the line."""
    above = below = 0.0
    hatch = "///" if label.verdict in _INCOMPLETE else None
    for name, colour in colours.items():
        share = label.shares.get(name, 0.0)
        if not abs(share) > _LEAST:
            continue
        bottom = above if share > 0 else below
        axes.bar(at, share, 0.82, bottom=bottom, color=colour, edgecolor=look.background, linewidth=0.6, hatch=hatch)
        if abs(share) >= room:
            spot = {"facecolor": colour, "edgecolor": "none", "pad": 0.8}  # keeps the hatching off the number
            ink = ink_on(to_rgb(colour))
            axes.text(
                at,
                bottom + share / 2,
                short_number(share),
                ha="center",
                va="center",
                fontsize=6.5,
                color=ink,
                bbox=spot,
            )
        above, below = (above + share, below) if share > 0 else (above, below + share)


def _key(axes, used: list[str], colours: dict[str, str], report: TraceReport, look: Theme) -> None:
    shown = used[: len(_COLOURS)]
    handles = [Patch(color=colours[name], label=clipped(name)) for name in shown]
    if len(used) > len(shown):
        handles.append(Patch(color=_REST, label=f"{len(used) - len(shown)} more"))
    if any(t.verdict in _INCOMPLETE for t in report.labels):
        handles.append(Patch(facecolor=look.nothing, edgecolor=look.ink, hatch="///", label="not explained by these"))
    legend = axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize=8)
    for text in legend.get_texts():
        text.set_color(look.ink)
