"""A checkpoint, opened: headers only, tensors on demand.

`open_checkpoint(path)` is the front door of the package. Whatever the container is called and however it names its
tensors, what comes out is a mapping from keys in single-file naming to `TensorInfo`.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from .dtypes import DType, carrier
from .encodings.decoding import Decoder
from .encodings.sorting import Stored
from .errors import CheckpointError, nearest
from .families import Family, Place
from .files import FileReader
from .kernels import kernel
from .notices import Notice
from .recognition.architecture import NO_FAMILY, Architecture, reader_of
from .strided import Strided
from .tensors import Piece, Shape, StoredTensor

# Coded tensors whose scales stay in memory: threads are at one or two at a time.
_DECODERS = 16


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One tensor of a checkpoint, by its key in single-file naming; `stored` says where its bytes are, `family` what it is."""

    key: str
    stored: StoredTensor
    family: Family = NO_FAMILY

    @property
    def dtype(self) -> DType:
        return self.stored.dtype

    @property
    def shape(self) -> Shape:
        return self.stored.shape

    @property
    def elements(self) -> int:
        return self.stored.elements

    @property
    def nbytes(self) -> int:
        return self.stored.nbytes

    @property
    def place(self) -> Place:
        return self.family.block_of(self.key)

    @property
    def label(self) -> str:
        return self.family.block_of(self.key).label

    @property
    def component(self) -> str:
        return self.family.block_of(self.key).component

    @property
    def kind(self) -> str:
        """The kind of layer (`attn1.q`, `norm`...)."""
        return self.family.kind_of(self.key)


@dataclass
class Checkpoint:
    """A checkpoint whose headers were read.

    Attributes:
        path: the file or the diffusers folder.
        format: the container, by the id of its record: `safetensors`, `ckpt` (a zip pickle), `diffusers` (a folder)...
        tensors: key in single-file naming -> `TensorInfo`, in the order of the file.
        metadata: the header's strings (safetensors), or what a pickle holds next to its tensors, as strings.
        architecture: what the keys and ranks say it is.
        prediction: `epsilon`, `v`, `edm`, `flow`, or None when nothing says.
        noise: of what noise, where that is not the usual schedule: `zero terminal SNR`, `continuous noise levels (EDM)`, or empty.
        prediction_from: what said so (`key v_pred`, `sidecar x.yaml`, ...), empty when nothing did.
        notes: what was noticed while opening (renamed keys, tensors that one layout lacks...), in sentences.
        size: bytes on disk.
        stored: how its tensors are stored: one line for each encoding that is in the file.
    """

    path: Path
    format: str
    tensors: Mapping[str, TensorInfo]
    metadata: dict[str, str]
    architecture: Architecture
    prediction: str | None = None
    noise: str = ""
    prediction_from: str = ""
    notes: list[Notice] = field(default_factory=list)
    size: int = 0
    stored: tuple[Stored, ...] = ()
    _readers: dict[Path, FileReader] = field(default_factory=dict, repr=False)
    _decoders: OrderedDict[int, tuple[Piece, Decoder]] = field(default_factory=OrderedDict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)
    _strided: Strided = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._strided = Strided(self._source)

    def __getitem__(self, key: str) -> TensorInfo:
        try:
            return self.tensors[key]
        except KeyError:
            raise CheckpointError(f"{self.path}: has no tensor {key!r}{nearest(key, self.tensors)}") from None

    def __contains__(self, key: str) -> bool:
        return key in self.tensors

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def family(self) -> Family:
        """The record that its keys are read by: its family's, or that of the first family that has such a part."""
        return next((info.family for info in self.tensors.values()), None) or reader_of(self.architecture)

    @property
    def told_family(self) -> Family | None:
        """The record of its family, None where nothing tells it: a VAE alone is several families' alike."""
        return self.family if self.architecture.family is not None else None

    @cached_property
    def keys_by_component(self) -> dict[str, list[str]]:
        """Component -> its keys, in the order of the file."""
        found: dict[str, list[str]] = {}
        for key, info in self.tensors.items():
            found.setdefault(info.component, []).append(key)
        return found

    @property
    def components(self) -> set[str]:
        return set(self.keys_by_component)

    # -- values -----------------------------------------------------------------------------------------------------

    def bytes_of(self, info: TensorInfo) -> int:
        """How many bytes of files a tensor is read from."""
        return info.stored.kept_bytes if info.stored.coded else info.nbytes

    def read_raw(self, info: TensorInfo, start: int, stop: int, out: np.ndarray) -> None:
        """Fill `out` (uint8, `(stop - start) * size` bytes) with elements `start` to `stop` of a tensor, row-major.

        Safe to call from several threads.
        """
        size, first, filled = info.dtype.size, 0, 0
        if not info.stored.contiguous:
            self._strided.read(info.stored, start, stop, out)
            return
        for piece in info.stored.pieces:
            lo, hi = max(start - first, 0), min(stop - first, piece.elements)
            if lo < hi:
                part = out[filled : filled + (hi - lo) * size]
                self._source(piece).read_into(piece.offset + lo * size, part)
                filled += (hi - lo) * size
            first += piece.elements

    def raw(self, key: str) -> np.ndarray:
        """A whole tensor as its raw bits, shaped, in the numpy type that carries its dtype (fp16 as uint16)."""
        info = self[key]
        out = np.empty(info.nbytes, np.uint8)
        self.read_raw(info, 0, info.elements, out)
        return out.view(carrier(info.dtype)).reshape(info.shape)

    def numpy(self, key: str) -> np.ndarray:
        """A whole tensor as numbers: floats of any width as float32 (F64 rounded), integers and bools as they are."""
        info, raw = self[key], self.raw(key)
        if not info.dtype.is_float:
            return raw.view(np.bool_) if info.dtype.kind == "bool" else raw
        out = np.empty(info.elements, np.float32)
        kernel().decode(raw.reshape(-1).view(np.uint8), info.dtype, out)
        return out.reshape(info.shape)

    def torch(self, key: str):
        """A whole tensor as a `torch.Tensor` of its own dtype. Imports torch."""
        import torch

        raw = self.raw(key)
        return (
            torch.from_numpy(raw.reshape(-1).view(np.uint8))
            .view(getattr(torch, self[key].dtype.torch))
            .reshape(raw.shape)
        )

    def _source(self, piece: Piece) -> FileReader | Decoder:
        """What gives a piece's bytes: its file, or the decoder of its codes."""
        if piece.decoded_by is None:
            return self._reader(piece.path)
        encoding, coded = piece.decoded_by
        with self._lock:
            _, decoder = self._decoders.pop(id(coded), (None, None))
            if decoder is None:
                decoder = Decoder(encoding, coded, self._reader)
            self._decoders[id(coded)] = piece, decoder  # the piece keeps `coded`, so that no other gets its id
            while len(self._decoders) > _DECODERS:
                self._decoders.popitem(last=False)
        return decoder

    def _reader(self, path: Path) -> FileReader:
        reader = self._readers.get(path)
        if reader is None:
            with self._lock:
                reader = self._readers.get(path)
                if reader is None:
                    reader = self._readers[path] = FileReader(path)
        return reader

    def close(self) -> None:
        """Close the files. A closed checkpoint opens them again when it is read."""
        with self._lock:
            for reader in self._readers.values():
                reader.close()
            self._readers.clear()
            self._decoders.clear()
        self._strided.clear()

    def __enter__(self) -> Checkpoint:
        return self

    def __exit__(self, *exc) -> None:
        self.close()
