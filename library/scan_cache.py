"""What scans of values found, kept in the user's cache folder under the file's identity (`hashes.identity`).

The app writes and reads the same files, so a model that was scanned there need not be scanned again here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path
from typing import Any

from ..checkpoints.hashes import cache_folder
from ..checkpoints.output import replace_file


def scan_file(identity: str) -> Path:
    """Where the scan of a file is kept."""
    digest = hashlib.sha256(identity.encode("utf-8", "surrogatepass"))  # file names may hold what UTF-8 has not
    return cache_folder() / "scans" / f"{digest.hexdigest()[:32]}.json"


def kept_scan(identity: str) -> dict[str, Any] | None:
    """What the last scan found (`Scan.to_plain`), None when there was none since the file changed."""
    try:
        kept = json.loads(scan_file(identity).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    sound = (
        isinstance(kept, dict)
        and isinstance(kept.get("fingerprints"), dict)
        and isinstance(kept.get("sha256"), str | None)
    )
    return kept if sound else None


def keep_scan(identity: str, scan: dict[str, Any]) -> None:
    """Remember a scan (`Scan.to_plain`); a cache that cannot be written costs time later and nothing else."""
    file = scan_file(identity)
    with contextlib.suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(scan, ensure_ascii=False), fsync=False)
