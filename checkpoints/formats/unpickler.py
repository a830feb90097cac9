"""Reads a pickle that `torch.save` wrote without obeying it: tensors, containers and plain values come out, nothing is called.

Python's own unpickler calls whatever a file names. Here a named function or class stays a name (`Global`); calling one gives a
tensor or a container where torch would make one, and otherwise an `Inert` that stands for what was not made.

It is the unpickler that `pickle` has in Python, since the one in C hashes the keys of dicts before anybody can look at them: a
tuple nested a hundred thousand times ends the process there.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterable
from dataclasses import dataclass

from ..dtypes import DTYPES, DType
from ..errors import CheckpointError

# The pickle of the largest training checkpoints has a few hundred thousand instructions; what one of them makes takes some tens of
# bytes.
MAX_INSTRUCTIONS = 2_000_000
# What calls may copy together: a long list that is written once can be given a million times.
MAX_COPIED = 2_000_000
MAX_ARGUMENTS = 1000
# The functions that rebuild tensors take at most eight arguments.
_MAX_REBUILT = 8
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
class Global:
    """A function or class that a pickle names."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(slots=True, eq=False)
class Inert:
    """What stands in for an object that was not made: what it would be, the attributes that the pickle gives it, and whether it
    is a tensor, of a kind that is not read."""

    what: str
    attributes: dict | None = None
    is_tensor: bool = False


@dataclass(frozen=True, slots=True)
class StorageRef:
    """A storage's entry in the zip, its number format (its torch name; None for bytes) and its size in elements."""

    key: str
    dtype: DType | str | None
    elements: int


@dataclass(frozen=True, slots=True)
class TensorRef:
    """A tensor as the pickle describes it, unchecked."""

    storage: object
    offset: object
    shape: object
    strides: object
    dtype: DType | str | None


def describe(data: bytes) -> object:
    """The value of a pickle (protocol 0 to 5), its tensors as `TensorRef`s and its storages as `StorageRef`s.

    Raises:
        CheckpointError: for anything that is not a whole pickle; the message is a clause without the file's name.
    """
    content = io.BytesIO(data)
    try:
        return _Unpickler(content).load()
    except CheckpointError:
        raise
    except Exception as error:  # any instruction out of place ends here: an empty stack, a wrong type, the end
        raise CheckpointError(
            f"its pickle is damaged at byte {content.tell():,} of {len(data):,}; copy or download it again"
        ) from error


class _Unpickler(pickle._Unpickler):
    """Python's unpickler with everything that would run code, hash what a file nested, or ask for memory replaced."""

    dispatch = pickle._Unpickler.dispatch.copy()

    def __init__(self, content: io.BytesIO):
        super().__init__(content, encoding="latin-1")
        self.read, self.readline = content.read, content.readline
        self.metastack, self.stack = [], []
        self.append = self.stack.append
        self._copied = 0

    def load(self) -> object:
        """The value of the pickle, if that is not further away than in any checkpoint."""
        read, dispatch, stop = self.read, self.dispatch, pickle.STOP[0]
        for _ in range(MAX_INSTRUCTIONS):
            code = read(1)[0]
            if code == stop:
                return self.stack.pop()
            dispatch[code](self)
        raise CheckpointError(f"its pickle has more than {MAX_INSTRUCTIONS:,} instructions")

    def find_class(self, module: str, name: str) -> Global:
        return Global(module, name)

    def get_extension(self, code: int) -> None:
        self.append(Global("copyreg", f"extension {code}"))

    def persistent_load(self, reference: object) -> StorageRef:
        return _storage(reference)

    def _call(self, function: object, arguments: object) -> object:
        """What calling a named function gives."""
        if not isinstance(arguments, (tuple, list)):
            raise TypeError
        self._copied += sum(len(a) for a in arguments[:MAX_ARGUMENTS] if isinstance(a, (tuple, list, dict, str, bytes)))
        if len(arguments) > MAX_ARGUMENTS or self._copied > MAX_COPIED:
            raise CheckpointError("its pickle builds more out of less than any checkpoint does")
        return _build(function, tuple(arguments)) if isinstance(function, Global) else Inert("object")

    def _instantiate(self, function: object, arguments: list) -> None:
        self.append(self._call(function, arguments))

    def load_reduce(self) -> None:
        arguments = self.stack.pop()
        self.stack[-1] = self._call(self.stack[-1], arguments)

    def load_newobj_ex(self) -> None:
        self.stack.pop()
        self.load_reduce()

    def load_build(self) -> None:
        """BUILD gives an object its attributes. Of what is made here only an object that was not made keeps them."""
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(state, tuple) and state:
            state = state[0]  # the second are slots
        if isinstance(made, Inert) and isinstance(state, dict):
            made.attributes = state

    def load_frame(self) -> None:
        self.read(8)  # how much to read at once, which is no use here

    def load_bytearray8(self) -> None:
        self.append(self.read(int.from_bytes(self.read(8), "little")))

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append(_plain_keys(zip(items[::2], items[1::2], strict=True)))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill([key, value])

    def load_setitems(self) -> None:
        self._fill(self.pop_mark())

    def _fill(self, items: list) -> None:
        if isinstance(self.stack[-1], dict):
            self.stack[-1].update(_plain_keys(zip(items[::2], items[1::2], strict=True)))

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: list) -> None:
        if isinstance(self.stack[-1], list):
            self.stack[-1].extend(items)

    def load_empty_set(self) -> None:
        self.append(Inert("set"))

    def load_frozenset(self) -> None:
        self.pop_mark()
        self.append(Inert("frozenset"))

    def load_additems(self) -> None:
        self.pop_mark()


_REPLACED = {
    "REDUCE": "load_reduce",
    "NEWOBJ": "load_reduce",
    "NEWOBJ_EX": "load_newobj_ex",
    "BUILD": "load_build",
    "FRAME": "load_frame",
    "BYTEARRAY8": "load_bytearray8",
    "DICT": "load_dict",
    "SETITEM": "load_setitem",
    "SETITEMS": "load_setitems",
    "APPEND": "load_append",
    "APPENDS": "load_appends",
    "EMPTY_SET": "load_empty_set",
    "FROZENSET": "load_frozenset",
    "ADDITEMS": "load_additems",
}
_Unpickler.dispatch |= {getattr(pickle, code)[0]: getattr(_Unpickler, name) for code, name in _REPLACED.items()}


def _plain_keys(pairs: Iterable[tuple]) -> dict:
    """The pairs whose key is a plain value. Others name nothing here, and hashing what a file nested may overflow."""
    return {k: v for k, v in pairs if isinstance(k, (str, int, float, bytes, type(None)))}


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
            if isinstance(inner, Global) and inner.module == "torch._utils" and isinstance(inner_arguments, tuple):
                return _build(inner, inner_arguments[:_MAX_REBUILT])
            return Inert(str(function))
        case "torch.nn.parameter", "Parameter":
            return arguments[0] if arguments else Inert(str(function))
        case "torch", "Size":
            return tuple(arguments[0])
        case "collections", "OrderedDict" | "defaultdict":
            pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
            return _plain_keys(pair for pair in pairs if len(pair) == 2)
        case "torch._utils", name if name.startswith("_rebuild_"):
            return Inert(f"{name.removeprefix('_rebuild_').replace('_', ' ')} of torch", is_tensor=True)
        case _:
            return Inert(str(function))


def _tensor(arguments: tuple, dtype: object, metadata: tuple) -> TensorRef | Inert:
    storage, offset, shape, strides, *_ = arguments
    bits = metadata[0] if metadata else None
    if isinstance(bits, dict) and any(bits.get(flag) for flag in ("conj", "neg")):
        return Inert("conjugated or negated view of torch", is_tensor=True)
    if isinstance(dtype, Global):
        dtype = _BY_TORCH_NAME.get(dtype.name, dtype.name) if dtype.module == "torch" else str(dtype)
    return TensorRef(storage, offset, shape, strides, dtype)


def _storage(reference: object) -> StorageRef:
    """The storage that a pickle's reference `("storage", type, key, device, elements)` stands for."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
        raise CheckpointError("its pickle refers to something that is not a storage")
    _, kind, key, _, elements = reference[:5]
    if not (isinstance(kind, Global) and isinstance(key, str) and type(elements) is int and elements >= 0):
        raise CheckpointError("its pickle refers to a storage without type, name or size")
    if kind.module not in _STORAGE_MODULES:
        raise CheckpointError(f"its pickle refers to a storage of the unknown type {kind}")
    if kind.name in _UNTYPED:
        return StorageRef(key, None, elements)
    name = _STORAGES.get(kind.name)
    return StorageRef(key, DTYPES[name] if name else kind.name.removesuffix("Storage"), elements)
