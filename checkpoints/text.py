"""Text for people: counts, sizes, spans of time, numbers, lists, values and names, the same in every room.

Also names of files that are not UTF-8, and why a file cannot be read.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from reprlib import Repr

_SHORT = Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 80

# -- counts, sizes, times ---------------------------------------------------------------------------------------------


def counted(count: int, one: str, many: str = "") -> str:
    """`1 tensor`, `2,048 tensors`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def amount(count: int) -> str:
    """A number of parameters: `375.4 M`, `1.23 B`, `12.3 k`, `640`."""
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size * 0.9995:
            return f"{count / size:.{2 if count < 9.995 * size else 1}f} {unit}"
    return str(count)


def file_size(count: float) -> str:
    """Bytes: `812 B`, `12.35 MB`, `2.13 GB`, in powers of 1000."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"


def duration(seconds: float) -> str:
    """A span of time: `4.2 s`, `42 s`, `2 min 5 s`, `1 h 3 min`."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def ago(moment: float) -> str:
    """How long ago something was, of seconds since 1970: `just now`, `5 min ago`, else the date."""
    passed = time.time() - moment
    if passed < 60:
        return "just now"
    if passed < 3600:
        return f"{int(passed // 60)} min ago"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


# -- numbers ----------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """A value with three digits that count: `0.125`, `12.0`, `1.2e-5`; `∞` where it has none."""
    if not math.isfinite(value):
        return "–" if math.isnan(value) else "∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    if not 1e-3 <= abs(value) < 1e5:
        return _scientific(value)
    return f"{value:.{max(0, 2 - math.floor(math.log10(abs(value))))}f}"


def tick(value: float) -> str:
    """A value along a scale: `number` without trailing zeros."""
    shown = number(value)
    return shown.rstrip("0").rstrip(".") if "." in shown and "e" not in shown else shown


def short_number(value: float) -> str:
    """A number with two digits that count, in at most six characters: `12`, `1.2`, `.12`, `.045`, `1.2e-4`, `0`."""
    if not math.isfinite(value):
        return "–"
    if value == 0:
        return "0"
    size = abs(value)
    if not 0.00995 <= size < 9999.5:
        return _scientific(value)
    places = 0 if size >= 9.95 else 1 if size >= 0.995 else 2 if size >= 0.0995 else 3
    return f"{value:.{places}f}".replace("0.", ".", 1) if size < 0.995 else f"{value:.{places}f}"


def percent(value: float) -> str:
    """A ratio as a percentage with two digits that count: `9.0 %`, `0.012 %`; `undefined` for NaN."""
    if math.isnan(value):
        return "undefined"
    if value == 0:
        return "0 %"
    digits = max(0, 1 - math.floor(math.log10(abs(value) * 100)))
    return f"{value * 100:.{digits}f} %"


def _scientific(value: float) -> str:
    mantissa, exponent = f"{value:.1e}".split("e")
    return f"{mantissa}e{int(exponent)}"


# -- lists, values, names ---------------------------------------------------------------------------------------------


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of many names: `a, b, c, ...`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def listed(names: Sequence[str], most: int = 3, what: str = "") -> str:
    """The first of many names, and how many more there are: `a, b, c and 5 more`, or `... and 5 more tensors`."""
    more = len(names) - most
    rest = counted(more, f"more {what}") if what else f"{more:,} more"
    return ", ".join(names[:most]) + (f" and {rest}" if more > 0 else "")


def shown(value: object) -> str:
    """A value that was found, as a message quotes it: Python's way, the middle of what is long left out."""
    try:
        return _SHORT.repr(value)
    except ValueError:  # a number of more digits than Python writes
        return f"a huge {type(value).__name__}"


def free_name(name: str, taken: Callable[[str], bool], form: str = "{}.{}") -> str:
    """The name, or the first one with a number that is not taken: `base`, `base.2`, `base.3`."""
    free, n = name, 2
    while taken(free):
        free, n = form.format(name, n), n + 1
    return free


def printable(text: object) -> str:
    """Text without control characters; line breaks and tabs stay, and names that are not UTF-8 are `readable`."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in readable(str(text)))


def readable(name: str) -> str:
    """A name as text that any file and terminal takes: what Unicode has no character for is written out, as `\\udce9`.

    Python reads a file name that is not UTF-8 so that each of its bytes becomes half of a character.
    """
    return name.encode("utf-8", "backslashreplace").decode("utf-8")


def unreadable(error: Exception) -> str:
    """Why a file cannot be read, for people: what the system says, or that it is a link to what is not there."""
    name = getattr(error, "filename", None)
    if isinstance(error, FileNotFoundError) and isinstance(name, str | os.PathLike) and (link := dead_link(name)):
        return link
    if isinstance(error, UnicodeDecodeError):
        return "it is not text in UTF-8"
    return getattr(error, "strerror", None) or str(error)


def dead_link(path: str | os.PathLike) -> str:
    """Of a link that leads to nothing: where it leads; of anything else an empty string."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which is not there"
    return ""
