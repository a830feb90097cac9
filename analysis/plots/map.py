"""Many checkpoints as points on a plane whose distances are, as well as two dimensions can, those of the weights."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from ..collection import MODEL, Comparison
from .placing import place_names
from .style import Theme, clipped, dress, new_figure, palette, theme

# Inches: the map's width, and its key's.
_SIZE, _KEY = 9.0, 3.0
_NAME = 9.0
# With more places than this, numbers stand on the map and the names in a key next to it.
_MOST_NAMES = 10


def draw_map(comparison: Comparison, group: str = MODEL, *, dark: bool = False, title: str | None = None) -> Figure:
    """A 2-D map of the collection (classical multidimensional scaling); equal checkpoints share a point and a name tag.

    Args:
        comparison: from `compare`.
        group: `model`, a component or a label.
        dark: for a dark background.
        title: instead of the group's name.

    Raises:
        UnetscopeError: the group was not measured.
    """
    look, points = theme(dark), comparison.map(group)
    tags = _tags(points)
    numbered = len(tags) > _MOST_NAMES
    same = dict(zip(comparison.names, comparison.same[group], strict=True))
    names = [_tag(row.names, row.Index + 1 if numbered else None, same) for row in tags.itertuples()]
    side = _KEY if numbered else 0.0
    figure = new_figure(_SIZE + side, _SIZE * 0.8, look, layout=None)
    axes = figure.add_axes((0.02, 0.06, (_SIZE - 0.2) / (_SIZE + side), 0.87))
    reference = None if comparison.reference is None else comparison.names[comparison.reference]
    for row in tags.itertuples():
        star = reference in row.names
        axes.scatter(row.x, row.y, s=220 if star else 60, marker="*" if star else "o", color=palette()(0.6), zorder=3)
    _frame(axes, tags)
    dress(axes, look, frame=True)
    axes.set_xticks([])
    axes.set_yticks([])
    shown = f"distances on the map show {points.attrs['shown']:.0%} of the squared distances between the files"
    axes.set_xlabel(shown if reference is None else f"{shown}; star: {reference}", fontsize=9)
    figure.suptitle(title or f"Map, {group}", color=look.ink, fontsize=12)
    beside = [str(i + 1) for i in range(len(tags))] if numbered else names
    place_names(axes, tags[["x", "y"]].to_numpy(), beside, ink=look.ink, line=look.faint, size=_NAME)
    if numbered:
        _write_key(figure, names, _SIZE / (_SIZE + side), look)
    return figure


def _write_key(figure: Figure, names: list[str], left: float, look: Theme) -> None:
    """The list of names, as large as its lines allow."""
    text = "\n".join(names)
    size = min(_NAME, 0.87 * _SIZE * 0.8 * 72 / (1.25 * (text.count("\n") + 1)))
    figure.text(left, 0.93, text, fontsize=size, color=look.ink, va="top", linespacing=1.2)


def _tags(points: pd.DataFrame) -> pd.DataFrame:
    """One row per place: `x`, `y`, `names`. Places nearer than a hundredth of the map share a tag."""
    reach = max(np.ptp(points["x"]), np.ptp(points["y"]), 1e-300) / 100
    rows: list[tuple[float, float, list[str]]] = []
    for point in points.itertuples():
        for x, y, names in rows:
            if np.hypot(point.x - x, point.y - y) < reach:
                names.append(point.name)
                break
        else:
            rows.append((point.x, point.y, [point.name]))
    # Numbered from left to right.
    return pd.DataFrame(sorted(rows), columns=["x", "y", "names"])


def _tag(names: list[str], number: int | None, same: dict[str, int]) -> str:
    """The names at one place, one a line: `=` before one with the same bits as the first, `≈` before one that is near."""
    first, *others = (clipped(name, 28 if number is None else 32) for name in names)
    signs = ["=" if same[name] == same[names[0]] else "≈" for name in names[1:]]
    lines = [f"{sign} {name}" for sign, name in zip(signs, others, strict=True)]
    if number is not None:
        return "\n    ".join([f"{number}  {first}", *lines])
    return "\n".join([first, *lines[:3], *([f"and {len(lines) - 3} more"] if len(lines) > 3 else [])])


def _frame(axes, tags: pd.DataFrame) -> None:
    """Equal units on both axes, and room for names around the points."""
    spread = max(np.ptp(tags["x"]), np.ptp(tags["y"])) or 1.0
    for middle, half, setter in (
        (tags["x"].agg(["min", "max"]).mean(), 0.75, axes.set_xlim),
        (tags["y"].agg(["min", "max"]).mean(), 0.60, axes.set_ylim),
    ):
        setter(middle - half * spread, middle + half * spread)
    axes.set_aspect("equal")
