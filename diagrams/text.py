"""How wide a text is, how it is shortened to fit, and how numbers and shapes are written.

SVG has no text boxes: a writer must know widths. These are those of Helvetica, Arial and Liberation Sans (the same
metrics), which the stylesheet asks for; boxes leave a margin for the fonts that take their place.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# Advance widths of the characters 32 to 126, in thousandths of the font size.
_REGULAR = """278 278 355 556 556 889 667 191 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 278 278
584 584 584 556 1015 667 667 722 722 667 611 778 722 278 500 667 556 833 722 778 667 778 722 667 611 722 667 944 667 667 611
278 278 278 469 556 333 556 556 500 556 556 278 556 556 222 222 500 222 833 556 556 556 556 333 500 278 556 500 722 500 500
500 334 260 334 584"""
_BOLD = """278 333 474 556 556 889 722 238 333 333 389 584 278 333 278 278 556 556 556 556 556 556 556 556 556 556 333 333 584
584 584 611 975 722 722 722 722 667 611 778 722 278 556 722 611 833 722 778 667 778 722 667 611 722 667 944 667 667 611 333
278 333 584 556 333 556 611 556 611 556 333 611 611 278 278 556 278 889 611 611 611 611 389 556 333 611 556 778 556 556 500
389 280 389 584"""
_WIDTHS = {False: [int(x) for x in _REGULAR.split()], True: [int(x) for x in _BOLD.split()]}
_OTHERS = {"·": 278, "→": 1000, "…": 1000, "×": 584, "–": 556}

# Characters that XML cannot hold, and every kind of line break.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff\u2028\u2029\u202a-\u202e\u2066-\u2069]"
)
_SPACE = re.compile(r"\s+")
LONGEST = 300
# How much wider a substitute font may be (DejaVu Sans); free-standing text leaves room for it.
WIDER = 1.17


def plain(text: object, longest: int = LONGEST) -> str:
    """A text from anywhere as one line of printable characters, shortened; not yet escaped for any format."""
    line = _SPACE.sub(" ", _FORBIDDEN.sub(" ", str(text)[: 4 * longest])).strip()
    return line if len(line) <= longest else line[: longest - 1] + "…"


def width(text: str, size: float, bold: bool = False) -> float:
    """How wide a text is, in pixels. Characters outside the tables count as wide ones."""
    table = _WIDTHS[bold]
    return sum(table[ord(c) - 32] if 32 <= ord(c) < 127 else _OTHERS.get(c, 1000) for c in text) * size / 1000


def fit(text: object, room: float, size: float, bold: bool = False) -> str:
    """A text as one line that is no wider than `room`: the end gives way to an ellipsis."""
    line = plain(text)
    if width(line, size, bold) <= room:
        return line
    while line and width(line + "…", size, bold) > room:
        line = line[:-1]
    return line.rstrip() + "…" if line else ""


def shape(dims: Sequence[int]) -> str:
    """A shape: `1280×32×32`; `scalar` for an empty one."""
    return "×".join(map(str, dims)) or "scalar"


def elements(dims: Sequence[int]) -> int:
    """How many numbers a tensor of this shape holds."""
    return math.prod(dims)
