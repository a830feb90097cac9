"""Encodings that are known by name and not decoded yet: whatever computes refuses their files.

A file with one of these signs was quantised, and its elements are codes. Averaged as if they were weights they give noise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from ..tensors import Shape, StoredTensor
from . import Coded, Encoding, Found
from .stored_file import StoredFile

# Side tensors that lie next to a weight: `X.weight_scale` belongs to `X.weight`.
_BESIDE = ("weight_scale", "scale_weight", "comfy_quant", "weight_scale_2", "input_scale", "scale_input", "SCB")
_BESIDE += ("weight_format", "weight_s_rel", "weight_s_channel", "weight_codebook")
# Side tensors below a weight: `X.weight.absmax` belongs to `X.weight`.
_BELOW = ("absmax", "quant_map", "nested_absmax", "nested_quant_map", "nested_offset")
_BELOW += ("bitsandbytes__nf4", "bitsandbytes__fp4")
# Packed weights under a name of their own, of GPTQ, AWQ and SVDQuant (nunchaku), and what is next to them.
_PACKED = ("qweight",)
_OF_PACKED = ("qzeros", "g_idx", "scales", "wscales", "wtscale", "wcscales", "smooth_factor", "smooth_factor_orig")
_OF_PACKED += ("lora_down", "lora_up", "proj_down", "proj_up", "bias_orig", "wzeros")
_MARKERS = ("scaled_fp8",)
_METADATA = "_quantization_metadata"


def _groups(file: StoredFile, tails: Iterable[str], home: Callable[[str], str]) -> dict[str, dict[str, StoredTensor]]:
    """Weight -> role -> side tensor, for the side tensors with these tails. The weight may be missing."""
    groups: dict[str, dict[str, StoredTensor]] = {}
    for name in file.with_tail(*tails):
        above, _, tail = name.rpartition(".")
        groups.setdefault(home(above), {})[tail] = file.tensors[name]
    return groups


def _found(
    file: StoredFile, groups: dict[str, dict[str, StoredTensor]], shape=lambda codes, sides: None
) -> Found | None:
    """These weights with their side tensors; side tensors without a weight say something of the file all the same."""
    if not groups:
        return None
    first = next(iter(next(iter(groups.values())).values())).name
    coded = [
        Coded(file.tensors[w], sides, shape(file.tensors[w], sides)) for w, sides in groups.items() if w in file.tensors
    ]
    alone = [side.name for w, sides in groups.items() if w not in file.tensors for side in sides.values()]
    return Found(first, coded, tuple(alone))


def _scaled(of: Callable[[StoredTensor | None, dict[str, StoredTensor]], bool]) -> Callable[[StoredFile], Found | None]:
    """Finds weights with side tensors next to them, those that `of(weight, sides)` takes."""

    def find(file: StoredFile) -> Found | None:
        groups = _groups(file, _BESIDE, lambda above: f"{above}.weight" if above else "weight")
        return _found(file, {w: sides for w, sides in groups.items() if of(file.tensors.get(w), sides)}, _unpacked)

    return find


def _unpacked(codes: StoredTensor, sides: dict[str, StoredTensor]) -> Shape | None:
    """Two numbers a byte, where a second scale says so and the dtype does not."""
    packed = "weight_scale_2" in sides and len(codes.shape) == 2 and not codes.dtype.width
    return (codes.shape[0], 2 * codes.shape[1]) if packed else None


def _is_nvfp4(weight: StoredTensor | None, sides: dict[str, StoredTensor]) -> bool:
    return weight is not None and weight.dtype.name in ("U8", "F4") and "weight_scale_2" in sides


def _is_int8(weight: StoredTensor | None, sides: dict[str, StoredTensor]) -> bool:
    return weight is not None and weight.dtype.kind == "int"


def _scaled_fp8(file: StoredFile) -> Found | None:
    found = _scaled(lambda weight, sides: weight is None or not weight.dtype.width)(file)
    markers = file.with_tail(*_MARKERS)
    if not markers:
        return found
    return Found(markers[0], found.coded if found else [], (*markers, *(found.markers if found else ())))


def _bitsandbytes(file: StoredFile) -> Found | None:
    def home(above: str) -> str:
        return above.removesuffix(".quant_state")

    def shape(codes: StoredTensor, sides: dict[str, StoredTensor]) -> Shape | None:
        state = next((side.name for role, side in sides.items() if role.startswith("bitsandbytes__")), None)
        said = file.read_json(state).get("shape") if state else None
        sound = isinstance(said, list) and 0 < len(said) <= 8 and all(type(n) is int and 0 <= n < 1 << 32 for n in said)
        return tuple(said) if sound else None

    return _found(file, _groups(file, _BELOW, home), shape)


def _packed(file: StoredFile) -> Found | None:
    groups = {}
    for name in file.with_tail(*_PACKED):
        above = name.rpartition(".")[0]
        beside = {tail: file.tensors.get(f"{above}.{tail}") for tail in _OF_PACKED}
        groups[name] = {tail: side for tail, side in beside.items() if side is not None}
    if not groups:
        return None
    return Found(next(iter(groups)), [Coded(file.tensors[name], sides) for name, sides in groups.items()])


def _codes(file: StoredFile) -> Found | None:
    """Integers, complex numbers and formats of codes where weights should be; and a file that says that it was quantised."""
    coded = [
        t for name, t in file.tensors.items()
        if t.dtype.kind == "code"
        or (t.dtype.kind in ("int", "complex") and t.shape and name.rpartition(".")[2] == "weight")
    ]  # fmt: skip
    if coded:
        return Found(f"{coded[0].name} is {coded[0].dtype}", [Coded(tensor) for tensor in coded])
    return Found(f"metadata {_METADATA}", []) if _METADATA in file.metadata else None


NVFP4 = Encoding("nvfp4", "nvfp4, 4-bit floats with scales", _scaled(_is_nvfp4))
SCALED_INT8 = Encoding("scaled_int8", "int8 codes with scales", _scaled(_is_int8))
SCALED_FP8 = Encoding("scaled_fp8", "fp8 codes with scales", _scaled_fp8, general=True)
BITSANDBYTES = Encoding("bitsandbytes", "bitsandbytes 4-bit codes", _bitsandbytes)
PACKED = Encoding("packed", "packed codes of GPTQ, AWQ or SVDQuant", _packed)
CODES = Encoding("codes", "codes of an unknown kind", _codes, general=True)
