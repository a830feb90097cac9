"""Which file on disk is the model that a record means by its hash or its name?

Folders are read once: names, sizes, and A1111's eight-digit hash (64 KiB of each file). The SHA-256 and the fingerprints are
those remembered from earlier reads, or computed when asked for; what files next to a model claim its SHA-256 to be counts
only where it is not known.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..checkpoints.errors import CheckpointError, UnetscopeError
from ..checkpoints.formats import without_suffix
from ..checkpoints.hashes import autov2, identity, known_sha256, legacy_hash, sha256
from ..checkpoints.stream import Cancelled, Progress
from .folder_scan import FoundModel, find_models
from .scan_cache import keep_scan, kept_scan
from .sidecars import Claim, WebUICache, claims_beside

# Shorter beginnings of a SHA-256 than AutoV2 are not taken for one.
_SHORTEST = 10
_HEX = re.compile(r"[0-9a-f]{8,64}")
# How the web UI writes a model: `folder/name.safetensors [6ce0161689]`.
_TITLE = re.compile(r"^(?P<name>.+?)\s*\[(?P<hash>[0-9a-fA-F]{8,64})\]$")


@dataclass(frozen=True)
class IndexedFile:
    """A model in the index.

    Attributes:
        path: as found below the folder.
        size: bytes; of a diffusers folder 0, as it is known by its name alone.
        legacy: A1111's eight digits; None where the file could not be read.
        sha256: of the file, None where nothing says.
        sha256_from: `read` (just now), `remembered` (from an earlier read), or the name of the file that claims it.
        fingerprints: component -> 32 hex digits; empty where the values were never scanned.
        claims: what files next to it say its SHA-256 is.
        real: where the path leads, through links.
    """

    path: Path
    size: int
    legacy: str | None = None
    sha256: str | None = None
    sha256_from: str = ""
    fingerprints: dict[str, str] = field(default_factory=dict)
    claims: tuple[Claim, ...] = ()
    real: Path = Path()

    @property
    def claimed(self) -> bool:
        """Whether the SHA-256 is what another tool says and nobody checked."""
        return self.sha256 is not None and self.sha256_from not in ("read", "remembered")

    def to_plain(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {
            "path": str(self.path),
            "size": self.size,
            "sha256": self.sha256,
            "autov2": autov2(self.sha256) if self.sha256 else None,
            "sha256_from": self.sha256_from or None,
            "claimed": self.claimed,
            "legacy": self.legacy,
            "fingerprints": self.fingerprints,
        }


@dataclass(frozen=True)
class HashIndex:
    """The models below some folders, found by hash or name.

    Attributes:
        files: sorted by path.
        problems: what could not be read, links in circles, claims that are wrong; in sentences.
    """

    files: tuple[IndexedFile, ...]
    problems: tuple[str, ...] = ()

    @classmethod
    def load(
        cls,
        folders: Iterable[Path | str],
        *,
        compute: bool = False,
        progress: Progress | None = None,
        cancel: threading.Event | None = None,
        threads: int | None = None,
        webui_cache: Path | str | None = None,
    ) -> HashIndex:
        """Read folders, and all that is below them.

        Args:
            folders: with models; links to folders are followed, each folder is read once.
            compute: read every file whose SHA-256 or fingerprints are not known; they are remembered afterwards.
            progress: called with bytes done, bytes in all, and the file's name while files are read.
            cancel: an event that stops it.
            threads: for reading values.
            webui_cache: the `cache.json` of an A1111 web UI.

        Raises:
            CheckpointError: a folder or the `cache.json` is not there.
            Cancelled: `cancel` was set.
        """
        problems: list[str] = []
        cache = _webui_cache(webui_cache)
        found = [one for folder in folders for one in find_models(Path(folder), problems)]
        files = [_known(one, cache, problems) for one in {one.path: one for one in found}.values()]
        if compute:
            files = _computed(files, problems, _Work(progress, cancel or threading.Event(), threads))
        for file in files:
            problems += _wrong_claims(file)
        return cls(tuple(sorted(files, key=lambda f: str(f.path))), tuple(problems))

    def find(self, text: str) -> Path | None:
        """The file that a hash or name means, None when none fits.

        Args:
            text: a SHA-256 or its first ten digits or more, A1111's eight digits, a component's fingerprint, a name (case,
                suffix and folder do not count, but decide between several), or the web UI's `name [hash]`.

        Raises:
            UnetscopeError: it fits several files that are not copies of one another (code `index.ambiguous`).
        """
        text = text.strip()
        title = _TITLE.match(text)
        if title and (file := self._by_hash(title["hash"]) or self._by_name(title["name"])):
            return file
        return self._by_hash(text) or self._by_name(text)

    def to_plain(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return {"files": [file.to_plain() for file in self.files], "problems": list(self.problems)}

    def _by_hash(self, text: str) -> Path | None:
        digits = text.lower()
        if not _HEX.fullmatch(digits):
            return None
        for fits in (_has_sha256, _has_legacy, _has_fingerprint, _has_claim):
            if files := [file for file in self.files if fits(file, digits)]:
                return _only(text, files)
        return None

    def _by_name(self, text: str) -> Path | None:
        parts = [p for p in text.replace("\\", "/").split("/") if p]
        wanted = _parts(parts)
        files = [file for file in self.files if wanted and _parts(file.path.parts)[-1] == wanted[-1]]
        for closer in (_same_suffix, _same_folder):
            files = [file for file in files if closer(file, parts)] or files
        return _only(text, files) if files else None


def _has_sha256(file: IndexedFile, digits: str) -> bool:
    return not file.claimed and _begins(file.sha256, digits)


def _has_claim(file: IndexedFile, digits: str) -> bool:
    return file.claimed and _begins(file.sha256, digits)


def _begins(digest: str | None, digits: str) -> bool:
    return bool(digest) and len(digits) >= _SHORTEST and digest.startswith(digits)


def _has_legacy(file: IndexedFile, digits: str) -> bool:
    return file.legacy == digits


def _has_fingerprint(file: IndexedFile, digits: str) -> bool:
    return digits in file.fingerprints.values()


def _parts(parts: Sequence[str]) -> list[str]:
    """A path's parts for comparison: no suffix, no case."""
    return [*(p.casefold() for p in parts[:-1]), without_suffix(parts[-1]).casefold()] if parts else []


def _same_suffix(file: IndexedFile, parts: Sequence[str]) -> bool:
    return file.path.name.casefold() == parts[-1].casefold()


def _same_folder(file: IndexedFile, parts: Sequence[str]) -> bool:
    return _parts(file.path.parts)[-len(parts) :] == _parts(parts)


def _only(text: str, files: list[IndexedFile]) -> Path:
    """The one file, or the first of several copies of it."""
    if len({file.real for file in files}) > 1 and len({file.sha256 or file.real for file in files}) > 1:
        paths = ", ".join(str(file.path) for file in files)
        said = f"{text}: fits {len(files)} different files: {paths}; name one by its path or SHA-256"
        raise UnetscopeError(said, code="index.ambiguous")
    return files[0].path


def _known(found: FoundModel, cache: WebUICache | None, problems: list[str]) -> IndexedFile:
    """What is known about a file without reading it, but for 64 KiB."""
    if found.folder:
        return IndexedFile(found.path, 0, real=found.real)
    file = IndexedFile(found.path, found.size, real=found.real)
    said = cache.claim(found.path, found.mtime) if cache else None
    file = replace(file, claims=(*claims_beside(found.path, found.size), *([said] if said else [])))
    try:
        file = replace(file, legacy=legacy_hash(found.path))
        digest, scan = known_sha256(found.path), kept_scan(identity(found.path))
    except OSError as error:
        problems.append(f"{found.path}: cannot be read ({error.strerror or error})")
        return file
    if scan:
        file = replace(file, fingerprints={str(k): str(v) for k, v in scan["fingerprints"].items()})
        digest = digest or scan.get("sha256")
    if digest:
        return replace(file, sha256=digest, sha256_from="remembered")
    return replace(file, sha256=file.claims[0].sha256, sha256_from=file.claims[0].source) if file.claims else file


@dataclass
class _Work:
    """Reading files one after another, under one progress."""

    progress: Progress | None
    cancel: threading.Event
    threads: int | None
    total: int = 0
    done: int = 0

    def moved(self, name: str):
        """A progress callback for a file: called with its bytes done and in all."""

        def moved(done: int, total: int, key: str) -> None:
            if self.cancel.is_set():
                raise Cancelled("cancelled")
            if self.progress:
                self.progress(self.done + done, self.total, name)

        return moved


def _computed(files: list[IndexedFile], problems: list[str], work: _Work) -> list[IndexedFile]:
    """The same files, with what was missing read from them."""
    waiting = {file.path for file in files if file.legacy and (file.claimed or not file.sha256 or not _scanned(file))}
    work.total = sum(file.size for file in files if file.path in waiting)
    out = []
    for file in files:
        if file.path in waiting:
            file = _read(file, problems, work)
            work.done += file.size
        out.append(file)
    return out


def _scanned(file: IndexedFile) -> bool:
    return kept_scan(identity(file.path)) is not None


def _read(file: IndexedFile, problems: list[str], work: _Work) -> IndexedFile:
    from .scan import scan

    moved, before = work.moved(file.path.name), None
    moved(0, file.size, "")
    try:
        before = identity(file.path)
        values = scan(file.path, threads=work.threads, progress=moved, cancel=work.cancel)
    except CheckpointError:  # an embedding, or a file that ends early: it has a hash all the same
        pass
    except OSError as error:
        problems.append(f"{file.path}: cannot be read ({error.strerror or error})")
        return file
    else:
        if before == identity(file.path):
            keep_scan(before, values.to_plain())
        return replace(file, sha256=values.sha256, sha256_from="read", fingerprints=values.fingerprints)
    try:
        return replace(file, sha256=sha256(file.path, lambda done: moved(done, file.size, "")), sha256_from="read")
    except OSError as error:
        problems.append(f"{file.path}: cannot be read ({error.strerror or error})")
        return file


def _wrong_claims(file: IndexedFile) -> list[str]:
    if file.sha256 is None:
        return []
    return [
        f"{file.path}: {claim.source} says that its SHA-256 is {autov2(claim.sha256)}..., "
        f"{'but ' + file.sha256_from + ' says' if file.claimed else 'but it is'} {autov2(file.sha256)}..."
        for claim in file.claims
        if claim.sha256 != file.sha256
    ]


def _webui_cache(path: Path | str | None) -> WebUICache | None:
    if path is None:
        return None
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: no such file; give the cache.json in the web UI's folder")
    return WebUICache(Path(path))
