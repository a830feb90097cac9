"""What a pickle that `torch.save` wrote describes: tensors that nobody has read, and the state dict among the rest."""

from __future__ import annotations

from dataclasses import dataclass

from ..dtypes import DTYPES, DType
from ..errors import CheckpointError
from .pickle_machine import Global, Inert, evaluate, plain_items

MAX_METADATA_CHARACTERS = 4096
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


def describe(pickle: bytes) -> object:
    """The value of a pickle, its tensors as `TensorRef`s and its storages as `StorageRef`s.

    Raises:
        CheckpointError: for anything that is no whole pickle; the message is a clause without the file's name.
    """
    return evaluate(pickle, _build, _persistent)


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
            return dict(plain_items(pair for pair in pairs if len(pair) == 2))
        case "torch._utils", name if name.startswith("_rebuild_"):
            return Inert(f"{name.removeprefix('_rebuild_').replace('_', ' ')} of torch")
        case _:
            return Inert(str(function))


def _tensor(arguments: tuple, dtype: object, metadata: tuple) -> TensorRef | Inert:
    storage, offset, shape, strides, *_ = arguments
    bits = metadata[0] if metadata else None
    if isinstance(bits, dict) and any(bits.get(flag) for flag in ("conj", "neg")):
        return Inert("conjugated or negated view of torch")
    if isinstance(dtype, Global):
        dtype = _BY_TORCH_NAME.get(dtype.name, dtype.name) if dtype.module == "torch" else str(dtype)
    return TensorRef(storage, offset, shape, strides, dtype)


def _persistent(reference: object) -> StorageRef:
    """The storage that a pickle's reference `("storage", type, key, device, elements)` stands for."""
    if not (isinstance(reference, tuple) and len(reference) >= 5 and reference[0] == "storage"):
        raise CheckpointError("its pickle refers to something that is no storage")
    _, kind, key, _, elements = reference[:5]
    if not (isinstance(kind, Global) and isinstance(key, str) and type(elements) is int and elements >= 0):
        raise CheckpointError("its pickle refers to a storage without type, name or size")
    if kind.module not in _STORAGE_MODULES:
        raise CheckpointError(f"its pickle refers to a storage of the unknown type {kind}")
    if kind.name in _UNTYPED:
        return StorageRef(key, None, elements)
    name = _STORAGES.get(kind.name)
    return StorageRef(key, DTYPES[name] if name else kind.name.removesuffix("Storage"), elements)


# -- the state dict -----------------------------------------------------------------------------------------------------

_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "params_ema", "params", "unet", "vae")


def is_tensor(value: object) -> bool:
    """Whether a value is a tensor, or one that torch would make in a way that is not supported."""
    return isinstance(value, TensorRef) or (isinstance(value, Inert) and value.what.endswith(" of torch"))


def state_dict(content: object) -> tuple[dict, dict[str, str]]:
    """The dict that holds the tensors, and the plain values met on the way to it and in it.

    Raises:
        CheckpointError: there is no dict with tensors where trainers put one; a clause without the file's name.
    """
    values: dict[str, str] = {}
    if isinstance(content, list) and content and all(map(is_tensor, content)):
        # The first LoRA trainer (cloneofsimo) saves a bare list: up and down of each layer in turn.
        return {f"{i // 2}:{('up', 'down')[i % 2]}": tensor for i, tensor in enumerate(content)}, values
    for _ in range(len(_WRAPPERS)):
        if not isinstance(content, dict):
            break
        values |= _plain_values(content)
        inner = content.get("state_dict")
        if isinstance(inner, dict) and inner:
            content = inner
        elif any(map(is_tensor, content.values())):
            return content, values
        else:
            content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), dict)), None)
    what = content.what if isinstance(content, Inert) else type(content).__name__
    raise CheckpointError(
        f"holds no state dict of tensors (found {what}); save model.state_dict(), not the model, and try again"
    )


def _plain_values(content: dict) -> dict[str, str]:
    """The strings, numbers and truth values of a dict, as short strings."""
    plain = ((k, v) for k, v in content.items() if isinstance(k, str) and isinstance(v, (str, int, float)))
    texts = {k: str(v) for k, v in plain if not isinstance(v, int) or abs(v) < 1 << 63}
    return {k: v for k, v in texts.items() if len(k) + len(v) <= MAX_METADATA_CHARACTERS}
