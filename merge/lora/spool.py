"""Tensors of an output whose header cannot be laid out yet: set aside on the disk, next to the output, until all are known."""

from __future__ import annotations

import tempfile
from pathlib import Path
from threading import Lock

import numpy as np

from ...checkpoints.dtypes import DType
from ...checkpoints.errors import OutputError, RecipeError
from ...checkpoints.files.partial import PARTIAL
from ...checkpoints.kernels import kernel
from ...checkpoints.transfer import Fill, Outgoing


class Spool:
    """An unnamed file in the output's folder; the system removes it, whatever becomes of the run. Safe for threads."""

    def __init__(self, target: Path):
        try:
            self._file = tempfile.TemporaryFile(  # noqa: SIM115 (closed on exit)
                buffering=0, prefix=f"{Path(target).name}{PARTIAL}", dir=Path(target).absolute().parent
            )
        except OSError as error:
            raise OutputError(f"{target}: cannot be written ({error.strerror or error})") from None
        self._target, self._lock, self._end = target, Lock(), 0
        self.tensors: list[Outgoing] = []

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc) -> None:
        self._file.close()

    def add(self, name: str, values: np.ndarray, dtype: DType) -> np.ndarray:
        """Set a tensor aside in a dtype, rounded once. Returns it as it will be read back, fp32.

        Raises:
            RecipeError: a value does not fit the dtype.
            OutputError: the disk is full.
        """
        flat = np.ascontiguousarray(values, dtype=np.float32).reshape(-1)
        raw = np.empty(flat.size * dtype.size, np.uint8)
        if kernel().encode(flat, dtype, raw):
            raise RecipeError(
                f"{name}: {self._fault(flat)} for {dtype} in {self._target}; choose a wider dtype (bf16, fp32)"
            )
        self._append(name, raw, dtype, values.shape)
        back = np.empty(flat.size, np.float32)
        kernel().decode(raw, dtype, back)
        return back.reshape(values.shape)

    def _fault(self, flat: np.ndarray) -> str:
        finite = flat[np.isfinite(flat)]
        return (
            f"values up to {np.abs(finite).max(initial=0.0):.3g} are too large"
            if finite.size == flat.size
            else "NaN or infinity is not a value"
        )

    def _append(self, name: str, raw: np.ndarray, dtype: DType, shape: tuple[int, ...]) -> None:
        with self._lock:
            offset, self._end = self._end, self._end + raw.size
            try:
                self._file.seek(offset)
                left = memoryview(raw)
                while left:
                    left = left[self._file.write(left) :]
            except OSError as error:
                raise OutputError(f"{self._target}: writing failed ({error.strerror or error})") from None
            self.tensors.append(Outgoing(name, dtype, tuple(shape), self._reader(offset, dtype.size)))

    def _reader(self, offset: int, size: int) -> Fill:
        def fill(start: int, stop: int, out: np.ndarray) -> None:
            with self._lock:
                try:
                    self._file.seek(offset + start * size)
                    left = memoryview(out)
                    while read := left and self._file.readinto(left):
                        left = left[read:]
                except OSError as error:
                    raise OutputError(f"{self._target}: what was set aside cannot be read back ({error})") from None
                if left:
                    raise OutputError(f"{self._target}: what was set aside on the disk is gone; try again")

        return fill
