"""What a file's values tell: broken and empty tensors, fingerprints of its components, its SHA-256. Every byte is read once."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.dtypes import F16, F32
from ..checkpoints.families.parts.position_ids import is_position_ids
from ..checkpoints.files import FileReader
from ..checkpoints.hashes import autov2, identity, known_sha256, remember, sha256
from ..checkpoints.kernels import kernel
from ..checkpoints.notices import Notice
from ..checkpoints.opening import open_checkpoint
from ..checkpoints.stream import Pass, Progress, Span, spans
from .fingerprint import BLOCK, Fingerprints, canonical, short_name
from .health import PositionIds, TensorValues, findings, look_at_position_ids, to_plain


@dataclass(frozen=True)
class Scan:
    """What a pass over the values found.

    Attributes:
        path: the file or folder.
        tensors: key -> NaN, infinite, too large and zero values, for every tensor.
        fingerprints: component -> 32 hex digits; see `fingerprint`.
        position_ids: key -> what is stored there instead of the integers 0..76, if anything.
        sha256: of the file; None for a folder.
        autov2: the first ten digits of it.
        health: findings, worst first; empty for a sound file.
        seconds: how long it took.
    """

    path: Path
    tensors: dict[str, TensorValues]
    fingerprints: dict[str, str]
    position_ids: dict[str, PositionIds] = field(default_factory=dict)
    sha256: str | None = None
    autov2: str | None = None
    health: tuple[Notice, ...] = ()
    seconds: float = 0.0

    def to_plain(self) -> dict[str, Any]:
        """The same as dictionaries and lists, ready for JSON; of the tensors those with something to report."""
        return {
            "path": str(self.path),
            "tensors": {key: asdict(values) for key, values in self.tensors.items() if values.remarkable},
            "scanned": len(self.tensors),
            "fingerprints": self.fingerprints,
            "position_ids": {key: ids.value for key, ids in self.position_ids.items()},
            "sha256": self.sha256,
            "autov2": self.autov2,
            "health": [to_plain(finding) for finding in self.health],
            "seconds": self.seconds,
        }


def scan(
    path: Path | str,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Scan:
    """Read a checkpoint's values once, and report on them.

    The SHA-256 of a .safetensors file is computed in the same read. A .ckpt is read a second time for it, since its tensors
    do not lie in the order of the file; a folder has none.

    Raises:
        CheckpointError: the file cannot be read as a checkpoint, or ends early.
        Cancelled: `cancel` was set.
    """
    began = time.perf_counter()
    with open_checkpoint(path) as checkpoint:
        run = _Scanner(checkpoint)
        run.read(Pass(threads, progress, cancel))
        values = run.values()
        digest = run.sha256()
        return Scan(
            path=checkpoint.path,
            tensors=values,
            fingerprints=run.fingerprints.result({k: (t.dtype, t.shape) for k, t in checkpoint.tensors.items()}),
            position_ids=run.position_ids,
            sha256=digest,
            autov2=autov2(digest) if digest else None,
            health=findings(checkpoint, values, run.position_ids),
            seconds=time.perf_counter() - began,
        )


class _Scanner:
    """One pass over a checkpoint, and what it gathers."""

    def __init__(self, checkpoint: Checkpoint):
        self._checkpoint = checkpoint
        self._infos = sorted(checkpoint.tensors.values(), key=_position)
        self._counts = np.zeros((len(self._infos), 3), np.int64)  # NaN, infinite, too large for fp16
        self._nonzero = np.zeros(len(self._infos), bool)
        self._lock = threading.Lock()
        self.fingerprints = Fingerprints(checkpoint.family)
        self.position_ids: dict[str, PositionIds] = {}
        self._digest = _digest_of(checkpoint, self._infos)

    def read(self, run: Pass) -> None:
        """Read every tensor."""
        infos, first, pieces = self._infos, [0], list(spans([t.elements for t in self._infos], BLOCK))
        for info in infos:
            first.append(first[-1] + -(-info.elements // BLOCK))

        def worker() -> Callable[[Span], None]:
            raw, decoded = np.empty(BLOCK * 8, np.uint8), np.empty(BLOCK, np.float32)

            def work(piece: Span) -> None:
                info = infos[piece.index]
                data = raw[: piece.elements * info.dtype.size]
                self._checkpoint.read_raw(info, piece.start, piece.stop, data)
                if self._digest:
                    self._digest.update(first[piece.index] + piece.start // BLOCK, data)
                self._look(piece, info, data, decoded[: piece.elements])

            return self._digest.guarded(work) if self._digest else work

        run.run(
            pieces,
            worker,
            weight=lambda piece: piece.elements * infos[piece.index].dtype.size,
            total=sum(t.nbytes for t in infos),
            key=lambda piece: infos[piece.index].key,
        )

    def _look(self, piece: Span, info: TensorInfo, raw: np.ndarray, decoded: np.ndarray) -> None:
        values = canonical(raw, info.dtype, decoded)
        if short_name(info.key, info.family) is not None:
            self.fingerprints.add(info.key, piece.start, values)
        if is_position_ids(info.key):
            self.position_ids[info.key] = look_at_position_ids(values, info.dtype)
        if values.any():
            self._nonzero[piece.index] = True
        # One count for all three says that a piece is sound, as nearly all are.
        if info.dtype.is_float and kernel().count_bad(values, F32, F16):
            nan, inf = int(np.isnan(values).sum()), int(np.isinf(values).sum())
            large = int((np.abs(values) > F16.limit).sum()) - inf
            with self._lock:
                self._counts[piece.index] += (nan, inf, large)

    def values(self) -> dict[str, TensorValues]:
        """Key -> what its values are like, in the order of the file."""
        return {
            info.key: TensorValues(*map(int, counts), zero=bool(info.elements and not nonzero))
            for info, counts, nonzero in zip(self._infos, self._counts, self._nonzero, strict=True)
        }

    def sha256(self) -> str | None:
        """The file's digest: of this read, or remembered, or by a read of its own."""
        path = self._checkpoint.path
        if not path.is_file():
            return None
        return self._digest.finish() if self._digest else sha256(path)


def _position(info: TensorInfo) -> tuple:
    piece = info.stored.pieces[0]
    return str(piece.path), piece.offset


class _Digest:
    """A file's SHA-256, fed by several threads, each waiting for its turn."""

    def __init__(self, path: Path, start: bytes):
        self._path, self._identity = path, identity(path)
        self._digest = hashlib.sha256(start)
        self._turn, self._next, self._stopped = threading.Condition(), 0, False

    def update(self, number: int, data: np.ndarray) -> None:
        """Add the `number`-th piece of the file, when all before it are in."""
        with self._turn:
            self._turn.wait_for(lambda: self._next == number or self._stopped)
        if not self._stopped:
            self._digest.update(data)
            with self._turn:
                self._next += 1
                self._turn.notify_all()

    def guarded(self, work: Callable[[Span], None]) -> Callable[[Span], None]:
        """The same work; when it fails, no thread waits for its turn any longer."""

        def guarded(piece: Span) -> None:
            try:
                work(piece)
            except BaseException:
                with self._turn:
                    self._stopped = True
                    self._turn.notify_all()
                raise

        return guarded

    def finish(self) -> str:
        digest = self._digest.hexdigest()
        if identity(self._path) == self._identity:
            remember(self._identity, digest)
        return digest


def _digest_of(checkpoint: Checkpoint, infos: list[TensorInfo]) -> _Digest | None:
    """A digest to feed while reading, where the tensors are all of the file behind its header, one after another."""
    path = checkpoint.path
    if not path.is_file() or known_sha256(path) or not infos or any(info.stored.coded for info in infos):
        return None
    at = start = infos[0].stored.pieces[0].offset
    for info in infos:
        if len(info.stored.pieces) != 1 or not info.stored.contiguous or info.stored.pieces[0].offset != at:
            return None
        at += info.nbytes
    if at != checkpoint.size:
        return None
    with FileReader(path) as reader:
        return _Digest(path, bytes(reader.read(0, start)))
