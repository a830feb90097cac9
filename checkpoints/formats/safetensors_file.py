"""The .safetensors container: a length, a JSON header, and the bytes of the tensors.

Reading checks everything a header can get wrong before a byte of weight is touched. Writing lays out the whole file first:
the header is known before the weights are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from math import prod
from pathlib import Path
from reprlib import repr

from ..dtypes import DTYPES, PACKED, DType
from ..errors import CheckpointError, OutputError
from ..notices import Notice
from ..tensors import Shape, StoredTensor
from ..text import counted, some
from . import Contents, Format

# The safetensors library refuses larger headers as well; the largest real ones are below 1 MB.
HEADER_LIMIT = 100_000_000
_DTYPES = DTYPES | PACKED
_METADATA = "__metadata__"
# numpy's limit. The product of thousands of sizes would take hours, and be too long to print.
MAX_AXES = 64
_SHOWN, _SHOWN_CHARACTERS = 4, 40


def read_header(path: Path, allow_truncated: bool = False) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors of a .safetensors file in file order, and its metadata.

    Args:
        path: the file.
        allow_truncated: list the tensors of a file that ends too early as well (to look at, not to read from).

    Raises:
        CheckpointError: the file is not a safetensors file, is truncated, has bytes behind its last tensor, its header contradicts
            itself, or its metadata are not strings.
    """
    path = Path(path)
    tensors, metadata, behind = _read(path, allow_truncated)
    if not _are_strings(metadata):
        raise CheckpointError(f"{path}: the header's {_METADATA} must map strings to strings", code="header.metadata")
    if behind > 0:
        raise CheckpointError(
            f"{path}: {behind:,} bytes follow the last tensor: the header does not describe this file; download it again",
            code="header.bytes_left",
        )
    return tensors, metadata


def _are_strings(metadata: object) -> bool:
    return isinstance(metadata, dict) and all(isinstance(v, str) for v in metadata.values())


def _read(path: Path, allow_truncated: bool) -> tuple[list[StoredTensor], object, int]:
    """The tensors, whatever the metadata are, and how many bytes follow the last tensor."""
    try:
        size = path.stat().st_size
        with open(path, "rb") as file:
            first = file.read(8)
            length = int.from_bytes(first, "little")
            if len(first) < 8 or length > min(HEADER_LIMIT, size - 8):
                raise CheckpointError(
                    f"{path}: not a safetensors file, or truncated: its first 8 bytes promise a header of {length:,} bytes, "
                    f"the file has {size:,}",
                    code="header.absent",
                )
            text = file.read(length)
    except OSError as error:
        text = f"{path}: cannot be read ({error.strerror or error})"
        raise CheckpointError(text, code="header.not_read") from None
    header = _parse(path, text)
    metadata = header.pop(_METADATA, None)
    start = 8 + length
    ranges = sorted((*_entry(path, name, entry), name) for name, entry in header.items())
    tensors, at = [], 0
    for begin, end, dtype, shape, name in ranges:
        if begin != at:
            fault = "overlaps the tensor before it" if begin < at else "leaves a gap before it"
            raise CheckpointError(
                f"{path}: tensor {name!r} {fault} (it begins at byte {begin:,}, expected {at:,}): the header is wrong; "
                "download the file again",
                code="header.order",
            )
        at = end
        tensors.append(StoredTensor.at(name, _DTYPES[dtype], shape, path, start + begin))
    if size < start + at and not allow_truncated:
        raise CheckpointError(truncation(path, size, start + at), code="header.truncated")
    return tensors, {} if metadata is None else metadata, size - start - at


def truncation(path: Path, size: int, promised: int) -> str:
    """The sentence that says a file is truncated."""
    return (
        f"{path}: truncated: its header promises {promised:,} bytes and the file has {size:,} ({size / promised:.1%}); "
        "copy or download it again"
    )


def _parse(path: Path, text: bytes) -> dict:
    def unique(pairs):
        found = dict(pairs)
        if len(found) != len(pairs):
            names = [name for name, _ in pairs]
            twice = next(n for n in names if names.count(n) > 1)
            raise CheckpointError(f"{path}: the header names {twice!r} twice", code="header.name_twice")
        return found

    def no_number(text: str):
        raise ValueError(f"{text} is not JSON")

    try:
        # Python would also take UTF-16, NaN and halves of surrogate pairs, which other readers refuse.
        header = json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_number)
        if b"\\u" in text:
            json.dumps(header, ensure_ascii=False).encode("utf-8")
    except (ValueError, RecursionError):
        raise _no_object(path, "valid JSON") from None
    if not isinstance(header, dict):
        raise _no_object(path, "a JSON object")
    return header


def _no_object(path: Path, wanted: str) -> CheckpointError:
    text = f"{path}: not a safetensors file: its header is not {wanted}"
    return CheckpointError(text, code="header.not_json")


def _entry(path: Path, name: str, entry) -> tuple[int, int, str, Shape]:
    """Check one tensor's header entry: (first byte, last byte + 1, dtype name, shape)."""
    if not isinstance(entry, dict) or not _whole(entry.get("shape")) or not _whole(entry.get("data_offsets")):
        text = f"{path}: tensor {name!r}: the header entry lacks a valid shape or data_offsets"
        raise CheckpointError(text, code="header.entry")
    dtype, shape, offsets = entry.get("dtype"), tuple(entry["shape"]), entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        text = f"{path}: tensor {name!r} has dtype {dtype!r}; known are {', '.join(_DTYPES)}"
        raise CheckpointError(text, code="header.dtype")
    if prod(shape) * _DTYPES[dtype].width % 8:
        raise CheckpointError(f"{path}: tensor {name!r}: {dtype} of shape {list(shape)} ends inside a byte")
    expected = _DTYPES[dtype].nbytes(prod(shape))
    if len(offsets) != 2 or offsets[1] - offsets[0] != expected:
        raise CheckpointError(
            f"{path}: tensor {name!r}: {dtype} of shape {list(shape)} takes {expected:,} bytes, its data_offsets are {offsets}",
            code="header.size",
        )
    return offsets[0], offsets[1], dtype, shape


def _whole(values) -> bool:
    """Whether it is a list of not too many whole numbers, each from 0 to 2^62."""
    if not isinstance(values, list) or len(values) > MAX_AXES:
        return False
    return not values or (set(map(type, values)) == {int} and min(values) >= 0 and max(values) < 2**62)


def plan_header(
    entries: Sequence[tuple[str, DType, Shape]], metadata: dict[str, str]
) -> tuple[bytes, dict[str, int], int]:
    """Lay out a file: its first bytes (length and header), key -> byte offset in the file, and the file's size.

    Wider dtypes come first, each dtype in the order given, so that every tensor starts at a multiple of its item size:
    readers that map the file need that.

    Raises:
        CheckpointError: a tensor has the name that the header keeps for the metadata.
    """
    if any(key == _METADATA for key, _, _ in entries):
        raise CheckpointError(
            f"a tensor is called {_METADATA}, the name that .safetensors files keep for their metadata; it cannot be written"
        )
    ordered = sorted(entries, key=lambda e: -e[1].size)
    header: dict[str, object] = {_METADATA: metadata} if metadata else {}
    relative, at = {}, 0
    for key, dtype, shape in ordered:
        end = at + prod(shape) * dtype.size
        header[key] = {"dtype": dtype.name, "shape": list(shape), "data_offsets": [at, end]}
        relative[key], at = at, end
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start = 8 + len(text)
    return len(text).to_bytes(8, "little") + text, {k: start + o for k, o in relative.items()}, start + at


def check_written(path: Path, entries: Sequence[tuple[str, DType, Shape]]) -> None:
    """Read back what was written: the header must describe exactly these tensors.

    Raises:
        OutputError: it does not.
    """
    try:
        tensors, _ = read_header(path)
        same = {(t.name, t.dtype, t.shape) for t in tensors} == set(entries)
    except CheckpointError:
        same = False
    if not same:
        raise OutputError(
            f"{path}: the header does not read back as it was written; the disk or its driver is at fault",
            code="output.not_as_written",
        )


def _magic(head: bytes) -> bool:
    """Eight bytes of length, then a JSON object."""
    return len(head) > 8 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= HEADER_LIMIT


def _contents(path: Path, to_look: bool) -> Contents:
    """What other readers take as well, which is said: bytes behind the last tensor, and metadata that are not strings."""
    tensors, said, behind = _read(Path(path), to_look)
    metadata, notes = _as_strings(said)
    if tensors and behind > 0:
        notes.append(_unsound("file.trailing_bytes", f"{behind:,} bytes follow the last tensor"))
    return Contents(tensors, metadata, notes=tuple(notes))


def _unsound(code: str, what: str) -> Notice:
    return Notice(code, f"{what}; other programs may refuse the file, and `convert` writes a sound one")


def _as_strings(said: object) -> tuple[dict[str, str], list[Notice]]:
    """Metadata as strings, and what had to be changed for that."""
    if not isinstance(said, dict):
        text = f"its metadata is not an object of names and texts, and is left out ({str(said)[:_SHOWN_CHARACTERS]})"
        return {}, [_unsound("file.metadata_left_out", text)]
    other = [name for name, value in said.items() if not isinstance(value, str)]
    if not other:
        return said, []
    metadata = {k: v if isinstance(v, str) else _text(v) for k, v in said.items()}
    shown = some([name[:_SHOWN_CHARACTERS] for name in other], _SHOWN)
    text = f"{counted(len(other), 'value')} in its metadata {'is not a text' if len(other) == 1 else 'are not texts'} ({shown})"
    return metadata, [_unsound("file.metadata_not_text", text)]


def _text(value: object) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:  # lists in lists, almost as deep as a header's may be
        return repr(value)


SAFETENSORS = Format(
    id="safetensors",
    title="a safetensors file",
    suffixes=(".safetensors",),
    magic=_magic,
    read=_contents,
    write=plan_header,
    check=check_written,
)
