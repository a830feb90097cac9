"""What scans of values found, kept in the user's cache folder under the file's identity (`hashes.identity`).

The app writes and reads the same files, so a model that was scanned there need not be scanned again here.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from ..checkpoints.files.cache import cache_folder, keep_json, read_json


def scan_file(identity: str) -> Path:
    """Where the scan of a file is kept."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass"))  # file names may hold what UTF-8 has not
    return cache_folder() / "scans" / f"{digest.hexdigest()[:32]}.json"


def kept_scan(identity: str) -> dict[str, Any] | None:
    """What the last scan found (`Scan.to_plain`), None when there was none since the file changed."""
    kept = read_json(scan_file(identity))
    sound = (
        isinstance(kept, dict)
        and isinstance(kept.get("fingerprints"), dict)
        and isinstance(kept.get("sha256"), str | None)
    )
    return kept if sound else None


def keep_scan(identity: str, scan: dict[str, Any]) -> None:
    """Remember a scan (`Scan.to_plain`)."""
    keep_json(scan_file(identity), scan)
