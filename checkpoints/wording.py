"""How counts and sizes are said (two tensors, 2.13 GB), names of files that are not UTF-8, and why a file cannot be read."""

from __future__ import annotations

import os
import re
from pathlib import Path

# Halves of surrogate pairs: what Python makes of the bytes of a file's name that are not UTF-8, and how `readable` writes them.
_STRAY, _WRITTEN = (
    re.compile("[\ud800-\udfff]"),
    re.compile("\N{REPLACEMENT CHARACTER}([89A-F][0-9A-F]|uD[89A-F][0-9A-F]{2})"),
)


def counted(count: int, one: str, many: str = "") -> str:
    """`1 tensor`, `2,048 tensors`; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def file_size(count: float) -> str:
    """Bytes for people: `2.13 GB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000 or unit == "GB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1000
    raise AssertionError("unreachable")


def readable(name: str | os.PathLike[str]) -> str:
    """A file's name or path as text that every encoding takes; what is UTF-8 stays as it is.

    A byte that is not becomes the replacement character and its two hex digits (`mod\N{REPLACEMENT CHARACTER}E8le`), so that
    different files have different names.
    """

    def written(found: re.Match[str]) -> str:
        number = ord(found[0])
        digits = f"{number - 0xDC00:02X}" if 0xDC80 <= number <= 0xDCFF else f"u{number:04X}"
        return f"\N{REPLACEMENT CHARACTER}{digits}"

    return _STRAY.sub(written, os.fspath(name))


def existing(path: Path) -> Path:
    """The file or folder of a path that may have been written by `readable`; the path itself where there is none."""
    if "\N{REPLACEMENT CHARACTER}" not in str(path) or os.path.lexists(path):
        return path
    text = _WRITTEN.sub(lambda m: chr(int(m[1][1:], 16) if m[1][0] == "u" else 0xDC00 + int(m[1], 16)), str(path))
    return Path(text) if os.path.lexists(text) else path


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
