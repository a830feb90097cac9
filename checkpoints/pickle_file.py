"""Reads the header of a `.ckpt`, `.pt` or `.bin` file: a zip that `torch.save` made.

Such a file holds a pickle that describes tensors, and one uncompressed entry per storage. The pickle is read without
torch and without calling anything that it names (`pickle_machine`), the storages are not read at all: a tensor comes
out as the byte range of the zip that holds it.
"""

from __future__ import annotations

import struct
import zipfile
from dataclasses import dataclass
from math import prod
from pathlib import Path

from .dtypes import DTYPES, DType
from .errors import CheckpointError
from .pickle_machine import Global, Inert, evaluate, plain_items
from .tensors import Shape, StoredTensor

# The description of a full checkpoint takes less than a megabyte; a file that claims much more means harm.
MAX_PICKLE_BYTES = 64 << 20
# A tensor may repeat the elements of a smaller storage (torch's `expand`), up to this many.
MAX_REPEATED_ELEMENTS = 1 << 20
MAX_AXES = 32
MAX_METADATA_CHARACTERS = 4096
_RESAVE = "load it once with torch.load(FILE, weights_only=True) and save it with safetensors.torch.save_file"

_STORAGES = {
    "DoubleStorage": "F64",
    "FloatStorage": "F32",
    "HalfStorage": "F16",
    "BFloat16Storage": "BF16",
    "LongStorage": "I64",
    "IntStorage": "I32",
    "ShortStorage": "I16",
    "CharStorage": "I8",
    "ByteStorage": "U8",
    "BoolStorage": "BOOL",
}
_BY_TORCH_NAME = {d.torch: d for d in DTYPES.values()}
_STORAGE_MODULES = ("torch", "torch.cuda", "torch.storage")
_UNTYPED = ("UntypedStorage", "_UntypedStorage")


@dataclass(frozen=True, slots=True)
class _Storage:
    """A storage's entry in the zip, its number format (its torch name; None for bytes) and its size in elements."""

    key: str
    dtype: DType | str | None
    elements: int


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor as the pickle describes it, unchecked."""

    storage: object
    offset: object
    shape: object
    strides: object
    dtype: DType | str | None


def looks_like_zip(path: Path) -> bool:
    """Whether the file starts as a zip does, whatever it is called."""
    with open(path, "rb") as file:
        return file.read(4) == b"PK\x03\x04"


def read_pickle(path: Path) -> tuple[list[StoredTensor], dict[str, str]]:
    """The tensors of a file that `torch.save` made, in its order, and its short plain values as strings.

    The state dict may be the whole file, or lie under `state_dict`, `model`, `module`, `params`...

    Raises:
        CheckpointError: for a file that is damaged, compressed, encrypted, of the format before 2020, or that holds no
            state dict; for tensors that reach outside their storage or have a dtype that is not supported.
    """
    path = Path(path)
    try:
        if not looks_like_zip(path):
            raise CheckpointError(f"{path}: {_what_else(path)}")
        with zipfile.ZipFile(path) as archive:
            entries = {info.filename: info for info in archive.infolist()}
        with open(path, "rb") as file:
            zipped = _Zip(path, file, entries)
            content = zipped.content()
            state, values = _state_dict(content, path)
            tensors = [zipped.tensor(str(name), value) for name, value in state.items() if _is_tensor(value)]
    except CheckpointError:
        raise
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile) as error:
        raise CheckpointError(f"{path}: cannot be read ({error}); copy or download it again") from error
    except Exception as error:  # zipfile raises struct.error, UnicodeDecodeError and others on damaged directories
        raise CheckpointError(f"{path}: its zip directory is damaged ({error}); copy or download it again") from error
    return tensors, values


def _what_else(path: Path) -> str:
    """What a file is that does not start as a zip."""
    with open(path, "rb") as file:
        start = file.read(2)
    if start[:1] == b"\x80" or start[:2] == b"]q":
        return f"is a pickle of the format before torch 1.6, which has to be read whole; {_RESAVE}"
    return "is no zip pickle as torch.save makes it; a .safetensors file under another name, or not a checkpoint"


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
        if len(pickles) != 1:
            raise self._error(f"has {len(pickles) or 'no'} data.pkl where torch.save writes one: it is no checkpoint")
        self._root = pickles[0].removesuffix("data.pkl")
        if self._root + "constants.pkl" in entries:
            raise self._error("is a TorchScript program, not a checkpoint; save its state_dict() instead")

    def _error(self, text: str) -> CheckpointError:
        return CheckpointError(f"{self._path}: {text}")

    def content(self) -> object:
        """What the pickle describes."""
        order = self._small_entry("byteorder", 64)
        if order is not None and order.strip() != b"little":
            raise self._error(f"was written on a big-endian machine; {_RESAVE}")
        pickle = self._small_entry("data.pkl", MAX_PICKLE_BYTES)
        try:
            return evaluate(pickle, _build, _persistent)
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
        if not isinstance(storage, _Storage):
            raise self._error(f"{name} has no storage")
        dtype = dtype if dtype is not None else storage.dtype
        if not isinstance(dtype, DType):
            raise self._error(
                f"{name} has dtype {dtype or 'bytes'}, which is not supported; convert it to float16 first"
            )
        info = self._entries.get(f"{self._root}data/{storage.key}")
        if info is None:
            raise self._error(f"{name} lies in storage {storage.key}, which the file lacks; copy or download it again")
        width = storage.dtype.size if isinstance(storage.dtype, DType) else 1
        there = min(info.file_size, storage.elements * width) // dtype.size
        offset, shape, strides = self._window(name, described, there)
        start = self._offset(info) + offset * dtype.size
        return StoredTensor.at(name, dtype, shape, self._path, start, strides)

    def _window(self, name: str, described: _Tensor, there: int) -> tuple[int, Shape, Shape]:
        """Offset, shape and strides in elements, checked against a storage of `there` elements."""
        offset, shape, strides = described.offset, described.shape, described.strides
        if not (_are_sizes((offset,)) and _are_sizes(shape) and _are_sizes(strides) and len(shape) == len(strides)):
            raise self._error(f"{name} has no sensible shape: {str(shape)[:80]} with strides {str(strides)[:80]}")
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


# -- what the pickle's names mean ---------------------------------------------------------------------------------------


def _build(function: Global, arguments: tuple) -> object:
    """What calling a named function gives: a tensor, a container, or an `Inert`."""
    match function.module, function.name:
        case "torch._utils", "_rebuild_tensor" | "_rebuild_tensor_v2":
            return _tensor(arguments, None, arguments[6:7])
        case "torch._utils", "_rebuild_tensor_v3":
            return _tensor(arguments, arguments[6], arguments[7:8])
        case "torch._utils", "_rebuild_parameter" | "_rebuild_parameter_with_state":
            return arguments[0]
        case "torch._tensor", "_rebuild_from_type_v2":
            inner, _, inner_arguments, *_ = arguments
            return _build(inner, inner_arguments) if isinstance(inner, Global) else Inert(str(function))
        case "torch.nn.parameter", "Parameter":
            return arguments[0] if arguments else Inert(str(function))
        case "torch", "Size":
            return tuple(arguments[0])
        case "collections", "OrderedDict" | "defaultdict":
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            return dict(plain_items(pair for pair in pairs if len(pair) == 2))
        case "torch._utils", name if name.startswith("_rebuild_"):
            return Inert(f"{name.removeprefix('_rebuild_').replace('_', ' ')} of torch")
        case _:
            return Inert(str(function))


def _tensor(arguments: tuple, dtype: object, metadata: tuple) -> _Tensor | Inert:
    storage, offset, shape, strides, *_ = arguments
    bits = metadata[0] if metadata else None
    if isinstance(bits, dict) and any(bits.get(flag) for flag in ("conj", "neg")):
        return Inert("conjugated or negated view of torch")
    if isinstance(dtype, Global):
        dtype = _BY_TORCH_NAME.get(dtype.name, dtype.name) if dtype.module == "torch" else str(dtype)
    return _Tensor(storage, offset, shape, strides, dtype)


def _persistent(reference: object) -> _Storage:
    """The storage that a pickle's reference `("storage", type, key, device, elements)` stands for."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
        raise CheckpointError("its pickle refers to something that is no storage")
    _, kind, key, _, elements = reference[:5]
    if not (isinstance(kind, Global) and isinstance(key, str) and type(elements) is int and elements >= 0):
        raise CheckpointError("its pickle refers to a storage without type, name or size")
    if kind.module not in _STORAGE_MODULES:
        raise CheckpointError(f"its pickle refers to a storage of the unknown type {kind}")
    if kind.name in _UNTYPED:
        return _Storage(key, None, elements)
    name = _STORAGES.get(kind.name)
    return _Storage(key, DTYPES[name] if name else kind.name.removesuffix("Storage"), elements)


# -- the state dict -----------------------------------------------------------------------------------------------------

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params", "unet", "vae")


def _is_tensor(value: object) -> bool:
    """Whether a value is a tensor, or one that torch would make in a way that is not supported."""
    return isinstance(value, _Tensor) or (isinstance(value, Inert) and value.what.endswith(" of torch"))


def _state_dict(content: object, path: Path) -> tuple[dict, dict[str, str]]:
    """The dict that holds the tensors, and the plain values met on the way to it and in it."""
    values: dict[str, str] = {}
    for _ in range(len(_WRAPPERS)):
        if not isinstance(content, dict):
            break
        values |= _plain_values(content)
        inner = content.get("state_dict")
        if isinstance(inner, dict) and inner:
            content = inner
        elif any(map(_is_tensor, content.values())):
            return content, values
        else:
            content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
    what = content.what if isinstance(content, Inert) else type(content).__name__
    raise CheckpointError(
        f"{path}: holds no state dict of tensors (found {what}); save model.state_dict(), not the model, and try again"
    )


def _plain_values(content: dict) -> dict[str, str]:
    """The strings, numbers and truth values of a dict, as short strings."""
    plain = ((k, v) for k, v in content.items() if isinstance(k, str) and isinstance(v, (str, int, float)))
    texts = {k: str(v) for k, v in plain if not isinstance(v, int) or abs(v) < 1 << 63}
    return {k: v for k, v in texts.items() if len(k) + len(v) <= MAX_METADATA_CHARACTERS}
