"""What an encoding sees of a file: names, shapes and dtypes of its tensors, its metadata, and small tensors whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import cached_property

import numpy as np

from ..dtypes import carrier
from ..errors import CheckpointError
from ..files import FileReader
from ..tensors import StoredTensor

# A description is some hundred bytes of JSON; what is larger is not read while a file is opened.
MAX_READ = 1 << 20


class StoredFile:
    """A file's tensors by name, before any name was translated."""

    def __init__(self, tensors: Iterable[StoredTensor], metadata: Mapping[str, str]):
        self.tensors = {tensor.name: tensor for tensor in tensors}
        self.metadata = metadata

    @cached_property
    def _by_tail(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for name in self.tensors:
            found.setdefault(name.rpartition(".")[2], []).append(name)
        return found

    def with_tail(self, *tails: str) -> list[str]:
        """The names whose last part, after the last dot, is one of these."""
        return [name for tail in tails for name in self._by_tail.get(tail, ())]

    def without(self, names: Iterable[str]) -> StoredFile:
        """The same file without some of its tensors."""
        gone = set(names)
        return StoredFile((t for name, t in self.tensors.items() if name not in gone), self.metadata)

    def read(self, name: str) -> np.ndarray:
        """A small tensor as its raw elements, in its shape.

        Raises:
            CheckpointError: it is too large to be a description, or the file ends before it.
        """
        tensor = self.tensors[name]
        if tensor.nbytes > MAX_READ or not tensor.contiguous or len(tensor.pieces) != 1:
            raise CheckpointError(
                f"{tensor.pieces[0].path}: {name} has {tensor.nbytes:,} bytes, too many to describe others"
            )
        (piece,) = tensor.pieces
        with FileReader(piece.path) as reader:
            raw = np.frombuffer(reader.read(piece.offset, tensor.nbytes), carrier(tensor.dtype))
        return raw.reshape(tensor.shape)

    def read_json(self, name: str) -> dict:
        """A tensor of bytes that holds a JSON object; empty where it holds none or cannot be read."""
        try:
            data = json.loads(self.read(name).tobytes().decode("utf-8"))
        except (CheckpointError, ValueError, RecursionError):
            return {}
        return data if isinstance(data, dict) else {}
