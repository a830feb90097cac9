"""Reads the header of a `.ckpt`, `.pt` or `.bin` file: a zip that `torch.save` made.

Such a file holds a pickle that describes tensors, and one uncompressed entry per storage. The pickle is read without
torch and without calling anything that it names (`unpickler`), the storages are not read at all: a tensor comes
out as the byte range of the zip that holds it.
"""

from __future__ import annotations

import io
import struct
import zipfile
from math import prod
from pathlib import Path
from reprlib import repr

from ..dtypes import DType
from ..errors import CheckpointError
from ..notices import Notice
from ..tensors import Shape, StoredTensor
from ..text import some
from . import Contents, Format, is_model_name
from .pickle_state import State, find_tensors
from .unpickler import Inert, StorageRef, TensorRef, describe

# The description of a full checkpoint takes less than a megabyte; a file that claims much more means harm.
MAX_PICKLE_BYTES = 64 << 20
# A tensor may repeat the elements of a smaller storage (torch's `expand`), up to this many.
MAX_REPEATED_ELEMENTS = 1 << 20
MAX_AXES = 32
# The list of a zip's entries: a checkpoint has some thousands of them, of about a hundred bytes.
MAX_DIRECTORY_BYTES = 8 << 20
_MAX_MESSAGE = 1000
_SHOWN = 4
_RESAVE = "load it once with torch.load(FILE, weights_only=True) and save it with safetensors.torch.save_file"
_ZIP = b"PK\x03\x04"
OLD_PICKLE = f"is a pickle of the format before torch 1.6, which has to be read whole; {_RESAVE}"


def looks_like_zip(path: Path) -> bool:
    """Whether the file starts as a zip does, whatever it is called.

    Raises:
        CheckpointError: the file cannot be read.
    """
    try:
        with open(path, "rb") as file:
            return file.read(4) == _ZIP
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror or error})") from None


def read_pickle(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors of a file that `torch.save` made, in its order, and its short plain values as strings.

    The state dict may be the whole file, or lie under `state_dict`, `model`, `module`, `params`... Where there is none, the tensors
    of all dicts and lists are taken, under the keys that lead to them, joined by dots: `image_proj.norm.weight`.

    Raises:
        CheckpointError: for a file that is damaged, compressed, encrypted, of the format before 2020, or that holds no
            tensors; for tensors that reach outside their storage or have a dtype that is not supported.
    """
    contents = _contents(path)
    return contents.tensors, contents.metadata


def _contents(path: Path, to_look: bool = False) -> Contents:
    path = Path(path)
    try:
        if not looks_like_zip(path):
            raise CheckpointError(f"{path}: {_what_else(path)}")
        with _Frugal(path) as content, zipfile.ZipFile(content) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            if len(entries) != len(archive.infolist()):
                raise CheckpointError(f"{path}: names an entry of its zip twice; download it again from its source")
        with open(path, "rb") as file:
            zipped = _Zip(path, file, entries)
            state = zipped.state()
            tensors = [zipped.tensor(name, value) for name, value in state.tensors.items()]
    except CheckpointError:
        raise
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy or download it again") from error
    except Exception as error:  # zipfile raises struct.error, UnicodeDecodeError and others on damaged directories
        raise CheckpointError(f"{path}: its zip directory is damaged ({error}); copy or download it again") from error
    return Contents(tensors, state.values, notes=_left_out(state))


def _left_out(state: State) -> tuple[Notice, ...]:
    """What is said of tensors that no part of the state dict are."""
    if not state.left_out:
        return ()
    shown = some([f"{name[:40]} ({count:,})" for name, count in state.left_out.items()], _SHOWN)
    text = f"{sum(state.left_out.values()):,} tensors next to the state dict are left out: {shown}"
    return (Notice("file.beside_state_dict", text, tuple(state.left_out)),)


def _what_else(path: Path) -> str:
    """What a file is that does not start as a zip."""
    with open(path, "rb") as file:
        start = file.read(2)
    if is_old_pickle(start) or start == b"]q":
        return OLD_PICKLE
    return "is not a zip pickle as torch.save makes it; a .safetensors file under another name, or not a checkpoint"


def is_old_pickle(head: bytes) -> bool:
    """Whether a file begins as a pickle does that is not in a zip: the protocol's mark and its number."""
    return len(head) > 1 and head[0] == 0x80 and 2 <= head[1] <= 5


class _Frugal(io.FileIO):
    """A file for `zipfile`, which reads the whole list of entries at once and makes an object of each."""

    def read(self, size: int = -1) -> bytes:
        if size > MAX_DIRECTORY_BYTES:
            raise CheckpointError(f"{self.name}: lists more entries in its zip than any checkpoint has")
        return super().read(size)


class _Zip:
    """The entries of one torch archive and where their bytes are."""

    def __init__(self, path: Path, file, entries: dict[str, zipfile.ZipInfo]):
        self._path = path
        self._file = file
        self._entries = entries
        self._offsets: dict[str, int] = {}
        file.seek(0, 2)
        self._size = file.tell()
        pickles = [name for name in entries if name == "data.pkl" or name.partition("/")[2] == "data.pkl"]
        models = [name for name in entries if is_model_name(name)] if not pickles else []
        if models:
            more = f" and {len(models) - 1} more" if len(models) > 1 else ""
            raise self._error(
                f"is a zip archive that holds {models[0]}{more}; unpack it and give the model that is in it"
            )
        if len(pickles) != 1:
            raise self._error(
                f"has {len(pickles) or 'no'} data.pkl where torch.save writes one: it is not a checkpoint"
            )
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "constants.pkl" in entries:
            raise self._error("is a TorchScript program, not a checkpoint; give the model that it was made from")

    def _error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {text if len(text) < _MAX_MESSAGE else text[:_MAX_MESSAGE] + '...'}")

    def state(self) -> State:
        """The tensors that the pickle describes, and the plain values around them."""
        order = self._small_entry("byteorder", 64)
        if order is not None and order.strip() != b"little":
            raise self._error(f"was written on a big-endian machine; {_RESAVE}")
        pickle = self._small_entry("data.pkl", MAX_PICKLE_BYTES)
        try:
            return find_tensors(describe(pickle))
        except CheckpointError as error:
            raise self._error(str(error)) from error

    def _small_entry(self, name: str, limit: int) -> bytes | None:
        """A whole entry, None when there is none."""
        info = self._entries.get(self._root + name)
        if info is None:
            return None
        if info.file_size > limit:
            raise self._error(f"{name} has {info.file_size:,} bytes, more than the {limit:,} of any checkpoint")
        self._file.seek(self._offset(info))
        return self._file.read(info.file_size)

    def _offset(self, info: zipfile.ZipInfo) -> int:
        """The byte at which an entry's content starts, from its local header; checked to be plain and inside."""
        if info.filename in self._offsets:
            return self._offsets[info.filename]
        if info.flag_bits & 1:
            raise self._error("is encrypted; unpack it with its password and save it again with torch.save")
        if info.volume:
            raise self._error("is one part of a zip on several disks; join the parts first")
        if info.compress_type != zipfile.ZIP_STORED:
            raise self._error(f"entry {info.filename} is compressed, as torch.save never does; {_RESAVE}")
        self._file.seek(info.header_offset)
        header = self._file.read(30)
        if len(header) < 30 or header[:4] != b"PK\x03\x04":
            raise self._error(f"entry {info.filename} is not where the zip says; copy or download the file again")
        name_length, extra_length = struct.unpack("<HH", header[26:30])
        offset = info.header_offset + 30 + name_length + extra_length
        if info.compress_size != info.file_size or offset + info.file_size > self._size:
            raise self._error(f"entry {info.filename} reaches past the end; copy or download the file again")
        self._offsets[info.filename] = offset
        return offset

    def tensor(self, name: str, described: object) -> StoredTensor:
        """A described tensor, checked, as the byte range that holds it."""
        if isinstance(described, Inert):
            raise self._error(f"{name} is a {described.what}, which is not supported; {_RESAVE} after converting it")
        storage, dtype = described.storage, described.dtype
        if not isinstance(storage, StorageRef):
            raise self._error(f"{name} has no storage")
        dtype = dtype if dtype is not None else storage.dtype
        if not isinstance(dtype, DType):
            raise self._error(
                f"{name} has dtype {dtype or 'bytes'}, which is not supported; convert it to float16 first"
            )
        info = self._entries.get(f"{self._root}data/{storage.key}")
        if info is None:
            raise self._error(f"{name} is in storage {storage.key}, which the file lacks; copy or download it again")
        width = storage.dtype.size if isinstance(storage.dtype, DType) else 1
        there = min(info.file_size, storage.elements * width) // dtype.size
        offset, shape, strides = self._window(name, described, there)
        start = self._offset(info) + offset * dtype.size
        return StoredTensor.at(name, dtype, shape, self._path, start, strides)

    def _window(self, name: str, described: TensorRef, there: int) -> tuple[int, Shape, Shape]:
        """Offset, shape and strides in elements, checked against a storage of `there` elements."""
        offset, shape, strides = described.offset, described.shape, described.strides
        if not (_are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)):
            raise self._error(f"{name} has no sensible shape: {repr(shape)[:80]} with strides {repr(strides)[:80]}")
        elements = prod(shape)
        if elements == 0:
            return 0, tuple(shape), tuple(strides)
        last = offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
        if last >= there:
            raise self._error(
                f"{name} reaches to element {last} of a storage with {there}; the file is damaged, download it again"
            )
        if elements > max(there, MAX_REPEATED_ELEMENTS):
            raise self._error(f"{name} repeats {there} stored elements to {elements:,}; {_RESAVE} after .contiguous()")
        return offset, tuple(shape), tuple(strides)


def _are_sizes(numbers: object) -> bool:
    """Whether something is a short tuple of whole numbers from 0 to 2^62."""
    return (
        isinstance(numbers, tuple)
        and len(numbers) <= MAX_AXES
        and all(type(n) is int and 0 <= n < 1 << 62 for n in numbers)
    )


ZIP_PICKLE = Format(
    id="ckpt",
    title="a zip pickle as torch.save makes it",
    suffixes=(".ckpt", ".pt", ".pth", ".bin"),
    magic=lambda head: head.startswith(_ZIP),
    read=_contents,
)
