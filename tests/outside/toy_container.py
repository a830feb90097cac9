"""A container as another package brings one: a magic word, a header in JSON, then the tensors' bytes. All in this one file."""

from __future__ import annotations

import json
from math import prod

from unetscope.checkpoints.dtypes import DTYPES
from unetscope.checkpoints.errors import CheckpointError, OutputError
from unetscope.checkpoints.formats import Contents, Format
from unetscope.checkpoints.tensors import StoredTensor

MAGIC = b"TOYBOX01"


def read(path, to_look):
    """The contents of a file by its header."""
    with open(path, "rb") as file:
        file.seek(len(MAGIC))
        length = int.from_bytes(file.read(8), "little")
        try:
            header = json.loads(file.read(length))
            entries = [
                (name, DTYPES[dtype], tuple(shape), at) for name, (dtype, shape, at) in header["tensors"].items()
            ]
        except (ValueError, KeyError, TypeError):
            raise CheckpointError(f"{path}: a toy box with a header that cannot be read; copy it again") from None
    tensors = [StoredTensor.at(name, dtype, shape, path, at) for name, dtype, shape, at in entries]
    end = max((at + tensor.nbytes for (_, _, _, at), tensor in zip(entries, tensors, strict=True)), default=0)
    if end > path.stat().st_size and not to_look:
        raise CheckpointError(f"{path}: truncated: its header promises {end:,} bytes; copy it again")
    return Contents(tensors, header["metadata"])


def write(entries, metadata):
    """The first bytes of a new file, name -> byte offset, and its size."""
    # Offsets count from the file's begin, so the header is given room first, more than it takes.
    room = 1024 + sum(len(json.dumps(name)) + 128 for name, _, _ in entries) + len(json.dumps(metadata))
    at, offsets = len(MAGIC) + 8 + room, {}
    for name, dtype, shape in entries:
        offsets[name], at = at, at + -(-prod(shape) * dtype.size // 16) * 16
    tensors = {name: (dtype.name, list(shape), offsets[name]) for name, dtype, shape in entries}
    text = json.dumps({"metadata": metadata, "tensors": tensors}).encode().ljust(room)
    return MAGIC + len(text).to_bytes(8, "little") + text, offsets, at


def check(path, entries):
    """Whether a file that was written holds what was meant."""
    found = {(t.name, t.dtype, t.shape) for t in read(path, True).tensors}
    if found != {(name, dtype, tuple(shape)) for name, dtype, shape in entries}:
        raise OutputError(f"{path}: does not read back as it was written")


TOY = Format(
    id="toybox",
    title="a toy box",
    suffixes=(".toybox",),
    magic=lambda head: head.startswith(MAGIC),
    read=read,
    write=write,
    check=check,
)
