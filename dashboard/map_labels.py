"""Where names stand on a map, so that none covers another, or a point.

How wide the map will be is not known here: a place is free when it is free at every one of a few widths.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.sparse.csgraph import connected_components

# Pixels of the map, and of what is written on it: its height, a letter, a line; half of a point.
WIDTHS = (560, 760, 1100)
HEIGHT = 350
LETTER, LINE, POINT = 7.0, 15, 8
# Points nearer than this share a label: parts of the map's width, across and upright.
_CROWDED = (0.12, 0.07)
_SHORT = 26

Align = Literal["left", "center", "right"]
# How a text stands above or below its point, and where its edge is then, in pixels from the point.
_SIDES: dict[Align, int] = {"center": 0, "left": -6, "right": 6}


@dataclass(frozen=True)
class Label:
    """A text next to a point.

    Attributes:
        at: the point's number.
        text: with a line break between lines.
        dx, dy: from the point to the text's edge (its middle where it is centred) and to the middle of its first line.
        align: which edge of the text that is.
    """

    at: int
    text: str
    dx: int
    dy: int
    align: Align

    def box(self, point: np.ndarray) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of the text, for its point in pixels."""
        lines = self.text.split("\n")
        width = LETTER * max(map(len, lines))
        left = point[0] + self.dx - {"left": 0.0, "center": width / 2, "right": width}[self.align]
        top = point[1] + self.dy - LINE / 2
        return left, top, left + width, top + LINE * len(lines)


def short_name(name: str) -> str:
    """A name that fits next to a chart: its middle gives way."""
    return name if len(name) <= _SHORT else f"{name[: _SHORT - 12]}…{name[-11:]}"


def labels(places: np.ndarray, names: Sequence[Sequence[str]], ends: np.ndarray) -> list[Label]:
    """A label for each point, or for each heap of points that are too near to each other for labels of their own.

    The longest text is placed first; each takes the first place that is free, or else the one where it covers least.

    Args:
        places: points (N, 2), upwards positive.
        names: what each of them is called.
        ends: the lowest and the highest values that the map shows (2, 2).
    """
    points = [_pixels(places, ends, width) for width in WIDTHS]
    placed: list[Label] = []
    for heap in sorted(_heaps(places), key=lambda heap: -len(_text(heap, names, " "))):
        least, best = np.inf, None
        for label in _candidates(heap, places, names):
            covered = _covered(label, placed, points)
            if covered < least:
                least, best = covered, label
            if not covered:
                break
        placed.append(best)
    return placed


def _pixels(places: np.ndarray, ends: np.ndarray, width: float) -> np.ndarray:
    shares = (places - ends[0]) / np.maximum(ends[1] - ends[0], 1e-300)
    return np.stack([shares[:, 0] * width, (1 - shares[:, 1]) * HEIGHT], axis=1)


def _heaps(places: np.ndarray) -> list[np.ndarray]:
    """The points of each heap, the highest one first."""
    span = max(float(np.ptp(places, axis=0).max()), 1e-12)
    scaled = places / np.multiply(_CROWDED, span)
    near = np.abs(scaled[:, None] - scaled[None]).max(axis=2) < 1
    count, heaps = connected_components(near, directed=False)
    members = [np.flatnonzero(heaps == heap) for heap in range(count)]
    return [some[np.argsort(-places[some, 1], kind="stable")] for some in members]


def _text(heap: np.ndarray, names: Sequence[Sequence[str]], space: str) -> str:
    found = [name for i in sorted(heap) for name in names[i]]
    more = f"{space}and {len(found) - 3} more" if len(found) > 3 else ""
    # Models that share a point are equal.
    between = " =" if len(heap) == 1 else ","
    return f"{between}{space}".join(map(short_name, found[:3])) + more


def _candidates(heap: np.ndarray, places: np.ndarray, names: Sequence[Sequence[str]]) -> list[Label]:
    """Where a heap's text may stand, the best places first: on one line, then on several."""
    top, bottom = int(heap[0]), int(heap[-1])
    left, right = (int(heap[pick(places[heap, 0])]) for pick in (np.argmin, np.argmax))
    texts = dict.fromkeys(_text(heap, names, space) for space in (" ", "\n"))
    found = []
    for text in texts:
        above, half = -13 - LINE * text.count("\n"), -(LINE * text.count("\n")) // 2
        beside = [Label(right, text, 13, half, "left"), Label(left, text, -13, half, "right")]
        for far in (0, LINE, 2 * LINE):
            for align, shift in _SIDES.items():
                found += [Label(top, text, shift, above - far, align), Label(bottom, text, shift, 15 + far, align)]
                # After the places right above and below, before all others.
                found += beside
                beside = []
    return found


def _covered(label: Label, placed: Sequence[Label], points: Sequence[np.ndarray]) -> float:
    """The area that a label would cover of others and of points, or have outside, over all widths."""
    area = 0.0
    for width, pixels in zip(WIDTHS, points, strict=True):
        box = np.array([label.box(pixels[label.at])])
        taken = np.concatenate([pixels - POINT, pixels + POINT], axis=1)
        others = np.array([*taken, *(other.box(pixels[other.at]) for other in placed)])
        inside = _shared(box, np.array([[0, 0, width, HEIGHT]]))
        area += _shared(box, others) + float(np.prod(box[0, 2:] - box[0, :2])) - inside
    return area


def _shared(box: np.ndarray, others: np.ndarray) -> float:
    """The area that a box has in common with others, all together; a box is left, top, right, bottom."""
    sides = np.minimum(box[:, 2:], others[:, 2:]) - np.maximum(box[:, :2], others[:, :2])
    return float(np.maximum(sides, 0).prod(axis=1).sum())
