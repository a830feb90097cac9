"""How a checkpoint's values are distributed, block by block."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.families import BUFFER_LABELS, in_order
from ..statistics import Statistics, edges
from .style import dress, new_figure, palette, theme

_COLUMNS = 5
_WIDTH, _HEIGHT = 2.2, 1.25
# Octaves of |value| that are drawn: from below fp16's smallest to above its largest number.
_OCTAVES = (-26, 17)


def draw_histograms(measured: Statistics, *, dark: bool = False, title: str | None = None) -> Figure:
    """One small panel per label: how many values have which size, on a log2 axis, negative ones below the line.

    Args:
        measured: from `measure`.
        dark: for a dark background.
        title: instead of the checkpoint's name.

    Raises:
        UnetscopeError: there is nothing to draw.
    """
    found = (label for label, counts in measured.histograms.items() if counts.any())
    labels = [label for label in in_order(found) if label not in BUFFER_LABELS]
    if not labels:
        raise UnetscopeError("nothing to draw: no weights were measured")
    look, rows = theme(dark), -(-len(labels) // _COLUMNS)
    columns = min(_COLUMNS, len(labels))
    figure = new_figure(columns * _WIDTH + 0.4, rows * _HEIGHT + 0.8, look)
    panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
    low, high = _shown(measured, labels)
    for panel, label in zip(panels, labels, strict=False):
        octaves, positive, negative = _by_octave(measured.histograms[label])
        top = max(positive.max(), negative.max())
        panel.bar(octaves, positive / top, width=0.9, color=palette()(0.6), align="edge")
        panel.bar(octaves, -negative / top, width=0.9, color=palette()(0.3), align="edge")
        panel.set_title(label, fontsize=9, loc="left", pad=2)
        panel.axhline(0, color=look.faint, linewidth=0.6)
        dress(panel, look)
        panel.set_yticks([])
        panel.set_xlim(low, high)
        panel.tick_params(labelsize=7)
    for panel in panels[len(labels) :]:
        panel.set_visible(False)
    for panel in panels[max(len(labels) - columns, 0) : len(labels)]:
        panel.tick_params(labelbottom=True)
        panel.xaxis.set_major_formatter(lambda value, position: f"2$^{{{value:.0f}}}$")
    figure.supxlabel(
        "size of a value (above the line: positive, below: negative; height: share)", color=look.ink, fontsize=9
    )
    figure.suptitle(title or f"Values of {measured.name}", color=look.ink, fontsize=12)
    return figure


def _by_octave(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Octaves (the power of two where each begins), and how many positive and negative values each holds."""
    bounds, half = edges(), counts.size // 2
    octaves = np.arange(*_OCTAVES)
    # Sizes below the first octave are left out of the picture, zeros among them.
    with np.errstate(divide="ignore"):
        exponent = np.floor(np.log2(bounds[half:-1]))
    inside = np.isfinite(exponent) & (exponent >= octaves[0]) & (exponent <= octaves[-1])
    at = (exponent[inside] - octaves[0]).astype(int)
    positive = np.bincount(at, counts[half:][inside], octaves.size)
    negative = np.bincount(at, counts[:half][::-1][inside], octaves.size)
    return octaves, positive, negative


def _shown(measured: Statistics, labels: list[str]) -> tuple[float, float]:
    """The octaves that hold nearly all values of all labels."""
    octaves, positive, negative = _by_octave(np.sum([measured.histograms[label] for label in labels], axis=0))
    share = np.cumsum(positive + negative) / max((positive + negative).sum(), 1)
    return octaves[np.searchsorted(share, 0.0005)], octaves[min(np.searchsorted(share, 0.99999), octaves.size - 1)] + 1
