"""The box that stands for a block, in every diagram of the block level."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..checkpoints.text import number
from .summary import Slot
from .svg import Canvas
from .values import Paint

HEIGHT = 66.0
_PAD = 12.0


@dataclass(frozen=True, slots=True)
class Content:
    """What a box says: its label, what it is, a line of facts, its slots, and a second value (a merge weight)."""

    label: str
    what: str
    facts: str
    slot: Slot | None = None
    badge: float | None = None
    tooltip: str = ""


def draw_box(canvas: Canvas, x: float, y: float, w: float, content: Content, paint: Paint, h: float = HEIGHT) -> None:
    """A box with its upper left corner at (x, y)."""
    room = w - 2 * _PAD
    value = number(paint.value) if paint.value is not None else ""
    with canvas.group(
        f"block-{content.label}", f"block {paint.group}", content.tooltip, label=content.label, value=value
    ):
        canvas.rect(x, y, w, h, f"box {paint.box}".strip(), paint.fill)
        left = draw_pills(canvas, x + w - _PAD, y + 8, content.slot)
        canvas.text(x + _PAD, y + 23, content.label, "lb", left - x - _PAD - 4)
        canvas.text(x + _PAD, y + 40, content.what, "md", room)
        taken = _right(canvas, x + w - _PAD, y + 57, paint.printed, "vl" if value else "sb")
        canvas.text(x + _PAD, y + 57, content.facts, "sm", room - taken, "dim")
        if content.badge is not None:
            draw_badge(canvas, x, y + h, w, content.badge)


def _right(canvas: Canvas, x: float, y: float, line: str, cls: str) -> float:
    """Text that ends at x; returns the width it takes."""
    if not line:
        return 0.0
    canvas.text(x, y, line, cls, extra="end")
    return canvas.width_of(line, cls) + 8


def draw_pills(canvas: Canvas, right: float, y: float, slot: Slot | None) -> float:
    """The slot marks, right-aligned; returns where they begin."""
    if slot is None:
        return right
    marks = [(slot.mbw_text, "" if slot.own else " borrow")]
    if slot.lbw is not None:
        marks.insert(0, (f"LBW {slot.lbw}", ""))
    for line, extra in reversed(marks):
        w = canvas.width_of(line, "xs") + 10
        right -= w
        canvas.rect(right, y, w, 16, f"pill{extra}", rx=8)
        canvas.text(right + w / 2, y + 11.5, line, "xs", extra="mid")
        right -= 5
    return right


def draw_badge(canvas: Canvas, x: float, bottom: float, w: float, share: float) -> None:
    """A bar below the text for a second value, 0 to 1, with its number next to it."""
    value = number(share) if math.isfinite(share) else "?"
    length = w - 2 * _PAD - 44
    y = bottom - 15
    canvas.text(x + _PAD, y + 9, value, "sb")
    for part, cls in ((1.0, "bar track"), (min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0, "bar")):
        if part:
            canvas.rect(x + _PAD + 40, y + 2, length * part, 6, cls, rx=3)
