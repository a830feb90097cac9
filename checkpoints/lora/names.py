"""What every trainer calls the weights that a LoRA changes: tables made of our own layouts and translations.

Names written with underscores cannot be taken apart (`to_out_0`, `down_blocks_0`), so none is: a name is looked up by its end
among a family's modules, all dots written as `_`, and what stands before it is made of the words that trainers, wrappers and
programs put there, in any order and number.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Literal

from ..dtypes import F32
from ..families import FAMILIES, Family, Spec, Widths, family_of, is_buffer, layout
from ..recognition import to_diffusers
from ..tensors import Shape, StoredTensor
from .own import OwnNames

Style = Literal["kohya", "single-file", "diffusers", "peft", "numbered"]
STYLES: tuple[Style, ...] = ("kohya", "single-file", "diffusers", "peft", "numbered")

_KOHYA_DENOISER = ("lora_unet_",)
# Ends of the names of a LoRA's factors, down and up: in the UNET, and in text encoders.
_KOHYA_ENDS = (".lora_down.weight", ".lora_up.weight")
_PEFT_ENDS = (".lora_A.weight", ".lora_B.weight")
_FACTOR_ENDS: dict[Style, tuple[tuple[str, str], tuple[str, str]]] = {
    "kohya": (_KOHYA_ENDS, _KOHYA_ENDS),
    "single-file": (_KOHYA_ENDS, _KOHYA_ENDS),
    "diffusers": (
        (".lora.down.weight", ".lora.up.weight"),
        (".lora_linear_layer.down.weight", ".lora_linear_layer.up.weight"),
    ),
    "peft": (_PEFT_ENDS, _PEFT_ENDS),
    "numbered": ((":down", ":up"), (":down", ":up")),
}
# q, k and v of OpenCLIP lie in one tensor.
FUSED = 3
# Modules that torch.compile, FSDP, DDP and old releases of diffusers put around or inside others, anywhere in a name.
_WRAPPED = re.compile(
    r"(?:^|(?<=_))(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module|processor)(?:_|$)"
)
# Words before a module's name that say nothing, and those that say that it is the denoiser's.
_AROUND = ("base_model", "model", "net", "lora", "lycoris", "transformer", "text_encoders")
_DENOISER = ("unet", "diffusion_model")
_OLD_TEXT = (("q_proj", "to_q"), ("k_proj", "to_k"), ("v_proj", "to_v"), ("out_proj", "to_out"))


@dataclass(frozen=True, slots=True)
class Target:
    """A module as diffusers divides the model, and where its weight is in a single file.

    Attributes:
        component: the folder of a pipeline that holds it: `text_encoder`, `text_encoder_2`, or the denoiser's name (`unet`).
        module: the diffusers name, dotted, without component and `.weight`.
        weight: the canonical key of the weight; `bias` that of the bias, None where there is none.
        third: which third of the canonical tensor's rows the module is (0 q, 1 k, 2 v), None for all of it.
        transposed: the canonical weight stands the other way round (OpenCLIP's text projection).
        core: whether the module is the denoiser's.
    """

    component: str
    module: str
    weight: str
    bias: str | None = None
    third: int | None = None
    transposed: bool = False
    core: bool = True

    @property
    def path(self) -> str:
        """`unet.down_blocks.0...`: the module's name with its component."""
        return f"{self.component}.{self.module}"


def lora_families() -> tuple[str, ...]:
    """The families that LoRAs are read for."""
    return tuple(family.id for family in FAMILIES.values() if family.lora is not None)


def _kohya_prefixes(family: str, folder: str) -> tuple[str, ...]:
    """What kohya puts before the names of a component's modules, the usual one first."""
    held = next((c for c in family_of(family).components if c.folder == folder), None)
    return held.trained_as if held else _KOHYA_DENOISER


def targets(family: str | Family) -> tuple[Target, ...]:
    """Every module with a weight of a family's denoiser and text encoders, in the order of the single-file layout.

    Of a family that diffusers has no other names for, the denoiser's alone, by the names that its files have.
    """
    record = family_of(family)
    if isinstance(record, OwnNames):
        return tuple(
            Target(record.core, key.removesuffix(".weight"), key, record.bias_of(key)) for key in record.layers
        )
    return _own_targets(record) if has_own_names(record) else _targets(record.id)


def has_own_names(family: str | Family) -> bool:
    """Whether a family's modules are called as its files call them, in LoRAs too: no other layout of it is known."""
    return family_of(family).names is None


def _own_targets(family: Family) -> tuple[Target, ...]:
    """The denoiser's linear layers and convolutions as a file names them."""
    shapes = {key: spec for key, spec in family.layout().items() if family.block_of(key).core}
    found = []
    for key, spec in shapes.items():
        module, _, last = key.rpartition(".")
        if last == "weight" and len(spec.shape) in (2, 4):
            bias = f"{module}.bias" if f"{module}.bias" in shapes else None
            found.append(Target(family.core, module.removeprefix(family.prefix), key, bias))
    return tuple(found)


@cache
def _targets(family: str) -> tuple[Target, ...]:
    shapes = layout(family)
    images = tuple(c.prefix for c in family_of(family).components if not c.part.text)  # nobody trains a LoRA of a VAE
    stored = {
        key: StoredTensor.at(key, F32, spec.shape, Path(), 0)
        for key, spec in shapes.items()
        if not is_buffer(key) and not key.startswith(images)
    }
    found: dict[tuple[str, str], dict[str, StoredTensor]] = {}
    for component, named in to_diffusers(stored, family).components.items():
        for name, tensor in named.items():
            module, _, last = name.rpartition(".")
            found.setdefault((component, module), {})[last] = tensor
    return tuple(
        _target(component, module, parts, shapes, component == family_of(family).core)
        for (component, module), parts in found.items()
        if "weight" in parts
    )


def _target(component: str, module: str, parts: dict[str, StoredTensor], shapes: dict[str, Spec], core: bool) -> Target:
    weight = parts["weight"]
    (piece,) = weight.pieces
    rows = shapes[weight.name].shape[0]
    fused = weight.shape[0] * FUSED == rows
    # The pieces begin where the translation cut them: at the first, second and third third of the rows.
    third = piece.offset * FUSED // (F32.size * shapes[weight.name].shape[1] * rows) if fused else None
    bias = parts["bias"].name if "bias" in parts else None
    return Target(component, module, weight.name, bias, third, piece.strides is not None, core)


@dataclass(frozen=True, slots=True)
class Named:
    """A module found by its name.

    Attributes:
        target: the module.
        spelling: its name as the file's layout has it, dotted, without what stands before it.
        single: whether that is the single-file layout's name of a module that diffusers calls otherwise.
    """

    target: Target
    spelling: str
    single: bool = False


class Reader:
    """Finds the modules of a family by the names that trainers give them; `reader_for` keeps one for each family."""

    def __init__(self, family: str | Family):
        record = family_of(family)
        self._modules: dict[str, list[Named]] = {}
        for target in targets(record):
            for named in _spellings(target, record):
                known = self._modules.setdefault(_flat(named.spelling), [])
                if all(other.target != target for other in known):
                    known.append(named)
        words: dict[str, str | None] = dict.fromkeys(_AROUND)
        words |= dict.fromkeys(_flat(prefix).strip("_") for prefix in (record.prefix, *record.prefixes))
        words |= dict.fromkeys((*_DENOISER, record.core), record.core)
        for held in record.components:
            if held.part.text:
                said = (held.id, held.folder, _flat(held.prefix).strip("_"), *held.trained_as)
                words |= {word.removeprefix("lora_").strip("_"): held.folder for word in said}
        words.pop("", None)
        self._words = words
        longest_first = sorted(map(re.escape, words), key=len, reverse=True)
        self._before = re.compile(f"({'|'.join(longest_first)})_")

    def find(self, name: str) -> Named | None:
        """The module of a name without the tensor's ending; None where the family has no such module, or several."""
        rest, component = _flat(name), None
        while True:
            fitting = [n for n in self._modules.get(rest, ()) if component in (None, n.target.component)]
            if fitting:
                return _only(fitting, name)
            before = self._before.match(rest)
            if before is None:
                return None
            meant = self._words[before[1]]
            if None not in (meant, component) and meant != component:
                return None
            component, rest = meant or component, rest[before.end() :]


def _only(fitting: list[Named], name: str) -> Named | None:
    """The one module that is meant, of those that are written alike with `_` for dots."""
    if len(fitting) > 1:
        fitting = [named for named in fitting if f".{name}".endswith(f".{named.spelling}")]
    return fitting[0] if len(fitting) == 1 else None


@lru_cache(maxsize=32)  # records that files' own names make are many
def reader_for(family: str | Family) -> Reader:
    """The reader of a family's names."""
    return Reader(family)


def _flat(name: str) -> str:
    """A name with `_` for dots, without the modules that wrap others."""
    return _WRAPPED.sub("", name.replace(".", "_"))


def _spellings(target: Target, family: Family) -> Iterator[Named]:
    """What a module is called, without what stands before it."""
    yield Named(target, target.module)
    if target.core:
        yield Named(target, _canonical_module(target, family), single=True)
    elif target.module.startswith("text_model."):
        yield Named(target, target.module.removeprefix("text_model."))  # as transformers 5 names a bare text model
    # diffusers before 0.22 spoke of the attention of UNET and text encoders alike.
    for last, old in (("to_out.0", "to_out"), *((f"self_attn.{x}", f"self_attn.{y}") for x, y in _OLD_TEXT)):
        if target.module.endswith(f".{last}"):
            for spelling in (target.module, target.module.removeprefix("text_model.")):
                yield Named(target, spelling.removesuffix(last) + old)


def spelled(target: Target, family: str | Family, style: Style) -> str:
    """A module's name in a style, without the suffix of a tensor. Text encoders are never spelled as in single files.

    Numbered names do not follow from the module alone: see `numbered.py`.
    """
    record = family_of(family)
    if isinstance(record, OwnNames):
        return record.spelled(target.weight, flat=style == "kohya")
    if has_own_names(record):  # as ComfyUI reads any model's
        return f"diffusion_model.{target.module}" if style == "peft" else _flattened("lora_unet_", target.module)
    if style in ("diffusers", "peft"):
        return target.path
    if style == "single-file" and target.core:
        return _flattened("lora_unet_", _canonical_module(target, family))
    return _flattened(_kohya_prefixes(family, target.component)[0], target.module)


def _flattened(prefix: str, module: str) -> str:
    return prefix + module.replace(".", "_")


def factor_ends(target: Target, style: Style) -> tuple[str, str]:
    """What a style puts behind a module's name for its factors: down, up."""
    return _FACTOR_ENDS[style][not target.core]


def _canonical_module(target: Target, family: str | Family) -> str:
    return target.weight.removeprefix(family_of(family).prefix).removesuffix(".weight")


def usual_channels(key: str, shape: Shape, family: str | Family) -> Shape | None:
    """The shape that the denoiser's first layer has in the family's usual models, where a variant has more input channels.

    An inpainting model or an instruct-pix2pix model has those of the usual ones first. None for any other layer or width.
    """
    record = family_of(family)
    if not record.variants or key != record.first_key or len(shape) < 2:
        return None
    usual = record.layout()[key].shape[1]
    return (shape[0], usual, *shape[2:]) if usual < shape[1] else None


def module_shape(target: Target, family: str | Family, widths: Widths = "real") -> Shape:
    """The shape of a module's weight as diffusers has it: (outputs, inputs, ...), a third of a fused tensor."""
    shape = family_of(family).layout(widths)[target.weight].shape
    if target.third is not None:
        return (shape[0] // FUSED, *shape[1:])
    return shape[::-1] if target.transposed else shape
