"""A LoRA as a checkpoint of changes: what the merge engine reads like any other input, in the delta space."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from ..checkpoint import Checkpoint, TensorInfo
from ..dtypes import F32
from ..errors import CheckpointError
from ..families import Family, family_of
from ..kernels import kernel
from ..recognition.architecture import known_id
from ..tensors import Shape, StoredTensor
from .opening import Lora, open_lora
from .own import OwnNames
from .values import Rows


class _OneThread:
    """Keeps linear algebra on one thread while LoRAs are open; they close in any order, and the last gives the threads back."""

    def __init__(self):
        self._open, self._limits, self._guard = 0, None, threading.Lock()

    def enter(self) -> None:
        with self._guard:
            self._open += 1
            if self._open == 1:
                self._limits = threadpool_limits(1, user_api="blas")

    def leave(self) -> None:
        with self._guard:
            self._open -= 1
            if not self._open:
                self._limits.restore_original_limits()


_ONE_THREAD = _OneThread()


@dataclass
class LoraCheckpoint(Checkpoint):
    """A LoRA in the delta space: each tensor is the change of that key, F32, computed when it is read.

    `info.stored.pieces` name the byte ranges of the files that a change is made of (the LoRA's, and the base's where it follows
    from the weight): they tell which files are read, their elements are not the tensor's.
    """

    lora: Lora | None = field(default=None, repr=False)
    base: Checkpoint | None = field(default=None, repr=False)
    _open: bool = field(default=True, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        # Threads read a LoRA, each a small product at a time: threads of the linear algebra below only wait for each other.
        _ONE_THREAD.enter()

    def read_raw(self, info: TensorInfo, start: int, stop: int, out: np.ndarray) -> None:
        """Fill `out` (uint8) with elements `start` to `stop` of a change. Computes the rows that they touch; thread-safe."""
        if stop <= start:
            return
        columns = prod(info.shape[1:])
        first, last = start // columns, -(-stop // columns)
        rows = self.lora.modules[info.key].rows(first, last, self._weight(info.key)).reshape(-1)
        out[:] = rows[start - first * columns : stop - first * columns].view(np.uint8)

    def bytes_of(self, info: TensorInfo) -> int:
        """The bytes of a change's factors, and of the weight where it follows from that."""
        module = self.lora.modules[info.key]
        weight = self.base[info.key].nbytes if module.needs_weight else 0
        return weight + sum(t.nbytes for t in module.tensors)

    def close(self) -> None:
        """Close the LoRA's file; the base is its owner's."""
        super().close()
        self.lora.close()
        if self._open:
            self._open = False
            _ONE_THREAD.leave()

    def _weight(self, key: str) -> Rows | None:
        if self.base is None or not self.lora.modules[key].needs_weight:
            return None
        info = self.base[key]
        columns = prod(info.shape[1:])

        def rows(start: int, stop: int) -> np.ndarray:
            raw = np.empty((stop - start) * columns * info.dtype.size, np.uint8)
            self.base.read_raw(info, start * columns, stop * columns, raw)
            values = np.empty((stop - start) * columns, np.float32)
            kernel().decode(raw, info.dtype, values)
            return values.reshape(stop - start, columns).astype(np.float64)

        return rows


def lora_checkpoint(path: Path | str, base: Checkpoint | None = None, *, adapter: str | None = None) -> LoraCheckpoint:
    """Open a LoRA as a checkpoint of changes.

    Args:
        path: the LoRA's file.
        base: the checkpoint that it is for: says family and shapes, and gives the weights that (IA)^3 and DoRA need. It stays
            open as long as the changes are read, and is not closed with them.
        adapter: PEFT's name of the one that is meant, of a file that holds several.

    Raises:
        CheckpointError: it cannot be read, does not fit the base, or needs one and there is none.
    """
    family, shapes = None, None
    if base is not None:
        family = base.told_family
        shapes = {key: info.shape for key, info in base.tensors.items()}
    lora = _opened(path, base, family, shapes, adapter)
    tensors, notes = {}, [*lora.without_effect(), *lora.left_out()]
    for key, module in lora.modules.items():
        if module.needs_weight and (base is None or key not in base):
            lora.close()
            where = "give that checkpoint as its base" if base is None else f"the base {base.path} has no such tensor"
            raise CheckpointError(
                f"{lora.path}: its {module.kind} change of {key} follows from the weight itself; {where}"
            )
        pieces = [piece for info in module.tensors for piece in info.stored.pieces]
        if module.needs_weight:
            pieces += base[key].stored.pieces
        tensors[key] = TensorInfo(key, StoredTensor(key, F32, module.shape, tuple(pieces)), family_of(lora.family))
    return LoraCheckpoint(
        lora.path,
        lora.format,
        tensors,
        lora.metadata,
        lora.architecture,
        notes=notes,
        size=lora.size,
        lora=lora,
        base=base,
    )


def _opened(
    path: Path | str,
    base: Checkpoint | None,
    family: Family | None,
    shapes: Mapping[str, Shape] | None,
    adapter: str | None,
) -> Lora:
    """A LoRA that fits the base; one for another architecture is refused as that, not as a tensor of a wrong shape."""
    try:
        return open_lora(path, family=family, shapes=shapes, adapter=adapter)
    except CheckpointError:
        if family is None:
            raise
        with open_lora(path, adapter=adapter) as own:  # what is wrong with the file itself is said here
            if not isinstance(own.family, OwnNames) and own.family != family.id:
                raise CheckpointError(
                    f"{own.path}: is a {own.architecture.name}, but {base.path} is {base.architecture.name}; use a LoRA for "
                    f"{family.title if known_id(family) else 'that model'}, or a base that this one is for"
                ) from None
        raise
