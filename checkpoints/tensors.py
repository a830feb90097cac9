"""A stored tensor: a name, a shape, and the byte ranges of files that hold it.

Nothing here reads a byte. A tensor is a list of `Piece`s whose elements, one after another, are the tensor in row-major
order. That is enough for every container: one piece for a tensor of a .safetensors file, three for a fused qkv that a
diffusers folder keeps as three tensors, a strided piece for a tensor that a pickle stores transposed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING

from .dtypes import DType

if TYPE_CHECKING:
    from .encodings import Coded, Encoding

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a tensor: `prod(shape)` elements in `path`, the first of them at byte `offset`.

    `strides` counts elements, one number per axis of `shape`; None means that the elements lie one after another.
    Where `decoded_by` names an encoding, the elements are not bytes of the file but the numbers (F32) that its codes stand for, and
    `offset` counts their bytes.
    """

    path: Path
    offset: int
    shape: Shape
    strides: Shape | None = None
    decoded_by: tuple[Encoding, Coded] | None = None

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def span(self) -> int:
        """How many elements of the file lie between the first and the last element of the piece, both included."""
        if self.strides is None or self.elements == 0:
            return self.elements
        return 1 + sum((n - 1) * s for n, s in zip(self.shape, self.strides, strict=True))


def row_major(shape: Shape) -> Shape:
    """The strides, in elements, of a contiguous tensor of this shape."""
    strides, step = [], 1
    for n in reversed(shape):
        strides.append(step)
        step *= n
    return tuple(reversed(strides))


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """A tensor by the name its container uses, and where its elements are."""

    name: str
    dtype: DType
    shape: Shape
    pieces: tuple[Piece, ...]

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.dtype.nbytes(self.elements)

    @property
    def contiguous(self) -> bool:
        """Whether each piece is one byte range of a file, or of the numbers that one codes for."""
        return all(p.strides is None for p in self.pieces)

    @property
    def coded(self) -> bool:
        """Whether any of it is decoded from codes."""
        return any(p.decoded_by is not None for p in self.pieces)

    @property
    def kept_as(self) -> str:
        """The dtype in the file: of the codes where there are codes."""
        if len(self.pieces) == 1 and self.pieces[0].decoded_by is None:  # nearly all
            return self.dtype.name
        coded = next((p.decoded_by[1] for p in self.pieces if p.decoded_by), None)
        return (coded.codes.dtype if coded else self.dtype).name

    @property
    def kept_bytes(self) -> int:
        """The bytes in the file, side tensors included."""
        if len(self.pieces) == 1 and self.pieces[0].decoded_by is None:  # nearly all
            return self.nbytes
        plain = self.dtype.nbytes(sum(p.elements for p in self.pieces if p.decoded_by is None))
        coded = [(p.elements, p.decoded_by[1]) for p in self.pieces if p.decoded_by]
        return plain + sum(
            c.nbytes * n // max(prod(c.codes.shape if c.shape is None else c.shape), 1) for n, c in coded
        )

    @classmethod
    def at(cls, name: str, dtype: DType, shape: Shape, path: Path, offset: int, strides: Shape | None = None):
        """A tensor in one place of one file; `strides` in elements, None or row-major for a contiguous one."""
        shape = tuple(shape)
        if strides is not None:
            # A stride of an axis with one element is never used, and writers put anything there.
            plain = row_major(shape)
            strides = tuple(p if n == 1 else s for n, s, p in zip(shape, strides, plain, strict=True))
            strides = None if strides == plain else strides
        return cls(name, dtype, shape, (Piece(path, offset, shape, strides),))

    def rows(self, start: int, stop: int) -> StoredTensor:
        """Rows `start` to `stop` of the first axis. Only of a tensor in one piece."""
        (piece,) = self.pieces
        step = (piece.strides or row_major(self.shape))[0]
        shape = (stop - start, *self.shape[1:])
        piece = replace(piece, offset=piece.offset + start * step * self.dtype.size, shape=shape)
        return replace(self, shape=shape, pieces=(piece,))

    def transposed(self) -> StoredTensor:
        """The transpose of a matrix. Only of a tensor in one piece."""
        (piece,) = self.pieces
        strides = piece.strides or row_major(self.shape)
        turned = StoredTensor.at(self.name, self.dtype, self.shape[::-1], piece.path, piece.offset, strides[::-1])
        return replace(turned, pieces=(replace(turned.pieces[0], decoded_by=piece.decoded_by),))

    def reshaped(self, shape: Shape) -> StoredTensor:
        """The same elements in the same order under another shape of equal size."""
        if prod(shape) != self.elements:
            raise ValueError(f"{self.name}: {self.shape} has {self.elements} elements, {shape} has {prod(shape)}")
        return replace(self, shape=tuple(shape))

    @classmethod
    def concatenated(cls, parts: list[StoredTensor]) -> StoredTensor:
        """The parts stacked along the first axis; dtypes and the other axes are equal."""
        first = parts[0]
        if any(p.dtype != first.dtype or p.shape[1:] != first.shape[1:] for p in parts):
            raise ValueError(f"{first.name}: parts of different dtype or shape cannot be stacked")
        shape = (sum(p.shape[0] for p in parts), *first.shape[1:])
        pieces = tuple(piece for part in parts for piece in part.pieces)
        return cls(" + ".join(p.name for p in parts), first.dtype, shape, pieces)
