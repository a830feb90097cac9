"""The models folder as a list of checkpoints. Only headers are read, and each once: what they say is kept by path, size and
time of change. What a scan of the values found is kept the same way (`library.scan_cache`).
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import FAMILIES
from ..checkpoints.files.cache import cache_folder
from ..checkpoints.formats import is_model_folder, is_scanned_name
from ..checkpoints.text import readable
from .state_files import read_json, write_json

# Part of what is kept; a change of its form counts as never read.
_FORM = 2


@dataclass(frozen=True)
class Entry:
    """A checkpoint of the library, from its headers.

    Attributes:
        name: path below the models folder, with `/`; as `readable` writes it, so that every page can show it.
        path: where it is.
        identity: changes when the file does.
        size: bytes on disk; changed: seconds since 1970.
        format: `safetensors`, `ckpt`, `diffusers`.
        architecture: in words; family: a record's id (`sd1`), `any`, or None.
        what: `checkpoint`, `component`, `lora`... as `Architecture.what` says.
        prediction: `epsilon`, `v`, `edm` or None.
        dtypes: names, the largest part first.
        components: `unet`, `clip_l`, `vae`...
        parameters: how many.
        merged: its metadata say what it was merged from.
        encoding: how its tensors are stored where nothing decodes that; empty for what can be computed with.
        truncated: it ends before its header says it does.
        error: why it could not be read as a checkpoint; empty when it could.
    """

    name: str
    path: str
    identity: str
    size: int
    changed: float
    format: str = ""
    architecture: str = ""
    family: str | None = None
    what: str = ""
    prediction: str | None = None
    dtypes: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    parameters: int = 0
    merged: bool = False
    encoding: str = ""
    truncated: bool = False
    error: str = ""

    @property
    def model(self) -> str | None:
        """What files that fit together share: their family; where that is of their own names, what these look like."""
        return self.family if self.family is None or self.family in FAMILIES else self.architecture

    @property
    def sound(self) -> bool:
        """Whether numbers can be taken from it."""
        return not (self.error or self.truncated or self.encoding)

    @property
    def mergeable(self) -> bool:
        """Whether it can be an input of a merge or a comparison."""
        return self.sound and self.what in ("checkpoint", "component")


_FROM_HEADERS = {one.name for one in fields(Entry)} - {"name", "path", "identity", "size", "changed"}


@dataclass(frozen=True)
class Library:
    """The library at a moment.

    Attributes:
        entries: what was read, by name.
        unread: how many files wait to be read.
        skipped: names that lead out of the folder by a link.
    """

    entries: tuple[Entry, ...]
    unread: int = 0
    skipped: tuple[str, ...] = ()

    def named(self, name: str | None) -> Entry | None:
        """The entry of that name."""
        return next((entry for entry in self.entries if entry.name == name), None)

    @property
    def models(self) -> tuple[Entry, ...]:
        """What merges and comparisons can take."""
        return tuple(entry for entry in self.entries if entry.mergeable)

    @property
    def loras(self) -> tuple[Entry, ...]:
        """LoRAs, which merges can add to models."""
        return tuple(e for e in self.entries if e.what == "lora" and e.sound)


@dataclass(frozen=True)
class _Found:
    name: str
    path: Path
    identity: str
    size: int
    changed: float


def read_library(models: Path, seconds: float | None = None) -> Library:
    """The checkpoints below a folder.

    Args:
        models: the folder, resolved.
        seconds: stop reading headers after so long; the rest counts as `unread` and is read by later calls.
    """
    skipped: list[str] = []
    found = list(_files(models, skipped))
    with _lock:
        index = _load_index()
        deadline, new, entries, unread = 0.0, 0, [], 0
        for one in found:
            kept = index.get(one.identity)
            if not isinstance(kept, dict) or not kept.keys() <= _FROM_HEADERS:  # not read yet, or a damaged cache
                if seconds is not None and new and time.monotonic() > deadline:
                    unread += 1
                    continue
                kept, new = _read_headers(one.path), new + 1
                deadline = deadline or time.monotonic() + (seconds or 0)  # what the first one imports does not count
                index[one.identity] = kept
            entries.append(_entry(one, kept))
        if new:
            _save_index(index, {one.identity for one in found}, models)
    return Library(tuple(entries), unread, tuple(skipped))


def identity_of(path: Path) -> str:
    """What findings about a file or diffusers folder are kept under."""
    return _found(path.name, path).identity


def content_of(path: Path) -> str | None:
    """Changes when a file is written or replaced, by whomever; None when there is none."""
    try:
        return f"{identity_of(path)}|{path.stat().st_ino}"
    except OSError:
        return None


# -- scans ------------------------------------------------------------------------------------------------------------


def health_words(scan: dict[str, Any] | None) -> str:
    """`sound`, `2 broken, 1 suspect`, or `not scanned`. Notes are not faults."""
    if scan is None:
        return "not scanned"
    levels = [finding.get("level") for finding in scan.get("health", ())]
    counts = [f"{levels.count(level)} {level}" for level in ("broken", "suspect") if level in levels]
    return ", ".join(counts) or "sound"


def shared_parts(scans: dict[str, dict[str, Any]], component: str) -> dict[str, str]:
    """Name of a file -> a short name of its component, the same for files whose weights are equal.

    Args:
        scans: name -> scan.
        component: `vae`, `clip_l`...

    Returns:
        `A (3 files)` for what several share, the fingerprint's first digits for what one alone has.
    """
    prints = {name: scan["fingerprints"].get(component) for name, scan in scans.items()}
    groups: dict[str, list[str]] = {}
    for name, digest in prints.items():
        if digest:
            groups.setdefault(digest, []).append(name)
    shared = sorted((members for members in groups.values() if len(members) > 1), key=lambda m: (-len(m), m))
    letter = {prints[members[0]]: _letters(n) for n, members in enumerate(shared)}
    return {
        name: f"{letter[digest]} ({len(groups[digest])} files)" if digest in letter else digest[:8]
        for name, digest in prints.items()
        if digest
    }


def _letters(number: int) -> str:
    """A, B, ..., Z, AA, AB..."""
    out = ""
    number += 1
    while number:
        number, rest = divmod(number - 1, 26)
        out = chr(65 + rest) + out
    return out


# -- files ------------------------------------------------------------------------------------------------------------


def _files(models: Path, skipped: list[str]) -> Iterator[_Found]:
    """Checkpoints below a folder, sorted by name. Links to folders are not followed: they may lead out or in circles."""
    for folder, below, names in os.walk(models):
        here = Path(folder)
        if here != models and is_model_folder(names):
            below.clear()
            yield _found(_name(here, models), here)
            continue
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in [n for n in below if (here / n).is_symlink()]:
            skipped.append(_name(here / name, models))
            below.remove(name)
        for name in sorted(names):
            path = here / name
            if not is_scanned_name(name):
                continue
            relative = _name(path, models)
            if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(models):
                skipped.append(relative)
            elif path.is_file():
                yield _found(relative, path)


def _name(path: Path, models: Path) -> str:
    return readable(path.relative_to(models).as_posix())


def _found(name: str, path: Path) -> _Found:
    try:
        if path.is_dir():
            stats = [p.stat() for p in sorted(path.rglob("*")) if p.is_file()]
            size, changed = sum(s.st_size for s in stats), max((s.st_mtime_ns for s in stats), default=0)
        else:
            one = path.stat()
            size, changed = one.st_size, one.st_mtime_ns
    except OSError:  # gone or changed while we looked; the next look sees it right
        size, changed = 0, 0
    return _Found(name, path, f"{path.resolve()}|{size}|{changed}", size, changed / 1e9)


def _read_headers(path: Path) -> dict[str, Any]:
    from ..library.inspection import inspect

    try:
        found = inspect(path)
    except UnetscopeError as error:
        return {"error": str(error)}
    except OSError as error:
        return {"error": f"{path.name}: cannot be read ({error.strerror or error})"}
    return {
        "format": found.format,
        "architecture": found.architecture.name,
        "family": found.architecture.family,
        "what": found.architecture.what,
        "prediction": found.prediction,
        "dtypes": list(found.dtypes),
        # Two counters of EMA weights are not EMA weights.
        "components": [c for c in found.components if c != "ema" or found.ema.tensors > 2],
        "parameters": found.total.parameters,
        "merged": found.history is not None,
        "encoding": next((part.title for part in found.stored if not part.decoded), ""),
        "truncated": found.truncation is not None,
    }


def _entry(found: _Found, kept: dict[str, Any]) -> Entry:
    values = {k: tuple(v) if isinstance(v, list) else v for k, v in kept.items()}
    return Entry(found.name, str(found.path), found.identity, found.size, found.changed, **values)


# -- the index --------------------------------------------------------------------------------------------------------

_lock = threading.Lock()


@dataclass
class _Index:
    """The index in memory, and the file's time of change when it was read."""

    at: int = -1
    file: Path = field(default_factory=Path)
    kept: dict[str, dict[str, Any]] = field(default_factory=dict)


_memory = _Index()


def _index_file() -> Path:
    return cache_folder() / "library.json"


def _changed(file: Path) -> int:
    try:
        return file.stat().st_mtime_ns
    except OSError:
        return -1


def _load_index() -> dict[str, dict[str, Any]]:
    file = _index_file()
    if _memory.file != file or _memory.at != _changed(file):
        _memory.file, _memory.at = file, _changed(file)
        kept = read_json(file)
        sound = isinstance(kept, dict) and kept.get("form") == _FORM and isinstance(kept.get("files"), dict)
        _memory.kept = kept["files"] if sound else {}
    return _memory.kept


def _save_index(index: dict[str, dict[str, Any]], present: set[str], models: Path) -> None:
    """Write the index without what was kept of this folder's files that are gone or have changed."""
    inside = f"{models}{os.sep}"
    for identity in [i for i in index if i.startswith(inside) and i not in present]:
        del index[identity]
    file = _index_file()
    try:
        write_json(file, {"form": _FORM, "files": index})
    except OSError:  # a cache that cannot be written costs time later and nothing else
        return
    _memory.at = _changed(file)
