"""Tensors that do not lie in their file element after element (channels last, transposed), laid out anew in memory.

Such a tensor is put in order whole, whichever part of it is asked for, because its parts are scattered over all of it. Threads
that ask for parts of one tensor share one copy, which is let go when all of it was handed out.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from .dtypes import carrier
from .encodings.decoding import Decoder
from .files import FileReader
from .tensors import Piece, StoredTensor, row_major

# Threads that are not through with a tensor yet, while others are at the next one, want both.
_KEPT = 2


class Strided:
    """Parts of such tensors, from any thread; at most two tensors are in memory."""

    def __init__(self, reader: Callable[[Piece], FileReader | Decoder]):
        self._reader = reader
        self._lock = threading.Lock()
        self._tensors: OrderedDict[StoredTensor, _Gathered] = OrderedDict()

    def read(self, stored: StoredTensor, start: int, stop: int, out: np.ndarray) -> None:
        """Fill `out` (uint8) with elements `start` to `stop`, row-major."""
        with self._lock:  # one tensor at a time: whoever else wants it waits, and then has it
            found = self._tensors.get(stored)
            if found is None:
                while len(self._tensors) >= _KEPT:
                    self._tensors.popitem(last=False)
                found = self._tensors[stored] = _Gathered(self._gathered(stored))
            found.left -= stop - start
            if found.left <= 0:
                del self._tensors[stored]
        out[:] = found.flat[start:stop].view(np.uint8)

    def clear(self) -> None:
        """Let go of what is in memory."""
        with self._lock:
            self._tensors.clear()

    def _gathered(self, stored: StoredTensor) -> np.ndarray:
        """The raw elements of a tensor, flat."""
        flat, at = np.empty(stored.elements, carrier(stored.dtype)), 0
        for piece in stored.pieces:
            part = flat[at : at + piece.elements].reshape(piece.shape)
            np.copyto(part, self._window(stored, piece))
            at += piece.elements
        return flat

    def _window(self, stored: StoredTensor, piece: Piece) -> np.ndarray:
        """A piece as it is in its file, seen in its shape."""
        size = stored.dtype.size
        raw = np.frombuffer(self._reader(piece).read(piece.offset, piece.span * size), carrier(stored.dtype))
        strides = tuple(step * size for step in piece.strides or row_major(piece.shape))
        return np.lib.stride_tricks.as_strided(raw, piece.shape, strides, writeable=False)


class _Gathered:
    """A tensor in memory, and how many of its elements were not asked for yet."""

    def __init__(self, flat: np.ndarray):
        self.flat, self.left = flat, flat.size
