"""Measurements that are there already, as if the jobs had run."""

from __future__ import annotations

import threading
from pathlib import Path

from unetscope.dashboard.measuring import COMPARISON, DIFFERENCE, STATISTICS, TRACE
from unetscope.dashboard.results import keep, key_of
from unetscope.dashboard.tasks import Task


def difference(a: Path, b: Path, base: Path | None = None) -> str:
    """Compare two files; answers what the result is kept under."""
    return _measured(DIFFERENCE, {"a": str(a), "b": str(b), "base": str(base) if base else None})


def statistics(file: Path) -> str:
    return _measured(STATISTICS, {"file": str(file)})


def comparison(files: list[Path]) -> str:
    return _measured(COMPARISON, {"files": [str(f) for f in files], "reference": None})


def trace(merged: Path, among: list[Path]) -> str:
    return _measured(TRACE, {"merged": str(merged), "base": None, "among": [str(f) for f in among]})


def _measured(task: Task, arguments: dict) -> str:
    key = key_of(task, arguments)
    keep(task.kind, key, task.run(arguments, lambda done, total, what: None, threading.Event()))
    return key
