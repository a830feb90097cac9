"""An output file that a later run can go on with, when the one that wrote it was stopped or killed.

Beside the file under construction lies a journal: what is being made, and, line by line, which tensors are finished. Their bytes
are on the disk before the line is.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

from .errors import OutputError
from .file_system import WINDOWS
from .output import OutputFile, check_target
from .partial_file import JOURNAL, RESUMABLE, taken

# Seconds between two times that the disk is waited for.
_EVERY = 5.0


class Journal:
    """The journal beside an output, read if it tells of the same work, else begun anew.

    Args:
        target: the output.
        identity: of the work: inputs and what is made of them. A journal of other work is not gone on with.
        kept: plain data that a later run needs as the first one had it, such as the header's metadata.

    Attributes:
        kept: of the first run.
        finished: tensor -> what was noted of it, by earlier runs.

    Raises:
        OutputError: another run is at work on this output, or the journal cannot be written.
    """

    def __init__(self, target: Path, identity: str, kept: Any):
        self.target, self.partial = Path(target), Path(f"{target}{RESUMABLE}")
        self.path = Path(f"{target}{JOURNAL}")
        self.kept, self.finished = kept, {}
        self._file: BinaryIO | None = None
        try:
            self._file = self._opened()
            if not self._read(identity):
                self._begin(identity)
        except OSError as error:
            self.close()
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None

    def _begin(self, identity: str) -> None:
        """Write the first line; whatever lies there is of other work, or damaged."""
        self.partial.unlink(missing_ok=True)
        self._file.truncate(0)
        self._file.write(_line({"identity": identity, "kept": self.kept}))
        self._file.flush()

    def _opened(self) -> BinaryIO:
        """The journal's file, which no other run has."""
        for path in (self.path, self.partial):
            if path.is_symlink():
                raise OutputError(f"{path}: is a link, which no run of ours made; remove it and try again")
        while True:
            file = open(self.path, "a+b")  # noqa: SIM115 (closed by `close`)
            if taken(file):
                file.close()
                raise OutputError(
                    f"{self.target}: another run is making this file; wait for it, or choose another name"
                )
            # Between opening and locking it, the run that had it may have finished and removed it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            file.close()

    def _read(self, identity: str) -> bool:
        """Take over what an earlier run wrote down; False when there is nothing to go on with."""
        self._file.seek(0)
        # What follows the last line feed was torn when the run was killed.
        first, *rest = self._file.read().split(b"\n")[:-1] or [b""]
        begun = _parsed(first)
        if begun is None or begun.get("identity") != identity or "kept" not in begun or not self.partial.is_file():
            return False
        self.kept = begun["kept"]
        whole = len(first) + 1
        for line in rest:
            found = _parsed(line)
            if found is None or not isinstance(found.get("key"), str) or "note" not in found:
                break  # so was this, by a machine that lost its power
            self.finished[found["key"]] = found["note"]
            whole += len(line) + 1
        self._file.truncate(whole)
        return True

    def write(self, lines: list[tuple[str, Any]]) -> None:
        """Write down tensors that are finished, and wait until the disk has it."""
        self._file.write(b"".join(_line({"key": key, "note": note}) for key, note in lines))
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Let go of it; the file stays."""
        if self._file:
            with contextlib.suppress(OSError):  # what a full disk did not take
                self._file.close()

    def remove(self) -> None:
        """The work is done or given up: remove the journal and what is left of the file under construction."""
        if self._file.closed:
            return
        if WINDOWS:
            self.close()  # an open file cannot be removed there
        for path in (self.partial, self.path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self.close()


class ResumableFile(OutputFile):
    """An `OutputFile` that stays, with its journal, when the `with` block is left before `commit()`.

    Args:
        journal: of this work.
        size: of the output.
    """

    def __init__(self, journal: Journal, size: int, *, overwrite: bool = False, fsync: bool = True):
        self._journal, self._waiting = journal, []
        self._guard, self._looked, self._done = threading.Lock(), time.monotonic(), bool(journal.finished)
        super().__init__(journal.target, size, overwrite=overwrite, fsync=fsync)

    def _claim(self, size: int) -> BinaryIO:
        partial = self._journal.partial
        held = _on_disk(partial)
        check_target(self.target, size, self._overwrite, held)
        return open(partial, "r+b" if partial.exists() else "w+b")

    def finish(self, key: str, note: Any) -> None:
        """A tensor is written; `note` is plain data that a later run gets back. Safe from several threads.

        Raises:
            OutputError: the disk fails or is full.
        """
        try:
            with self._guard:
                self._waiting.append((key, note))
                if time.monotonic() - self._looked > _EVERY:
                    self._settle()
        except OSError as error:
            raise OutputError(f"{self.target}: writing failed ({error.strerror or error})") from None

    def _settle(self) -> None:
        """Have the disk hold what is finished, then say so in the journal."""
        if self._waiting:
            self._writer.sync()
            self._journal.write(self._waiting)
            self._waiting, self._done = [], True
        self._looked = time.monotonic()

    def commit(self) -> None:
        super().commit()
        self._journal.remove()

    def give_up(self) -> None:
        """The work cannot be finished as it is: what was written is of no use to a later run."""
        self._waiting, self._done = [], False

    def discard(self) -> None:
        with self._guard, contextlib.suppress(OSError, ValueError):
            if hasattr(self, "_writer") and self.partial.exists():
                self._settle()
        self._close()
        if self._done:
            self._journal.close()
        else:
            self._journal.remove()


def _on_disk(path: Path) -> int:
    """Bytes of a file that the disk holds, without its holes; 0 when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, 512 * found.st_blocks) if hasattr(found, "st_blocks") else found.st_size


def _line(data: dict) -> bytes:
    return json.dumps(data).encode() + b"\n"


def _parsed(line: bytes) -> dict | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
