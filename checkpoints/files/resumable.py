"""An output file that a later run can continue with, when the one that wrote it was stopped or killed.

Next to the file under construction lies a journal: what is being made, and, line by line, which tensors are finished. Their bytes
are on the disk before the line is. Every line has a checksum of itself, and of its tensor: what was damaged between two runs,
in the journal or in the file, is made again.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import xxhash

from ..errors import CheckpointError, OutputError, tell
from ..notices import Notice
from ..text import counted
from . import system
from .locks import LOOKED_AT, lock
from .output import OutputFile
from .partial import JOURNAL, RESUMABLE
from .positioned import FileReader
from .targets import check_target

# Seconds between two times that the disk is waited for.
_EVERY = 5.0
_CHUNK = 1 << 22


class Journal:
    """The journal of an output, read if it tells of the same work, else begun anew, which is told.

    Args:
        target: the output.
        identity: of the work: inputs and what is made of them. The journal of other work is not continued.
        kept: plain data that a later run needs as the first one had it, such as the header's metadata.

    Attributes:
        kept: of the first run.
        finished: tensor -> what was noted of it, by earlier runs.
        sums: tensor -> checksum of its bytes (`checksum`), of the finished ones.

    Raises:
        OutputError: another run is at work on this output, or the journal cannot be written.
    """

    def __init__(self, target: Path, identity: str, kept: Any):
        self.target, self.partial = Path(target), Path(f"{target}{RESUMABLE}")
        self.path = Path(f"{target}{JOURNAL}")
        self.kept, self.finished, self.sums = kept, {}, {}
        self._file: BinaryIO | None = None
        try:
            self._file = self._opened()
            if not self._read(identity):
                self._begin(identity)
        except OSError as error:
            self.close()
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None
        except BaseException:
            self.close()
            raise

    def _begin(self, identity: str) -> None:
        """Write the first line; whatever is there is of other work, or damaged."""
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
            if lock(file, LOOKED_AT) is False:
                file.close()
                raise OutputError(
                    f"{self.target}: another run is making this file; wait for it, or choose another name",
                    code="output.in_use",
                )
            # Between opening and locking it, the run that had it may have finished and removed it.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self.path)):
                    return file
            file.close()

    def _read(self, identity: str) -> bool:
        """Take over what an earlier run wrote down; False when there is nothing to continue with."""
        self._file.seek(0)
        # What follows the last line feed was torn when the run was killed.
        text = self._file.read()
        lines = text.split(b"\n")[:-1]
        if not lines:
            return False
        begun = _parsed(lines[0])
        if begun is None or not isinstance(begun.get("identity"), str) or "kept" not in begun:
            return self._told_anew("is damaged, or of an earlier version")
        if begun["identity"] != identity:
            return self._told_anew("is of another merge (other inputs, recipe, options or version)")
        if not self.partial.is_file():
            return self._told_anew("is there, but the file with what was finished is gone") if lines[1:] else False
        self.kept, damaged = begun["kept"], 0
        for line in lines[1:]:
            found = _parsed(line)
            if found and all(isinstance(found.get(name), str) for name in ("key", "checksum")) and "note" in found:
                self.finished[found["key"]], self.sums[found["key"]] = found["note"], found["checksum"]
            else:
                damaged += 1
        if damaged:
            said = f"damaged lines of the journal: {damaged:,}; the tensors of those lines are made again"
            tell(Notice("journal.damaged", said).of(self.path.name))
        self._file.truncate(text.rfind(b"\n") + 1)
        return True

    def _told_anew(self, why: str) -> bool:
        tell(Notice("journal.anew", f"the journal of an earlier run {why}; the merge begins anew").of(self.path.name))
        return False

    def drop(self, keys: list[str]) -> None:
        """Take back that these tensors are finished."""
        for key in keys:
            del self.finished[key], self.sums[key]

    def write(self, lines: list[tuple[str, Any, str]]) -> None:
        """Write down tensors that are finished (name, note, checksum), and wait until the disk has it."""
        self._file.write(b"".join(_line({"key": k, "note": note, "checksum": found}) for k, note, found in lines))
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
        if system.WINDOWS:
            self.close()  # an open file cannot be removed there
        for path in (self.partial, self.path):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
        self.close()


class ResumableFile(OutputFile):
    """An `OutputFile` that stays, with its journal, when the `with` block is left before `commit()`.

    What the journal says to be finished is read when it is opened: tensors whose bytes are not what was written are dropped from
    `journal.finished`, which is told.

    Args:
        journal: of this work.
        size: of the output.
        places: tensor -> its first byte in the output, and how many it has.
        known: whether a tensor's note is one that the work can use; others are made again.
    """

    def __init__(
        self,
        journal: Journal,
        size: int,
        places: Mapping[str, tuple[int, int]],
        *,
        known: Callable[[Any], bool] = lambda note: True,
        overwrite: bool = False,
        fsync: bool = True,
    ):
        self._journal, self._places, self._known, self._waiting = journal, places, known, []
        self._guard, self._looked, self._done = threading.Lock(), time.monotonic(), bool(journal.finished)
        super().__init__(journal.target, size, overwrite=overwrite, fsync=fsync)
        self._done = bool(journal.finished)

    def _claim(self) -> BinaryIO:
        partial, size = self._journal.partial, self._size
        held = _on_disk(partial)
        check_target(self.target, size, self._overwrite, held)
        file = open(partial, "r+b" if partial.exists() else "w+b")  # noqa: SIM115 (closed by its owner)
        try:
            self._drop_damaged()
            if os.fstat(file.fileno()).st_size > size:
                file.truncate(size)
        except BaseException:
            file.close()
            raise
        return file

    def _drop_damaged(self) -> None:
        """Read what is said to be finished, and take back what is not there as it was written."""
        finished = self._journal.finished
        if not finished:
            return
        damaged = [key for key in finished if key not in self._places or not self._known(finished[key])]
        sound = sorted(finished.keys() - damaged, key=lambda key: self._places[key])
        with FileReader(self._journal.partial) as reader:
            damaged += [key for key in sound if self._checksum(reader, key) != self._journal.sums[key]]
        if damaged:
            text = (
                f"{len(damaged):,} of {counted(len(finished), 'tensor')} that an earlier run had finished are not as it wrote them "
                "(the file was changed or damaged since); they are made again"
            )
            tell(Notice("journal.tensors_damaged", text).of(self._journal.partial.name))
            self._journal.drop(damaged)

    def _checksum(self, reader: FileReader, key: str) -> str | None:
        """Of a tensor's bytes in the file; None where they cannot be read."""
        start, length = self._places[key]
        try:
            return checksum(reader, start, length)
        except CheckpointError:
            return None

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
            with FileReader(self.partial) as reader:
                found = [(key, note, self._checksum(reader, key)) for key, note in self._waiting]
            self._journal.write([line for line in found if line[2]])
            self._waiting, self._done = [], True
        self._looked = time.monotonic()

    def commit(self) -> None:
        super().commit()
        self._journal.remove()

    def give_up(self) -> None:
        """The work cannot be finished as it is: what was written is of no use to a later run."""
        self._waiting, self._done = [], False

    def discard(self) -> None:
        with self._guard, contextlib.suppress(OSError, ValueError, CheckpointError):
            if hasattr(self, "_writer") and self.partial.exists():
                self._settle()
        self._close()
        if self._done:
            self._journal.close()
        else:
            self._journal.remove()


def checksum(reader: FileReader, start: int, length: int) -> str:
    """XXH3 (128 bits, hexadecimal) of bytes of a file.

    Raises:
        CheckpointError: the file ends before, or its disk fails.
    """
    digest, buffer = xxhash.xxh3_128(), memoryview(bytearray(min(length, _CHUNK)))
    for at in range(start, start + length, _CHUNK):
        part = buffer[: min(_CHUNK, start + length - at)]
        reader.read_into(at, part)
        digest.update(part)
    return digest.hexdigest()


def _on_disk(path: Path) -> int:
    """Bytes of a file that the disk holds, without its holes; 0 when there is none."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0
    return min(found.st_size, 512 * found.st_blocks) if hasattr(found, "st_blocks") else found.st_size


def _line(data: dict) -> bytes:
    """A line of the journal, with a checksum of itself."""
    return json.dumps(data | {"sum": _sum(data)}).encode() + b"\n"


def _sum(data: dict) -> str:
    return xxhash.xxh3_64_hexdigest(json.dumps(data, sort_keys=True).encode())


def _parsed(line: bytes) -> dict | None:
    """What a line of the journal says; None where it is not as it was written."""
    try:
        found = json.loads(line)
        if not isinstance(found, dict):
            return None
        return found if found.pop("sum", None) == _sum(found) else None
    except (ValueError, RecursionError):
        return None
