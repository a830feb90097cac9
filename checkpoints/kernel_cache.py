"""Which folders compiled kernels may be kept in: what lies there is run as part of this program, so it must be nobody else's.

A folder or file that another user owns or may write to is no cache, whether of our own machine code (`machine_code`) or of numba,
whose index is a pickle. Kernels are compiled in memory then, which is told once. Windows' folders of a user are its own.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from functools import cache
from pathlib import Path
from typing import Any

from .errors import tell
from .hashes import cache_folder

_TOLD: list[str] = []
_PACKAGE = Path(os.path.realpath(__file__)).parent.parent


def usable(folder: Path) -> bool:
    """Whether compiled code may be read from a folder and kept there: it and all above it can be changed by this user alone.

    Whoever owns this program's own files, and root, may as well: they could change what runs in any case. A folder that is not
    there yet is judged by those above it.
    """
    return not _fault(folder)


def tell_unusable(folders: Iterable[Path]) -> None:
    """Tell, once in a process, that kernels were not kept because none of these folders is usable; nothing where one is."""
    faults = [_fault(folder) for folder in folders]
    if faults and all(faults):
        _tell_once(faults[-1])


def is_own(found: os.stat_result) -> bool:
    """Whether nobody else owns a file or may write to it."""
    return os.name == "nt" or (found.st_uid in _owners() and not _others_may_write(found))


def kept(**options: Any) -> Callable[[Callable], Any]:
    """numba's `njit`, with its cache on the disk where that is usable: where numba would put it, else in our own cache folder."""
    from numba import config, njit

    def compiled(function: Callable) -> Any:
        if _numba_may_keep(function):
            return njit(cache=True, **options)(function)
        asked, config.CACHE_DIR = config.CACHE_DIR, str(cache_folder() / "numba")
        try:
            if usable(cache_folder()) and _numba_may_keep(function):
                return njit(cache=True, **options)(function)
        finally:
            config.CACHE_DIR = asked
        tell_unusable([cache_folder()])
        return njit(**options)(function)

    return compiled


def _numba_may_keep(function: Callable) -> bool:
    """Whether the folder that numba chooses for a function's code, and what it has there, is nobody else's."""
    from numba.core.caching import FunctionCache

    try:
        folder = Path(FunctionCache(function).cache_path)
    except (RuntimeError, OSError):  # there is no folder that numba may write to
        return False
    files = folder.glob(f"{Path(function.__code__.co_filename).stem}.*.nb[ic]")
    return usable(folder) and all(is_own(path.lstat()) for path in files)


def _fault(folder: Path) -> str:
    """Why a folder is no place for code, empty where it is one."""
    if os.name == "nt":
        return ""
    path = Path(os.path.realpath(folder))
    for place in (path, *path.parents):
        try:
            found = os.stat(place)
        except FileNotFoundError:
            continue
        except OSError as error:
            return f"{place} cannot be looked at ({error.strerror})"
        if path.is_relative_to(_PACKAGE) and not place.is_relative_to(_PACKAGE):
            break  # where the program itself lies is as safe as the program
        if found.st_uid not in _owners():
            return f"{place} belongs to another user"
        # In a folder with the sticky bit, as /tmp, others can make files and cannot touch ours.
        if _others_may_write(found) and not (place != path and found.st_mode & stat.S_ISVTX):
            return f"{place} can be written by other users"
    return ""


@cache
def _owners() -> frozenset[int]:
    return frozenset({0, os.geteuid(), os.stat(_PACKAGE).st_uid})


def _others_may_write(found: os.stat_result) -> bool:
    if found.st_mode & stat.S_IWOTH:
        return True
    return bool(found.st_mode & stat.S_IWGRP) and not _own_group(found.st_gid)


@cache
def _own_group(number: int) -> bool:
    """Whether a group is that of one user alone, as Linux makes one for each, and this user's."""
    import grp
    import pwd

    try:
        group, user = grp.getgrgid(number), pwd.getpwuid(os.geteuid())
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def _tell_once(fault: str) -> None:
    if _TOLD:
        return
    _TOLD.append(fault)
    tell(
        f"{fault}, so compiled kernels are not kept there: they are compiled for this run alone. Take the right to write from "
        "others (chmod go-w), or set UNETSCOPE_CACHE to a folder of your own"
    )
