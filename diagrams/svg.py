"""A small writer of SVG: boxes, text, arrows and groups that carry ids, classes, data attributes and tooltips.

Whatever reaches a file goes through `Canvas`, which escapes it; names in checkpoints are not to be trusted.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from xml.sax.saxutils import escape, quoteattr

from ..checkpoints.text import free_name
from . import text as texts
from .palette import colour
from .theme import TEXTS, Theme, root_class, stylesheet

Point = tuple[float, float]
MARGIN = 24.0
_NOT_IN_ID = re.compile(r"[^A-Za-z0-9_.:-]+")


def num(value: float) -> str:
    """A coordinate, with at most one decimal."""
    return f"{value:.1f}".removesuffix(".0").replace("-0", "-0" if value <= -0.05 else "0")


def safe_id(name: str) -> str:
    """A name as an XML id: other characters become `_`."""
    return _NOT_IN_ID.sub("_", texts.plain(name, 200))


class Canvas:
    """Collects elements. Coordinates are pixels, y grows downwards."""

    def __init__(self, prefix: str = ""):
        self.prefix = prefix
        self.parts: list[str] = []
        self.width = 0.0
        self.height = 0.0
        self._ids: set[str] = set()

    def grow(self, x: float, y: float) -> None:
        """Make the picture at least so large."""
        self.width, self.height = max(self.width, x), max(self.height, y)

    @contextmanager
    def group(self, own_id: str = "", cls: str = "", title: str = "", **data: object) -> Iterator[None]:
        """A `<g>`; `title` is its tooltip, keywords become `data-` attributes."""
        attributes = ""
        if own_id:
            attributes += f" id={quoteattr(self._unique(own_id))}"
        if cls:
            attributes += f' class="{cls}"'
        attributes += "".join(f" data-{k}={quoteattr(texts.plain(v))}" for k, v in data.items() if v not in (None, ""))
        tooltip = f"<title>{escape(texts.plain(title, 500))}</title>" if title else ""
        self.parts.append(f"<g{attributes}>{tooltip}")
        yield
        self.parts.append("</g>")

    def _unique(self, name: str) -> str:
        own = free_name(self.prefix + safe_id(name), self._ids.__contains__, "{}-{}")
        self._ids.add(own)
        return own

    def rect(
        self, x: float, y: float, w: float, h: float, cls: str = "", fill: str = "", rx: float = 8, title: str = ""
    ) -> None:
        attributes = (
            (f' class="{cls}"' if cls else "")
            + (f' fill="{fill}"' if fill else "")
            + (f' rx="{num(rx)}"' if rx else "")
        )
        close = f"><title>{escape(texts.plain(title, 500))}</title></rect>" if title else "/>"
        self.parts.append(f'<rect x="{num(x)}" y="{num(y)}" width="{num(w)}" height="{num(h)}"{attributes}{close}')
        self.grow(x + w, y + h)

    def text(self, x: float, y: float, line: object, cls: str, room: float | None = None, extra: str = "") -> None:
        """A line of text with its baseline at y. `room`: the width it must fit in; `extra`: more classes."""
        size, bold = TEXTS[cls]
        shown = texts.fit(line, room, size, bold) if room else texts.plain(line)
        if shown:
            classes = f"{cls} {extra}".strip()
            self.parts.append(f'<text x="{num(x)}" y="{num(y)}" class="{classes}">{escape(shown)}</text>')

    @staticmethod
    def width_of(line: object, cls: str) -> float:
        return texts.width(texts.plain(line), *TEXTS[cls])

    @classmethod
    def room_for(cls, line: object, size: str) -> float:
        """The width to leave for a text that stands next to others, whatever font is used."""
        return cls.width_of(line, size) * texts.WIDER

    def path(self, d: str, cls: str) -> None:
        self.parts.append(f'<path d="{d}" class="{cls}"/>')

    def lines(self, points: Sequence[Point], cls: str, corner: float = 8) -> None:
        """A polyline with rounded corners."""
        self.path(rounded(points, corner), cls)

    def arrow(self, points: Sequence[Point], role: str, head: float = 8, halo: bool = False, corner: float = 8) -> None:
        """A polyline that ends in an arrow head; `role` is `flow`, `skip`, `time` or `words`."""
        (x0, y0), (x1, y1) = points[-2], points[-1]
        away = math.hypot(x1 - x0, y1 - y0) or 1.0
        ux, uy = (x1 - x0) / away, (y1 - y0) / away
        base = (x1 - ux * head, y1 - uy * head)
        shaft = rounded([*points[:-1], base], corner)
        if halo:
            self.path(shaft, "halo")
        self.path(shaft, role if role in ("flow", "skip") else f"rail {role}")
        self.head((x1, y1), (ux, uy), role, head)

    def head(self, tip: Point, direction: Point, role: str, head: float = 8) -> None:
        """An arrow head at `tip` that points along the unit vector `direction`."""
        (x, y), (ux, uy), half = tip, direction, head * 0.42
        left = (x - ux * head - uy * half, y - uy * head + ux * half)
        right = (x - ux * head + uy * half, y - uy * head - ux * half)
        corners = "L".join(f"{num(a)} {num(b)}" for a, b in (tip, left, right))
        self.path(f"M{corners}Z", f"{role}-head")

    def place(self, other: Canvas, x: float, y: float) -> None:
        """Put another canvas on this one."""
        self.parts += [f'<g transform="translate({num(x)} {num(y)})">', *other.parts, "</g>"]
        self.grow(x + other.width, y + other.height)

    def document(self, title: str, theme: Theme = "auto", margin: float = MARGIN) -> str:
        """The whole file: a self-contained SVG with its own stylesheet and background."""
        w, h = num(self.width + 2 * margin), num(self.height + 2 * margin)
        size = f'width="{w}" height="{h}" viewBox="0 0 {w} {h}"'
        head = (
            f'<svg xmlns="http://www.w3.org/2000/svg" {size} class="{root_class(theme)}" role="img">\n'
            f"<title>{escape(texts.plain(title))}</title>\n<style>{stylesheet(theme)}</style>\n{_DEFS}"
        )
        body = "\n".join(self.parts)
        page = f'<rect class="page" width="{w}" height="{h}"/>'
        return f'{head}\n{page}\n<g transform="translate({num(margin)} {num(margin)})">\n{body}\n</g>\n</svg>\n'


_STOPS = "".join(f'<stop offset="{i / 16:g}" stop-color="{colour(i / 16)}"/>' for i in range(17))
_DEFS = (
    '<defs><pattern id="hatched" width="8" height="8" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
    '<rect class="none" width="8" height="8"/><path class="hatch" d="M0 0V8"/></pattern>'
    f'<linearGradient id="palette">{_STOPS}</linearGradient></defs>'
)


def rounded(points: Sequence[Point], radius: float) -> str:
    """Path data of a polyline whose corners are rounded."""
    d = [f"M{num(points[0][0])} {num(points[0][1])}"]
    for before, corner, after in zip(points, points[1:], points[2:], strict=False):
        start, end = _towards(corner, before, radius), _towards(corner, after, radius)
        d.append(f"L{num(start[0])} {num(start[1])}Q{num(corner[0])} {num(corner[1])} {num(end[0])} {num(end[1])}")
    d.append(f"L{num(points[-1][0])} {num(points[-1][1])}")
    return "".join(d)


def _towards(a: Point, b: Point, distance: float) -> Point:
    """The point `distance` from a on the way to b, at most half of the way."""
    length = math.hypot(b[0] - a[0], b[1] - a[1]) or 1.0
    share = min(distance / length, 0.5)
    return a[0] + (b[0] - a[0]) * share, a[1] + (b[1] - a[1]) * share
