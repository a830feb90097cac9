"""What every trainer calls the weights that a LoRA changes: tables made of our own layouts and translations.

Names written with underscores cannot be taken apart (`to_out_0`, `down_blocks_0`), so nothing here parses them: each
module of a family is spelled in every style, and a LoRA's names are looked up.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from ..dtypes import F32
from ..families import FAMILIES, Family, Spec, Widths, family_of, is_buffer, layout
from ..families.parts.unet import PREFIX as UNET_PREFIX
from ..naming import to_diffusers
from ..tensors import Shape, StoredTensor

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


@dataclass(frozen=True, slots=True)
class Target:
    """A module as diffusers divides the model, and where its weight lies in a single file.

    Attributes:
        component: `unet`, `text_encoder` or `text_encoder_2`; the denoiser's own name in a family without LoRA facts.
        module: the diffusers name, dotted, without component and `.weight`.
        weight: the canonical key of the weight; `bias` that of the bias, None where there is none.
        third: which third of the canonical tensor's rows the module is (0 q, 1 k, 2 v), None for all of it.
        transposed: the canonical weight stands the other way round (OpenCLIP's text projection).
    """

    component: str
    module: str
    weight: str
    bias: str | None = None
    third: int | None = None
    transposed: bool = False

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

    Of a family that trainers have no names for, the denoiser's alone, by the names that its files have.
    """
    record = family_of(family)
    return _targets(record.id) if record.lora is not None else _own_targets(record)


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
        _target(component, module, parts, shapes) for (component, module), parts in found.items() if "weight" in parts
    )


def _target(component: str, module: str, parts: dict[str, StoredTensor], shapes: dict[str, Spec]) -> Target:
    weight = parts["weight"]
    (piece,) = weight.pieces
    rows = shapes[weight.name].shape[0]
    fused = weight.shape[0] * FUSED == rows
    # The pieces begin where the translation cut them: at the first, second and third third of the rows.
    third = piece.offset * FUSED // (F32.size * shapes[weight.name].shape[1] * rows) if fused else None
    bias = parts["bias"].name if "bias" in parts else None
    return Target(component, module, weight.name, bias, third, piece.strides is not None)


@cache
def by_spelling(family: str | Family) -> dict[str, tuple[Target, Style]]:
    """Every spelling of every module, without the suffix of a tensor -> the module and the style."""
    table: dict[str, tuple[Target, Style]] = {}
    own = family_of(family).lora is None
    for target in targets(family):
        for spelling, style in _own_spellings(target) if own else _spellings(target, family):
            table.setdefault(spelling, (target, style))
    return table


def spelled(target: Target, family: str | Family, style: Style) -> str:
    """A module's name in a style, without the suffix of a tensor. Text encoders are never spelled as in single files.

    Numbered names do not follow from the module alone: see `numbered.py`.
    """
    if family_of(family).lora is None:
        return next(spelling for spelling, known in _own_spellings(target) if (known == "peft") == (style == "peft"))
    if style in ("diffusers", "peft"):
        return target.path
    if style == "single-file" and target.component == "unet":
        return "lora_unet_" + _canonical_module(target).replace(".", "_")
    return _kohya_prefixes(family, target.component)[0] + target.module.replace(".", "_")


def factor_ends(target: Target, style: Style) -> tuple[str, str]:
    """What a style puts behind a module's name for its factors: down, up."""
    return _FACTOR_ENDS[style][target.component != "unet"]


def _spellings(target: Target, family: str) -> list[tuple[str, Style]]:
    names = [target.module]
    if target.component != "unet":
        names.append(target.module.removeprefix("text_model."))  # as transformers 5 names a bare text model
    out: list[tuple[str, Style]] = []
    for name in names:
        flat = name.replace(".", "_")
        out += [(prefix + flat, "kohya") for prefix in _kohya_prefixes(family, target.component)]
        out.append((f"{target.component}.{name}", "diffusers"))
    if target.component == "unet":
        canonical = _canonical_module(target)
        out.append(("lora_unet_" + canonical.replace(".", "_"), "single-file"))
        out += [(prefix + canonical, "single-file") for prefix in ("diffusion_model.", UNET_PREFIX)]
        out.append((target.module, "diffusers"))  # diffusers saved a UNET's processors without the component
    return out


def _own_spellings(target: Target) -> list[tuple[str, Style]]:
    """How trainers spell a module of a family that they have no names for: after the file's names, as ComfyUI reads them."""
    flat = target.module.replace(".", "_")
    dotted: list[tuple[str, Style]] = [
        (p + target.module, "peft") for p in ("diffusion_model.", UNET_PREFIX, "transformer.", "")
    ]
    return [*dotted, *((p + flat, "kohya") for p in ("lora_unet_", "lora_transformer_", "lycoris_"))]


def _canonical_module(target: Target) -> str:
    return target.weight.removeprefix(UNET_PREFIX).removesuffix(".weight")


def module_shape(target: Target, family: str | Family, widths: Widths = "real") -> Shape:
    """The shape of a module's weight as diffusers has it: (outputs, inputs, ...), a third of a fused tensor."""
    shape = layout(family, widths=widths)[target.weight].shape
    if target.third is not None:
        return (shape[0] // FUSED, *shape[1:])
    return shape[::-1] if target.transposed else shape
