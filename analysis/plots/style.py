"""How every plot looks: palette, light and dark themes, number formats, and how a figure is saved."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, LogNorm, Normalize
from matplotlib.figure import Figure

from ...checkpoints.errors import UnetscopeError
from ...checkpoints.files.output import write_output
from ...checkpoints.text import short_number

PALETTE = "viridis"
FORMATS = (".png", ".svg", ".pdf")
_DPI = 150


@dataclass(frozen=True, slots=True)
class Theme:
    """Colours of everything but the data."""

    background: str
    ink: str
    faint: str
    nothing: str


LIGHT = Theme(background="#ffffff", ink="#1b1b1f", faint="#b9bac2", nothing="#e4e5ea")
DARK = Theme(background="#16171d", ink="#e8e8ee", faint="#4a4c58", nothing="#2a2c35")


def theme(dark: bool) -> Theme:
    return DARK if dark else LIGHT


def new_figure(width: float, height: float, look: Theme, layout: str | None = "constrained") -> Figure:
    """An empty figure (inches) that belongs to no window, so that threads and servers may draw."""
    figure = Figure(figsize=(width, height), facecolor=look.background, layout=layout)
    FigureCanvasAgg(figure)
    return figure


def dress(axes, look: Theme, frame: bool = False) -> None:
    """Give axes the theme's colours; no frame unless asked for."""
    axes.set_facecolor(look.background)
    axes.tick_params(colors=look.ink, length=0)
    axes.xaxis.label.set_color(look.ink)
    axes.yaxis.label.set_color(look.ink)
    axes.title.set_color(look.ink)
    for spine in axes.spines.values():
        spine.set_visible(frame)
        spine.set_color(look.faint)


def palette() -> Colormap:
    return matplotlib.colormaps[PALETTE]


def scale(values: Iterable[float], log: bool, *, decades: float = 4.0) -> Normalize:
    """The colour scale of some values; a log scale shows the largest `decades` at most and leaves 0 to its lowest colour."""
    finite = np.array([v for v in values if np.isfinite(v)])
    if not log:
        low, high = (finite.min(), finite.max()) if finite.size else (0.0, 1.0)
        return Normalize(low, high if high > low else low + 1.0, clip=True)
    positive = finite[finite > 0]
    if not positive.size:
        return LogNorm(1e-6, 1.0, clip=True)
    high = positive.max()
    low = max(positive.min(), high * 10**-decades)
    return LogNorm(low if low < high else high / 10, high, clip=True)


def ink_on(colour) -> str:
    """Black or white, whichever stands out more on a colour (RGB between 0 and 1)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 > 1.05 / (luminance + 0.05) else "#ffffff"


def colour_bar(figure: Figure, norm: Normalize, label: str, look: Theme, **where):
    """A horizontal colour bar with five readable numbers; `where` says which axes it belongs to, or `cax` which it fills."""
    bar = figure.colorbar(ScalarMappable(norm, palette()), orientation="horizontal", **where)
    spread = np.geomspace if isinstance(norm, LogNorm) else np.linspace
    ticks = spread(norm.vmin, norm.vmax, 5)
    bar.set_ticks(ticks, labels=[short_number(tick) for tick in ticks])
    bar.minorticks_off()
    bar.set_label(label, color=look.ink, fontsize=8)
    bar.ax.tick_params(colors=look.ink, labelsize=8)
    bar.outline.set_visible(False)


def clipped(name: str, length: int = 32) -> str:
    """A name of at most that many characters, with an ellipsis in its middle: files differ at both ends."""
    half = (length - 1) // 2
    return name if len(name) <= length else f"{name[: length - 1 - half]}…{name[-half:]}"


def save(figure: Figure, path: Path | str) -> Path:
    """Write a figure; the suffix says as what.

    Raises:
        UnetscopeError: the suffix is none of .png, .svg, .pdf, or the folder does not exist.
        OutputError: it cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise UnetscopeError(f"{path}: cannot draw as {path.suffix or 'a file without suffix'}; use .png, .svg or .pdf")
    if not path.parent.is_dir():
        raise UnetscopeError(f"{path.parent}: no such folder")
    # Text stays text in an SVG: smaller files, and words that can be searched. A fixed salt: the same bytes every time.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "unetscope"}):
        picture, form = io.BytesIO(), path.suffix[1:].lower()
        figure.savefig(picture, format=form, dpi=_DPI, facecolor=figure.get_facecolor(), metadata=_undated(path))
    write_output(path, picture.getvalue())
    return path


def _undated(path: Path) -> dict:
    """Metadata without the time of writing, so that equal pictures are equal files."""
    return {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix.lower(), {})
