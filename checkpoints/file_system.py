"""What the file system under a folder takes.

FAT takes no file of 4 GB, which half of all SDXL models are beyond; Windows takes no file called `con.safetensors`, and what
follows a colon it hides in another file.
"""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path

_FAT = {"vfat", "msdos", "fat", "fat32", "fat16"}
# How the mount table writes a space, a tab, a line feed and a backslash.
_ESCAPES = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}
_FAT_LIMIT = (1 << 32) - 1

WINDOWS = os.name == "nt"
# Names of devices, with whatever ending.
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{kind}{n}" for kind in ("COM", "LPT") for n in "123456789¹²³")}
_FORBIDDEN = '<>:"|?*'
# Longer paths need a setting that many machines lack.
LONGEST_WINDOWS_PATH = 259


def largest_file(folder: Path) -> int | None:
    """How many bytes a file may have there, None when the system does not say that there is a limit."""
    return _FAT_LIMIT if _kind(folder).lower() in _FAT else None


def windows_fault(name: str) -> str | None:
    """Why Windows has no file of this name, None when it can have one."""
    if name.partition(".")[0].rstrip(" ").upper() in _DEVICES:
        return f"{name.partition('.')[0]} is the name of a device on Windows"
    if found := next((c for c in name if c in _FORBIDDEN or ord(c) < ord(" ")), None):
        return f"no file name on Windows holds {found!r}"
    return "no file name on Windows ends in a space or a dot" if name.endswith((" ", ".")) else None


def _kind(folder: Path) -> str:
    """The file system's name, empty when it is not known."""
    try:
        if sys.platform == "win32":
            return _windows_kind(folder)
        return _mounted_kind(folder, Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape"))
    except OSError:
        return ""


def _mounted_kind(folder: Path, mounts: str) -> str:
    """The kind of the mount that holds a folder, from the lines of Linux's mount table."""
    place, found, longest = os.path.realpath(folder), "", -1
    for line in mounts.splitlines():
        _, point, kind, *_ = line.split(" ")
        for written, meant in _ESCAPES.items():
            point = point.replace(written, meant)
        inside = place == point or place.startswith(point.rstrip("/") + "/")
        # Of two mounts on one point the later one is on top.
        if inside and len(point) >= longest:
            found, longest = kind, len(point)
    return found


def _windows_kind(folder: Path) -> str:
    name = ctypes.create_unicode_buffer(261)
    root = Path(os.path.realpath(folder)).anchor
    done = ctypes.windll.kernel32.GetVolumeInformationW(root, None, 0, None, None, None, name, len(name))
    return name.value if done else ""
