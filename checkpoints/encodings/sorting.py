"""Which of a file's tensors hold codes: codes become tensors of numbers, side tensors go with theirs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..dtypes import F32
from ..errors import CheckpointError
from ..tensors import Piece, StoredTensor
from . import ENCODINGS, Coded, Encoding, in_turn
from .decoding import not_decoded
from .stored_file import StoredFile


@dataclass(frozen=True)
class Stored:
    """How a part of a file's tensors is stored.

    Attributes:
        encoding: the encoding's id.
        title: its name for people.
        tensors: how many weights are stored so.
        bytes: what they take with their side tensors.
        sign: what told it, for people; empty for plain numbers.
        decoded: whether what computes can use them.
    """

    encoding: str
    title: str
    tensors: int
    bytes: int
    sign: str
    decoded: bool

    def to_plain(self) -> dict[str, Any]:
        """The same as a dictionary, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Sorted:
    """A file's tensors as numbers, its metadata without what described the codes, and how the file is stored."""

    tensors: list[StoredTensor]
    metadata: dict[str, str]
    stored: tuple[Stored, ...]


def sort_out(tensors: Iterable[StoredTensor], metadata: dict[str, str]) -> Sorted:
    """The tensors of one file, those of codes as tensors of the numbers that they stand for.

    Raises:
        CheckpointError: an encoding takes a tensor that is not there, or that another one needs.
    """
    file = whole = StoredFile(tensors, metadata)
    numbers: dict[str, StoredTensor] = {}
    hidden: set[str] = set()
    described: set[str] = set()
    stored = []
    for encoding in in_turn():
        found = encoding.find(file)
        if found is None or (stored and not found.coded and not found.markers):
            continue  # what only the metadata say counts where nothing else was found
        numbers |= {coded.codes.name: _numbers(encoding, coded) for coded in found.coded}
        hidden |= {side.name for coded in found.coded for side in coded.sides.values()} | set(found.markers)
        if encoding.decode is not None:
            described |= set(found.metadata)
        stored.append(
            Stored(
                encoding.id,
                encoding.title,
                len(found.coded),
                sum(coded.nbytes for coded in found.coded),
                found.sign,
                encoding.decode is not None,
            )
        )
        file = file.without([*numbers, *hidden])
    if not stored:
        return Sorted(list(whole.tensors.values()), metadata, (_plain(file),))
    kept = [numbers.get(name, t) for name, t in whole.tensors.items() if name in numbers or name not in hidden]
    left = {name: text for name, text in metadata.items() if name not in described}
    return Sorted(kept, left, (*stored, _plain(file)))


def refuse_undecoded(path: Path, stored: Iterable[Stored]) -> None:
    """Refuse a file with codes that nothing decodes: what computes would take them for weights.

    Raises:
        CheckpointError: with the file, the encoding, and what to do.
    """
    for part in stored:
        if not part.decoded:
            raise not_decoded(path, part.title, part.sign)


def together(parts: Iterable[Stored]) -> tuple[Stored, ...]:
    """The same of several files, one line an encoding."""
    found: dict[str, Stored] = {}
    for part in parts:
        before = found.get(part.encoding)
        if before is not None:
            part = Stored(
                part.encoding,
                part.title,
                part.tensors + before.tensors,
                part.bytes + before.bytes,
                before.sign,
                part.decoded,
            )
        found[part.encoding] = part
    return tuple(sorted(found.values(), key=lambda part: not part.sign))


def _plain(file: StoredFile) -> Stored:
    plain = next(encoding for encoding in ENCODINGS.values() if encoding.find is None)
    size = sum(tensor.nbytes for tensor in file.tensors.values())
    return Stored(plain.id, plain.title, len(file.tensors), size, "", True)


def _numbers(encoding: Encoding, coded: Coded) -> StoredTensor:
    """The tensor of numbers that codes stand for."""
    codes = coded.codes
    for tensor in (codes, *coded.sides.values()):
        if encoding.decode is not None and not (len(tensor.pieces) == 1 and tensor.contiguous):
            raise CheckpointError(
                f"{tensor.pieces[0].path}: {tensor.name} is stored out of order, and {encoding.title} are not"
            )
    shape = codes.shape if coded.shape is None else coded.shape
    piece = Piece(codes.pieces[0].path, 0, shape, None, (encoding, coded))
    return StoredTensor(codes.name, F32, shape, (piece,))
