"""Which searches there are: run folders and AutoMBW logs below the app's folders, and what they hold at the moment."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..checkpoints.text import readable
from .folders import Folders

if TYPE_CHECKING:
    from ..search.overview import Overview

RUNS_VARIABLE = "UNETSCOPE_RUNS"
# Deep enough for models/searches/many/nodes/top, and no walk through a whole disk.
_DEPTH, _MOST_FOLDERS = 5, 5000
_MOST_LOG_BYTES = 20_000_000


@dataclass(frozen=True)
class SearchRun:
    """A search that was found.

    Attributes:
        name: below the folder that it was found in; its whole path where another search has that name in another folder.
        path: where it is.
        changed: when it last changed, in seconds since 1970.
    """

    name: str
    path: Path
    changed: float


def roots(folders: Folders) -> list[Path]:
    """Where searches are looked for: the models folder, the output folder, and `UNETSCOPE_RUNS` if it is set."""
    found = [folders.models, folders.output]
    if given := os.environ.get(RUNS_VARIABLE):
        found.append(Path(given).expanduser().resolve())
    return [path for path in dict.fromkeys(found) if path.is_dir()]


def find_runs(folders: Folders) -> list[SearchRun]:
    """Every run folder and log, the one that changed last first. Links are not followed out of the folders."""
    found: dict[Path, SearchRun] = {}
    for root in roots(folders):
        for path in _walk(root):
            try:
                name = readable(path.relative_to(root).as_posix() if path != root else root.name)
                found.setdefault(path, SearchRun(name, path, changed_at(path)))
            except OSError:  # removed just now
                continue
    called = Counter(run.name for run in found.values())
    runs = [run if called[run.name] == 1 else replace(run, name=readable(str(run.path))) for run in found.values()]
    return sorted(runs, key=lambda run: -run.changed)


def _walk(root: Path) -> Iterator[Path]:
    waiting, seen = [(root, 0)], 0
    while waiting and seen < _MOST_FOLDERS:
        folder, depth = waiting.pop()
        seen += 1
        if (folder / "study.yaml").is_file() and (folder / "setup.json").is_file():
            yield folder
            continue
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_symlink() or entry.name.startswith("."):
                continue
            if entry.is_dir() and depth < _DEPTH:
                waiting.append((Path(entry.path), depth + 1))
            elif entry.name.lower().endswith(".csv") and _is_log(Path(entry.path)):
                yield Path(entry.path)


def _is_log(path: Path) -> bool:
    from ..search.automb import is_automb

    try:
        return path.stat().st_size <= _MOST_LOG_BYTES and is_automb(path)
    except OSError:
        return False


def _state(path: Path) -> tuple[tuple[float, int], ...]:
    """Times and sizes of the files that change while a search runs."""
    if path.is_file():
        files = [path]
    else:
        files = [path / "setup.json", path / "confirmed.json", *sorted((path / "trials").glob("*.jsonl"))]
    return tuple((stat.st_mtime, stat.st_size) for file in files if file.is_file() and (stat := file.stat()))


def changed_at(path: Path) -> float:
    """When a search last wrote something, in seconds since 1970; 0 when it is gone."""
    return max((time for time, _ in _state(path)), default=0.0)


def overview_of(path: Path) -> Overview:
    """What a search holds now; it is read again only when it has changed.

    Raises:
        SearchError: it cannot be read (any more).
    """
    from ..search.errors import SearchError

    try:
        return _read(path, _state(path))
    except OSError as error:
        raise SearchError(f"{path}: cannot be read ({error.strerror or error})") from None


@lru_cache(maxsize=8)
def _read(path: Path, state: tuple[tuple[float, int], ...]) -> Overview:
    from ..search.overview import read_overview

    return read_overview(path)
