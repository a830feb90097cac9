"""What identifies a file to others: SHA-256, AutoV2 (its first ten hex digits), and the web UI's old short hash.

A SHA-256 of a multi-gigabyte file costs seconds, so it is remembered in the user's cache folder by path, size and time of
change.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from .files.cache import cache_folder, keep_json, read_json

# Digests that a header holds of its own file's tensors: of another file they are wrong.
OWN_DIGESTS = ("modelspec.hash_sha256", "sshs_model_hash", "sshs_legacy_hash")
_CHUNK = 1 << 22


def autov2(sha256: str) -> str:
    """The first ten hex digits of a SHA-256, as model sites and image metadata quote it."""
    return sha256[:10]


def legacy_hash(path: Path) -> str:
    """The eight digits that the A1111 web UI used first: a hash of 64 KiB at the first MiB."""
    with open(path, "rb") as file:
        file.seek(0x100000)
        return hashlib.sha256(file.read(0x10000)).hexdigest()[:8]


def known_sha256(path: Path) -> str | None:
    """A file's SHA-256 if it was computed before and the file has not changed since."""
    return _load().get(identity(path))


def sha256(path: Path, moved: Callable[[int], None] | None = None) -> str:
    """A file's SHA-256, from the cache or by reading all of it; `moved` is told the bytes read so far, and may raise to stop."""
    known = known_sha256(path)
    if known:
        return known
    before, digest, done = identity(path), hashlib.sha256(), 0
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if moved:
                moved(done)
    if identity(path) == before:
        remember(before, digest.hexdigest())
    return digest.hexdigest()


def identity(path: Path) -> str:
    """What a digest is remembered under: it changes when the file does."""
    found = os.stat(path)
    return f"{Path(path).resolve()}|{found.st_size}|{found.st_mtime_ns}"


def _cache_file() -> Path:
    return cache_folder() / "sha256.json"


def _load() -> dict[str, str]:
    found = read_json(_cache_file())
    return {k: v for k, v in found.items() if isinstance(v, str)} if isinstance(found, dict) else {}


def remember(identity: str, digest: str) -> None:
    """Keep the digest of the file that had this identity."""
    keep_json(_cache_file(), _load() | {identity: digest})
