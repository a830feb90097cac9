"""What other tools wrote about a model's hash: claims, since nobody checks them against the file.

Read are `x.sha256` (as sha256sum writes it), the JSON of a model site or manager next to the file (`x.civitai.info`, `x.json`,
`x.cm-info.json`, `x.metadata.json`), and the `cache.json` of the A1111 web UI.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from .history import json_or_none

_LIMIT = 4 << 20
_CACHE_LIMIT = 64 << 20
_SHA256 = re.compile(r"[0-9a-f]{64}", re.IGNORECASE)
_JSON_ENDINGS = (".civitai.info", ".cm-info.json", ".metadata.json", ".json")


@dataclass(frozen=True, slots=True)
class Claim:
    """A SHA-256 that something says a file has; `source` is the name of what says so."""

    sha256: str
    source: str


def claims_beside(path: Path, size: int) -> list[Claim]:
    """What the files next to a model say its SHA-256 is; unreadable ones say nothing.

    Args:
        path: the model.
        size: its bytes; a site's record of several files is matched by name, then by size.
    """
    stems = dict.fromkeys([path.name, path.stem])
    found = []
    for stem in stems:
        sums = path.with_name(f"{stem}.sha256")
        if digest := _from_sums(_text(sums, _LIMIT), path.name):
            found.append(Claim(digest, sums.name))
        for ending in _JSON_ENDINGS:
            sidecar = path.with_name(stem + ending)
            if digest := _from_json(json_or_none(_text(sidecar, _LIMIT)), path.name, size):
                found.append(Claim(digest, sidecar.name))
    return found


class WebUICache:
    """The hashes in an A1111 web UI's `cache.json`: `{"hashes": {"checkpoint/NAME": {"mtime": ..., "sha256": ...}}}`."""

    def __init__(self, path: Path):
        self.name = path.name
        hashes = _object(json_or_none(_text(path, _CACHE_LIMIT))).get("hashes")
        self._by_name: dict[str, list[tuple[PurePosixPath, float, str]]] = {}
        for key, entry in _object(hashes).items():
            digest, changed = _digest(_object(entry).get("sha256")), _object(entry).get("mtime")
            _, _, name = key.replace("\\", "/").partition("/")
            if digest and name and isinstance(changed, int | float):
                place = PurePosixPath(name)
                self._by_name.setdefault(place.name.casefold(), []).append((place, float(changed), digest))

    def __len__(self) -> int:
        return len(self._by_name)

    def claim(self, path: Path, mtime: float) -> Claim | None:
        """What it says about a file: an entry whose path is the end of the file's, written since the file changed.

        The web UI hashes a file anew when its time of change is later than the remembered one.
        """
        for place, changed, digest in self._by_name.get(path.name.casefold(), []):
            tail = [p.casefold() for p in path.parts[-len(place.parts) :]]
            if tail == [p.casefold() for p in place.parts] and mtime <= changed + 1e-3:
                return Claim(digest, self.name)
        return None


def _from_sums(text: str | None, name: str) -> str | None:
    """The digest in sha256sum's output: alone, or on the line that names the file."""
    lines = [line.split(maxsplit=1) for line in (text or "").splitlines() if line.strip()]
    hits = [(_digest(line[0].lstrip("\\")), line[1].lstrip("*").strip() if len(line) > 1 else "") for line in lines]
    named = [digest for digest, of in hits if digest and _last(of) == name]
    if named:
        return named[0]
    return hits[0][0] if len(hits) == 1 else None


def _from_json(data: Any, name: str, size: int) -> str | None:
    """The digest of the file in a site's record of a model version, or in a manager's record of a file."""
    record = _object(data)
    files = record.get("files")
    listed = [f for f in files if isinstance(f, dict) and _digest_in(f)] if isinstance(files, list) else []
    if not listed:
        return _digest_in(record)
    same_name = [f for f in listed if f.get("name") == name]
    same_size = [
        f for f in listed if isinstance(f.get("sizeKB"), int | float) and abs(f["sizeKB"] * 1024 - size) < 1024
    ]
    for chosen in (same_name, same_size, listed):
        if len(chosen) == 1:
            return _digest_in(chosen[0])
    return None


def _digest_in(record: dict) -> str | None:
    """`hashes.SHA256` or `sha256` of a record, in any case."""
    fields = {str(k).casefold(): v for k, v in record.items()}
    hashes = {str(k).casefold(): v for k, v in _object(fields.get("hashes")).items()}
    return _digest(hashes.get("sha256")) or _digest(fields.get("sha256"))


def _digest(value: Any) -> str | None:
    return value.strip().lower() if isinstance(value, str) and _SHA256.fullmatch(value.strip()) else None


def _last(path: str) -> str:
    return path.replace("\\", "/").rpartition("/")[2]


def _object(value: Any) -> dict:
    return value if isinstance(value, dict) else {}


def _text(path: Path, limit: int) -> str | None:
    try:
        if not path.is_file() or path.stat().st_size > limit:
            return None
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError):
        return None
