"""Title, colour scale and the key to the signs: what a stranger needs to read a diagram."""

from __future__ import annotations

from ..checkpoints.text import tick
from .palette import ColourScale
from .svg import Canvas

_BAR = 300.0


def draw_title(canvas: Canvas, title: str, subtitle: str, room: float) -> float:
    """Title and subtitle at the top left; returns the height that they take."""
    canvas.text(0, 20, title, "h1", room)
    canvas.text(0, 42, subtitle, "h2", room, "soft")
    return 62.0


def draw_scale(canvas: Canvas, x: float, y: float, scale: ColourScale, units: str, missing: bool) -> float:
    """The colour bar with its ticks, and what grey and hatching mean; returns the height."""
    with canvas.group("legend-scale", "legend on-page"):
        kind = "logarithmic" if scale.kind == "log" else "linear"
        canvas.text(x, y + 10, f"{units} ({kind} scale)" if units else f"colour: value ({kind} scale)", "sb", 420)
        canvas.rect(x, y + 18, _BAR, 14, fill="url(#palette)", rx=0)
        for value in scale.ticks():
            at = x + _BAR * scale.fraction(value)
            canvas.path(f"M{at:.1f} {y + 32:.1f}v4", "box")
            side = {scale.low: "", scale.high: "end"}.get(value, "mid")
            canvas.text(at, y + 47, tick(value), "xs", extra=side)
        marks = [("none", "", "no value")] + ([("", "url(#hatched)", "missing or mismatched")] if missing else [])
        at = x + _BAR + 28
        for cls, fill, line in marks:
            canvas.rect(at, y + 18, 22, 14, f"box {cls}".strip(), fill, rx=3)
            canvas.text(at + 28, y + 29, line, "sm")
            at += 40 + canvas.room_for(line, "sm")
        canvas.grow(at - 12, y + 47)
    return 58.0


def draw_kinds(canvas: Canvas, x: float, y: float, kinds: list[tuple[str, str]]) -> float:
    """Swatches of the kinds of box, for diagrams without values: (class, words); returns the height."""
    with canvas.group("legend-kinds", "legend on-page"):
        for cls, line in kinds:
            canvas.rect(x, y, 22, 14, f"box {cls}", rx=3)
            canvas.text(x + 28, y + 11, line, "sm")
            x += 46 + canvas.room_for(line, "sm")
            canvas.grow(x - 16, y + 14)
    return 26.0


def draw_arrows(canvas: Canvas, x: float, y: float, arrows: list[tuple[str, str]]) -> float:
    """The kinds of arrow: (role, words); returns the height."""
    with canvas.group("legend-arrows", "legend on-page"):
        for role, line in arrows:
            canvas.arrow([(x, y + 7), (x + 34, y + 7)], role)
            canvas.text(x + 42, y + 11, line, "sm")
            x += 62 + canvas.room_for(line, "sm")
    return 26.0


def draw_notes(canvas: Canvas, x: float, y: float, notes: list[str], room: float) -> float:
    """Lines of small text, wrapped to the room; returns the height."""
    line_height, at = 17.0, y
    with canvas.group("legend-notes", "legend on-page"):
        for note in notes:
            for line in wrapped(note, room):
                canvas.text(x, at + 11, line, "sm", extra="soft")
                at += line_height
    return at - y + 4


def wrapped(note: str, room: float, cls: str = "sm") -> list[str]:
    """A text as lines that fit the room."""
    lines, line = [], ""
    for word in note.split(" "):
        longer = f"{line} {word}".strip()
        if line and Canvas.room_for(longer, cls) > room:
            lines.append(line)
            line = word
        else:
            line = longer
    return [*lines, line]
