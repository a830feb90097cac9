"""Numbers of a coded tensor, as if a file held them: fp32, element after element, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..dtypes import F32, carrier
from ..errors import CheckpointError
from ..files import FileReader
from ..kernels import kernel
from ..tensors import StoredTensor

if TYPE_CHECKING:
    from . import Coded, Encoding


class Source:
    """What a decoder reads of one coded tensor.

    Attributes:
        coded: the tensor, its side tensors and settings.
    """

    def __init__(self, coded: Coded, reader: Callable[[Path], FileReader]):
        self.coded = coded
        self._reader = reader
        self._sides: dict[str, np.ndarray] = {}
        self._lock = threading.Lock()

    def codes(self, first: int, last: int) -> np.ndarray:
        """Stored elements `first` to `last` as raw bits, flat, in the numpy type that carries their dtype."""
        return self._elements(self.coded.codes, first, last)

    def side(self, role: str) -> np.ndarray:
        """A whole side tensor as raw bits, in its shape; it is read once."""
        with self._lock:
            found = self._sides.get(role)
            if found is None:
                stored = self.coded.sides[role]
                found = self._elements(stored, 0, stored.elements).reshape(stored.shape)
                self._sides[role] = found
        return found

    def side_values(self, role: str) -> np.ndarray:
        """A whole side tensor of floats as fp32."""
        raw, stored = self.side(role), self.coded.sides[role]
        if not stored.dtype.is_float:
            return raw.astype(np.float32)
        out = np.empty(stored.elements, np.float32)
        kernel().decode(raw.reshape(-1).view(np.uint8), stored.dtype, out)
        return out.reshape(stored.shape)

    def _elements(self, stored: StoredTensor, first: int, last: int) -> np.ndarray:
        size, (piece,) = stored.dtype.size, stored.pieces
        out = np.empty((last - first) * size, np.uint8)
        self._reader(piece.path).read_into(piece.offset + first * size, out)
        return out.view(carrier(stored.dtype))


class Decoder:
    """A coded tensor as a reader of bytes: those of its numbers in fp32, from byte 0 on. Stands where a `FileReader` does."""

    def __init__(self, encoding: Encoding, coded: Coded, reader: Callable[[Path], FileReader]):
        self._encoding, self._coded = encoding, coded
        self._source = Source(coded, reader)
        self._elements = prod(coded.codes.shape if coded.shape is None else coded.shape)

    def read_into(self, offset: int, buffer) -> None:
        """Fill `buffer` with the bytes from `offset` on.

        Raises:
            CheckpointError: there is no decoder, the decoder fails, or the file ends early.
        """
        if self._encoding.decode is None:
            raise not_decoded(self._coded.codes.pieces[0].path, self._encoding.title, self._coded.codes.name)
        view = np.frombuffer(memoryview(buffer).cast("B"), np.uint8)
        start = offset // F32.size
        stop = start + view.size // F32.size
        granule = self._coded.granule
        first, last = start - start % granule, min(self._elements, -(-stop // granule) * granule)
        numbers = np.empty(last - first, np.float32)
        self._encoding.decode(self._source, first, last, numbers)
        view[:] = numbers[start - first : stop - first].view(np.uint8)

    def read(self, offset: int, size: int) -> bytearray:
        """`size` bytes from `offset` on."""
        out = bytearray(size)
        self.read_into(offset, out)
        return out


def not_decoded(path: Path, title: str, sign: str) -> CheckpointError:
    """The refusal of codes that cannot be turned into numbers."""
    return CheckpointError(
        f"{path}: is stored as {title} ({sign}), which is not decoded yet: its codes are not weights. Give the file that it was "
        "made from, in fp16, bf16 or fp32",
        code="encoding.not_decoded",
    )
