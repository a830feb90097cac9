"""How the pages put things into words: sizes, times, and text from files that must stay text."""

from __future__ import annotations

import re
import time

from ..checkpoints.wording import readable

# What means something in Streamlit's markdown, HTML and maths included.
_MARKS = re.compile(r"([\\`*_{}\[\]()<>#+\-.!|~$:&@\"'/=])")


def plain(text: object) -> str:
    """Text for places that read markdown, shown as it is: names and metadata come from strangers."""
    one_line = " ".join(printable(text).split())
    return _MARKS.sub(r"\\\1", one_line)


def printable(text: object) -> str:
    """Text without control characters; line breaks and tabs stay, and names that are not UTF-8 are `readable`."""
    shown = readable(str(text))
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in shown)


def size(count: float) -> str:
    """Bytes for people: `2.13 GB`."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.4g} {unit}"
        count /= 1000
    return f"{count:,.2f} GB"


def amount(count: int) -> str:
    """A number of parameters for people: `859.5 M`."""
    return f"{count / 1e6:,.1f} M" if count >= 1e5 else f"{count:,}"


def duration(seconds: float) -> str:
    """A span of time: `4 s`, `2 min 5 s`, `1 h 3 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def ago(moment: float) -> str:
    """How long ago something was: `just now`, `5 min ago`, else the date."""
    passed = time.time() - moment
    if passed < 60:
        return "just now"
    if passed < 3600:
        return f"{int(passed // 60)} min ago"
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
