"""The optimiser's memory in a run folder: one operation of Optuna a line, from several processes.

Optuna's own reader gives up at a line that is not whole. A worker that is killed, or whose disk is full, leaves such a line while
others go on: nobody has acted on it, so that everybody may pass it over.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from optuna.storages.journal import BaseJournalBackend, JournalFileOpenLock

from ..checkpoints.files.output import append_lines

_BEGINNING = b'{"op_code"'


class JournalFile(BaseJournalBackend):
    """A journal file.

    Args:
        path: of the file; made if need be.
    """

    def __init__(self, path: Path):
        self.path = path
        self._lock = JournalFileOpenLock(str(path))
        # How many operations were read, and the bytes that they took.
        self._read, self._offset = 0, 0
        path.open("ab").close()

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:
        """The operations from a number on. A line that is still being written is left for the next time."""
        if self._read > log_number_from:
            self._read, self._offset = 0, 0
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            for line in file:
                if not line.endswith(b"\n"):
                    return
                self._offset += len(line)
                operation = _operation(line)
                if operation is None:
                    continue
                self._read += 1
                if self._read > log_number_from:
                    yield operation

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Add operations, after the line that somebody may have left unfinished."""
        text = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs).encode()
        self._lock.acquire()
        try:
            append_lines(self.path, text)
        finally:
            self._lock.release()


def _operation(line: bytes) -> dict[str, Any] | None:
    """The operation in a line. Earlier versions wrote on in a line that was left unfinished: then it is the last one in it."""
    at = 0
    while at >= 0:
        try:
            found = json.loads(line[at:])
        except (ValueError, RecursionError):
            found = None
        if isinstance(found, dict) and "op_code" in found:
            return found
        at = line.find(_BEGINNING, at + 1)
    return None


def set_aside(path: Path) -> Path:
    """Give a journal that is of no use another name, and say which."""
    number, free = 1, path.with_name(path.name + ".damaged")
    while free.exists():
        number += 1
        free = path.with_name(f"{path.name}.damaged-{number}")
    os.replace(path, free)
    return free
