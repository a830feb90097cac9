"""How counts, sizes and lists are said, names of files that are not UTF-8, and why a file cannot be read."""

from __future__ import annotations

import os
from collections.abc import Sequence


def counted(count: int, one: str, many: str = "") -> str:
    """`1 tensor`, `2,048 tensors`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def some(names: Sequence[str], most: int = 3) -> str:
    """The first of many names: `a, b, c, ...`."""
    return ", ".join(names[:most]) + (", ..." if len(names) > most else "")


def file_size(count: float) -> str:
    """Bytes for people: `2.13 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


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
        return "it is no text in UTF-8"
    return getattr(error, "strerror", None) or str(error)


def dead_link(path: str | os.PathLike) -> str:
    """Of a link that leads to nothing: where it leads; of anything else an empty string."""
    if os.path.islink(path) and not os.path.exists(path):
        return f"it is a link to {os.readlink(path)}, which is not there"
    return ""
