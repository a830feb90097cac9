"""Draws docs/pictures/architecture.svg, the rooms and what a record is: `python docs/pictures/architecture.py`."""

from __future__ import annotations

from pathlib import Path

from unetscope.diagrams.svg import Canvas

PICTURE = Path(__file__).with_suffix(".svg")
# Room -> (what it does, its folders of records, the rooms that an arrow leads to; arrows that follow from others are left out).
ROOMS = {
    "cli": ("what the user typed", (), ("dashboard",)),
    "dashboard": ("the app, in a browser", ("pages",), ("search",)),
    "search": ("finds a recipe", ("rewards", "generators"), ("merge", "diagrams")),
    "merge": ("recipe → plan → new checkpoint", ("methods",), ("analysis",)),
    "analysis": ("numbers about weights", (), ("library",)),
    "library": ("what is known of a file and of a folder", (), ("checkpoints",)),
    "diagrams": ("layers as pictures", (), ("checkpoints",)),
    "checkpoints": (
        "files on disk → named tensors of a family",
        ("formats", "encodings", "families"),
        (),
    ),
}
# Room -> (left, top, width, height).
_WIDE, _HIGH, _STEP = 560.0, 50.0, 76.0
_PLACES = {
    "cli": (0, 0, _WIDE, _HIGH),
    "dashboard": (0, _STEP, _WIDE, _HIGH),
    "search": (0, 2 * _STEP, _WIDE, _HIGH),
    "merge": (0, 3 * _STEP, 370, _HIGH),
    "analysis": (0, 4 * _STEP, 370, _HIGH),
    "library": (0, 5 * _STEP, 370, _HIGH),
    "diagrams": (400, 3 * _STEP, 160, 2 * _STEP + _HIGH),
    "checkpoints": (0, 6 * _STEP, _WIDE, 118),
}
_PILL, _PILL_HIGH = 92.0, 26.0
# The way of a file in `checkpoints`: the folders that it passes, and what each makes of it.
_WAY = {"formats": "byte ranges", "encodings": "numbers", "recognition": "keys", "families": "blocks"}
_PANEL = 600.0
_CODE = (
    "SDXL = Family(",
    '    id="sdxl",',
    '    blocks="IN00-08  input_blocks.{n} ...",',
    "    components=(CLIP_L, CLIP_G, VAE),",
    ")",
)
_LAWS = (
    ("One file in the folder of its kind,", "or in another package (an entry point)."),
    ("Found and checked by its Registry;", "a name that is taken is refused."),
    ("The rest of the house asks the record", "and never compares its name."),
)

_ASIDE = (
    "Arrows: which room is built on which. A room may",
    "import every room that its arrows lead to. On the",
    "way to a block no weight is read, only headers.",
)


def main() -> None:
    """Write the picture."""
    PICTURE.write_text(picture(), encoding="utf-8", newline="\n")


def picture() -> str:
    """The picture as SVG."""
    canvas = Canvas()
    for room in ROOMS:
        _arrows(canvas, room)
    for room in ROOMS:
        _room(canvas, room)
    _record(canvas)
    return canvas.document("The rooms of Unetscope, and what a record is")


def _room(canvas: Canvas, room: str) -> None:
    x, y, width, height = _PLACES[room]
    does, records, _ = ROOMS[room]
    with canvas.group(room, "on-page"):
        canvas.rect(x, y, width, height, "box k-res")
        canvas.text(x + 14, y + 22, room, "lb")
        canvas.text(x + 14, y + 39, does, "sm", width - 20, "dim")
        if room == "checkpoints":
            _way(canvas, x, y, records)
        else:
            for n, kind in enumerate(reversed(records)):
                _pill(canvas, kind, x + width - 12 - (n + 1) * _PILL - n * 8, y + 12)


def _way(canvas: Canvas, x: float, y: float, records: tuple[str, ...]) -> None:
    """What a file passes on its way to keys and blocks."""
    across, row = x + 14, y + 58
    for n, (folder, gives) in enumerate(_WAY.items()):
        if n:
            canvas.arrow([(across, row + _PILL_HIGH / 2), (across + 20, row + _PILL_HIGH / 2)], "flow", head=6)
            across += 22
        if folder in records:
            _pill(canvas, folder, across, row)
        else:
            canvas.text(across + _PILL / 2, row + 17, folder, "sm", extra="mid")
        canvas.text(across + _PILL / 2, row + 44, gives, "xs", extra="mid dim")
        across += _PILL
    canvas.arrow([(across, row + _PILL_HIGH / 2), (across + 20, row + _PILL_HIGH / 2)], "flow", head=6)
    canvas.text(across + 26, row + 17, "IN04", "sb")


def _pill(canvas: Canvas, kind: str, x: float, y: float) -> None:
    canvas.rect(x, y, _PILL, _PILL_HIGH, "box k-norm", rx=13)
    canvas.text(x + _PILL / 2, y + 17, kind, "sb", extra="mid")


def _arrows(canvas: Canvas, room: str) -> None:
    """From a room to those that it is built on, straight down."""
    x, y, width, height = _PLACES[room]
    for below in ROOMS[room][2]:
        left, top, wide, _ = _PLACES[below]
        middle = max(x, left) + min(width, wide) / 2
        canvas.arrow([(middle, y + height), (middle, top - 2)], "flow")


def _record(canvas: Canvas) -> None:
    x, width = _PANEL, 330.0
    with canvas.group("record", "on-page"):
        canvas.rect(x, 0, width, 5 * _STEP + 118, "plate")
        canvas.text(x + 16, 28, "A record", "lb")
        canvas.text(x + 16, 58, "checkpoints/families/sdxl.py", "sm", extra="soft")
        canvas.rect(x + 16, 68, width - 32, 22 + 17 * len(_CODE), "box k-norm")
        for n, line in enumerate(_CODE):
            indent = len(line) - len(line.lstrip())
            canvas.text(x + 28 + 6 * indent, 91 + 17 * n, line.strip(), "sm")
        y = 212.0
        for n, (first, second) in enumerate(_LAWS):
            canvas.text(x + 16, y, f"{n + 1}", "mb")
            canvas.text(x + 36, y, first, "md")
            canvas.text(x + 36, y + 18, second, "md")
            y += 54
        _pill(canvas, "methods", x + 16, y - 4)
        canvas.text(x + 28 + _PILL, y + 13, "a folder of records of one kind", "sm", extra="soft")
        for n, line in enumerate(_ASIDE):
            canvas.text(x + 16, y + 50 + 18 * n, line, "sm", extra="soft")


if __name__ == "__main__":
    main()
