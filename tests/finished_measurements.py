"""Measurements that are there already, as if the jobs had run."""

from __future__ import annotations

import threading
from pathlib import Path

from unetscope.dashboard import measuring


def _nothing(done: int, total: int, what: str) -> None:
    """Progress that nobody follows."""


def difference(a: Path, b: Path, base: Path | None = None) -> str:
    """Compare two files; answers what the result is kept under."""
    arguments = {"a": str(a), "b": str(b), "base": str(base) if base else None}
    return measuring.run_difference(arguments, _nothing, threading.Event())["identity"]


def statistics(file: Path) -> str:
    return measuring.run_statistics({"file": str(file)}, _nothing, threading.Event())["identity"]


def comparison(files: list[Path]) -> str:
    arguments = {"files": [str(f) for f in files], "reference": None}
    return measuring.run_comparison(arguments, _nothing, threading.Event())["identity"]


def trace(merged: Path, among: list[Path]) -> str:
    arguments = {"merged": str(merged), "base": None, "among": [str(f) for f in among]}
    return measuring.run_trace(arguments, _nothing, threading.Event())["identity"]
