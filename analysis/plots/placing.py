"""Names next to points, so that no name covers another name or a point."""

from __future__ import annotations

from itertools import product

import numpy as np
from matplotlib.transforms import Bbox

# Where a name may stand: distances from its point in points of type, then directions, the preferred first.
_REACH = (9, 18, 30, 45, 65, 90, 120, 155, 195)
_DIRECTIONS = [(1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1), (1, 2), (1, -2), (-1, 2), (-1, -2)]
_CLEARANCE = 6.0


def place_names(axes, points: np.ndarray, names: list[str], *, ink: str, line: str, size: float) -> None:
    """Write each name at the nearest free place around its point, with a thin line where it had to move away.

    Args:
        axes: whose limits are final.
        points: (n, 2) in data coordinates.
        names: one text per point; may have several lines.
        ink, line: colours. size: of the type.
    """
    figure = axes.figure
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    dots = axes.transData.transform(points)
    radius = _CLEARANCE * figure.dpi / 72
    taken = [Bbox([[x - radius, y - radius], [x + radius, y + radius]]) for x, y in dots]
    room = axes.get_window_extent(renderer)
    # From the outside in: names at the rim find free space outside and leave the middle to the others.
    order = np.argsort(-np.hypot(*(dots - dots.mean(axis=0)).T), kind="stable")
    for i in order:
        text = axes.text(0, 0, names[i], fontsize=size, color=ink, transform=None, linespacing=1.05, zorder=4)
        box = text.get_window_extent(renderer)
        spot, reach = _free_spot(dots[i], box.width, box.height, dots.mean(axis=0), taken, room, figure.dpi / 72)
        taken.append(Bbox.from_bounds(*spot, box.width, box.height))
        text.remove()
        offset = (np.array(spot) - dots[i]) * 72 / figure.dpi
        # The line leaves the name where it is nearest to its point.
        across, up = np.clip((dots[i] - spot) / (box.width, box.height), 0, 1)
        leader = {
            "arrowstyle": "-",
            "color": line,
            "linewidth": 0.8,
            "shrinkA": 0,
            "shrinkB": 3,
            "relpos": (across, up),
        }
        axes.annotate(
            names[i],
            points[i],
            offset,
            textcoords="offset points",
            fontsize=size,
            color=ink,
            linespacing=1.05,
            arrowprops=leader if reach > _REACH[0] else None,
            zorder=2,
        )


def _free_spot(dot, width, height, middle, taken, room, scale) -> tuple[tuple[float, float], float]:
    """The lower left corner of the nearest free place for a box, and how far away it is; the least bad one if none is free."""
    best, least = None, np.inf
    outward = np.sign(dot - middle)
    directions = sorted(_DIRECTIONS, key=lambda d: -np.sign(d) @ outward)
    for reach, (dx, dy) in product(_REACH, directions):
        step = reach * scale / np.hypot(dx, dy)
        x = dot[0] + dx * step - (0 if dx > 0 else width if dx < 0 else width / 2)
        y = dot[1] + dy * step - (0 if dy > 0 else height if dy < 0 else height / 2)
        box = Bbox.from_bounds(x, y, width, height)
        covered = sum(_overlap(box, other) for other in taken) + (box.width * box.height - _overlap(box, room))
        if covered < least:
            best, least = ((x, y), reach), covered
        if covered <= 0:
            break
    return best


def _overlap(one: Bbox, other: Bbox) -> float:
    """The area that two boxes share."""
    wide = min(one.x1, other.x1) - max(one.x0, other.x0)
    high = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(wide, 0.0) * max(high, 0.0)
