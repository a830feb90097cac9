"""What the operating system and the file system under a folder take.

FAT takes no file of 4 GB, which half of all SDXL models are beyond; Windows takes no file called `con.safetensors`, what follows a
colon it hides in another file, and a file that a program has open it neither renames nor removes.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

_FAT = {"vfat", "msdos", "fat", "fat32", "fat16"}
# How the mount table writes a space, a tab, a line feed and a backslash.
_ESCAPES = {r"\040": " ", r"\011": "\t", r"\012": "\n", r"\134": "\\"}
_FAT_LIMIT = (1 << 32) - 1

# Asked for as `system.WINDOWS`: an open file can be neither renamed nor removed there.
WINDOWS = os.name == "nt"
# Seconds to wait before trying again what another program is in the way of: a virus scanner lets go soon.
_WAITS = (0.1, 0.2, 0.5, 1.0)
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


def patiently(action: Callable[[], None]) -> None:
    """Do something with a file, again and again for a little while if another program is in the way.

    Raises:
        PermissionError: it still is. Any other `OSError` of the action at once.
    """
    for wait in (*_WAITS, None):
        try:
            return action()
        except PermissionError:
            if wait is None:
                raise
            time.sleep(wait)


def sync_folder(folder: Path) -> None:
    """Make a new name durable; Windows cannot open a folder and needs no such thing."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_running(process: int) -> bool:
    """Whether a process of this number lives on this machine."""
    if os.name == "nt":  # `os.kill` would end it there
        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, process)
        if handle:
            ctypes.windll.kernel32.CloseHandle(handle)
        return bool(handle)
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


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
