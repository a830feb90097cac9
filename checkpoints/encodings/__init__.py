"""Ways to store numbers: one file each. What uses a tensor sees numbers, and never codes.

A way is an `Encoding` at the top of a module of this folder, or of another package (entry point group `unetscope.encodings`).
It does two things:

- `find(file)` looks at a file's names, dtypes, metadata and small tensors, and answers which tensors hold codes (`Coded`): each
  with its side tensors (scales, tables, rotations), the shape of its numbers, and what the decoder has to know. Side tensors
  belong to their tensor and appear nowhere else.
- `decode(source, start, stop, out)` fills `out` (fp32) with the numbers `start` to `stop` of one tensor, row-major, from
  `source.codes(first, last)` (stored elements as they are) and `source.side(role)` (a whole side tensor). It is called piece by
  piece, from several threads, in the pass that reads plain floats: `start` is a multiple of `Coded.granule`, and `stop` is one
  or the end of the tensor.

An opened checkpoint then holds an F32 tensor of the numbers' shape, which is turned, cut, stacked, merged and written like any
other.
An encoding whose `decode` is None is recognised by name: what only looks says how the file is stored, what computes refuses it
before anything is written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..errors import UnetscopeError
from ..registry import Registry

if TYPE_CHECKING:
    import numpy as np

    from ..tensors import Shape, StoredTensor
    from .decoding import Source
    from .stored_file import StoredFile


@dataclass(frozen=True, eq=False)
class Coded:
    """One tensor whose elements are codes.

    Attributes:
        codes: as stored.
        sides: role (`scale`, `table`...) -> the tensor that the decoder reads next to the codes.
        shape: of the numbers; None for the shape of the codes.
        granule: how many numbers are decoded together: a block, a group, a row.
        settings: what else the decoder has to know (the block's size, a rotation...).
    """

    codes: StoredTensor
    sides: Mapping[str, StoredTensor] = field(default_factory=dict)
    shape: Shape | None = None
    granule: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes in the file, of codes and side tensors."""
        return self.codes.nbytes + sum(side.nbytes for side in self.sides.values())


@dataclass(frozen=True)
class Found:
    """What an encoding found in a file.

    Attributes:
        sign: the first thing that told: a tensor's name, or `metadata NAME`.
        coded: the tensors that hold codes.
        markers: names of tensors that say something of the whole file and are not weights.
        metadata: names of the metadata that describe the codes, and do not fit the numbers that they stand for.
    """

    sign: str
    coded: list[Coded]
    markers: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()


@dataclass(frozen=True)
class Encoding:
    """A way to store numbers.

    Attributes:
        id: its name in reports.
        title: for people, as in "is stored as ...".
        find: what a file has of it, None where it has nothing. Tensors that an encoding before this one has taken are not in the
            file that it sees. None for plain floats: what no other encoding takes.
        decode: codes to numbers, see above; None while that is not written.
        general: it goes by a general sign (integers where weights should be), so it is asked last.
    """

    id: str
    title: str
    find: Callable[[StoredFile], Found | None] | None
    decode: Callable[[Source, int, int, np.ndarray], None] | None = None
    general: bool = False


def _can_work(encoding: Encoding) -> None:
    if encoding.find is None and encoding.decode is not None:
        raise UnetscopeError(
            f"encoding {encoding.id!r}: has a decoder and nothing that finds its tensors; give it `find`"
        )


ENCODINGS: Registry[Encoding] = Registry("encoding", Encoding, __name__, "unetscope.encodings", check=_can_work)


def in_turn() -> list[Encoding]:
    """The encodings in the order in which they are asked: those that decode before those that only have a name, so that a
    package can add a decoder; those that go by a general sign last. Plain floats are not asked."""
    asked = [encoding for encoding in ENCODINGS.values() if encoding.find is not None]
    return sorted(asked, key=lambda encoding: (encoding.general, encoding.decode is None))
