"""What a set of tensors is: SD1, SD2, SDXL, one of their variants, a part of one, or something else.

Recognition goes by key structure and ranks, so a checkpoint with narrow channels is recognised as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Literal

from .blocks import COMPONENTS, UNET_PREFIX, VAE_PREFIX, place
from .foreign import controlnet_signs, foreign_model, lora_kind, name_forms, small_file
from .layouts import Family, is_buffer, layout
from .tensors import Shape

What = Literal["checkpoint", "component", "lora", "controlnet", "other"]

FAMILY_NAMES: dict[Family, str] = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL", "sdxl_refiner": "SDXL refiner"}
# The modelspec's names. SD2's tells how it predicts.
_MODELSPEC: dict[Family, str] = {
    "sd1": "stable-diffusion-v1",
    "sd2": "stable-diffusion-v2-512",
    "sdxl": "stable-diffusion-xl-v1-base",
    "sdxl_refiner": "stable-diffusion-xl-v1-refiner",
}
# Input channels of the first convolution: the latent image has 4, the rest is what the variant sees beside it.
VARIANTS = {4: "base", 9: "inpainting", 8: "instruct-pix2pix", 5: "depth"}
# Width of the text features in models of real size.
_CONTEXT_FAMILIES: dict[int, Family] = {768: "sd1", 1024: "sd2", 2048: "sdxl", 1280: "sdxl_refiner"}
_PART_NAMES = {
    "unet": "UNET",
    "clip_l": "text encoder CLIP-L",
    "clip_h": "text encoder CLIP-H",
    "clip_g": "text encoder CLIP-G",
    "vae": "VAE",
}


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a file is.

    Attributes:
        family: `sd1`, `sd2`, `sdxl`, `sdxl_refiner`, or None when it is none of them or could be several: a VAE or a
            CLIP-L alone fits more than one.
        what: `checkpoint` (it has a UNET and more), `component` (a UNET, VAE or text encoder alone), `lora`,
            `controlnet` or `other`.
        variant: `base`, `inpainting` (9 input channels), `instruct-pix2pix` (8), `depth` (5) or `unusual input`.
        parts: the components that are there (`unet`, `clip_l`, `vae`...).
        name: one line for people, e.g. `SDXL checkpoint, inpainting`.
    """

    family: Family | None
    what: What
    variant: str = "base"
    parts: tuple[str, ...] = ()
    name: str = ""

    def for_family(self, family: Family) -> Architecture:
        """The same adapter, for another family."""
        return replace(self, family=family, name=f"{self.name.partition(' for ')[0]} for {FAMILY_NAMES[family]}")


def recognise(shapes: Mapping[str, Shape], raw_names: Collection[str] = ()) -> Architecture:
    """What tensors of these shapes are.

    Args:
        shapes: key in single-file naming -> shape.
        raw_names: the names that the file itself uses, where they differ from the keys: LoRAs and ControlNets show in them.
    """
    names = tuple(raw_names) or tuple(shapes)
    forms, has_unet = name_forms(names), _has_unet(shapes)
    found = {place(key).component for key in shapes}
    parts = tuple(c for c in COMPONENTS if c in found and c != "other")
    if kind := lora_kind(forms):
        family = _adapter_family(names, shapes)
        return Architecture(family, "lora", parts=parts, name=f"{kind} for {_family_name(family)}")
    if controlnet_signs(forms):
        family = _adapter_family(names, shapes)
        beside = ", with the UNET that it steers" if has_unet else ""
        return Architecture(family, "controlnet", parts=parts, name=f"ControlNet for {_family_name(family)}{beside}")
    if model := foreign_model(forms, has_unet):
        return Architecture(None, "other", parts=parts, name=model)
    if has_unet:
        return _with_unet(shapes, parts)
    if any(part in _PART_NAMES for part in parts):
        return _without_unet(shapes, parts)
    return Architecture(None, "other", parts=parts, name=small_file(forms))


def missing_keys(family: Family, keys: Collection[str], component: str) -> tuple[str, ...]:
    """Keys of a component that the family's layout has and a file lacks; buffers are optional and never missing.

    Args:
        family: whose layout to compare with.
        keys: what the file has, in single-file naming.
        component: `unet`, `clip_l`, `clip_h`, `clip_g` or `vae`.
    """
    have = set(keys)
    return tuple(key for key in _trained_keys(family, component) if key not in have)


@cache
def _trained_keys(family: Family, component: str) -> tuple[str, ...]:
    return tuple(key for key in layout(family) if place(key).component == component and not is_buffer(key))


def _has_unet(shapes: Mapping[str, Shape]) -> bool:
    """Whether there is a UNET with both halves: a ControlNet has the encoder half alone."""
    halves = {key.removeprefix(UNET_PREFIX).split(".", 1)[0] for key in shapes if key.startswith(UNET_PREFIX)}
    return "output_blocks" in halves or {"input_blocks", "out"} <= halves


def _with_unet(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Architecture:
    family = _unet_family(shapes, parts)
    variant = _variant(shapes)
    if family is None:
        return Architecture(
            None, "other", variant, parts, "a UNET of none of the layouts SD1, SD2, SDXL and SDXL refiner"
        )
    whole = any(part in _PART_NAMES for part in parts if part != "unet")
    what: What = "checkpoint" if whole else "component"
    name = f"{FAMILY_NAMES[family]} {'checkpoint' if whole else 'UNET'}"
    return Architecture(family, what, variant, parts, name if variant == "base" else f"{name}, {variant}")


def _unet_family(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Family | None:
    """The family of a UNET, by where it has transformers; SD1 and SD2 have them in the same places."""
    names = {key.removeprefix(UNET_PREFIX) for key in shapes if key.startswith(UNET_PREFIX)}
    blocks = {".".join(name.split(".")[:2]) for name in names}
    attention = {".".join(n.split(".")[:2]) for n in names if ".1.transformer_blocks." in n}
    if attention & {"input_blocks.1", "input_blocks.2", "output_blocks.9", "output_blocks.10", "output_blocks.11"}:
        return _sd1_or_sd2(shapes, parts)
    if not attention & {"input_blocks.4", "input_blocks.5", "output_blocks.3", "output_blocks.4"}:
        return None
    if blocks & {"input_blocks.9", "input_blocks.10", "input_blocks.11", "output_blocks.9"}:
        # The x4 upscaler has as many blocks, with attention in the coarsest level too.
        return None if attention & {"input_blocks.10", "input_blocks.11"} else "sdxl_refiner"
    return "sdxl"


def _sd1_or_sd2(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Family:
    """SD1 or SD2: by the context width where it is a real one, else by the rank of `proj_in`, else by the text encoder."""
    unet = [(key, shape) for key, shape in shapes.items() if key.startswith(UNET_PREFIX)]
    widths = {shape[1] for key, shape in unet if key.endswith(".attn2.to_k.weight") and len(shape) == 2}
    for width in (768, 1024):
        if widths == {width}:
            return _CONTEXT_FAMILIES[width]
    ranks = {len(shape) for key, shape in unet if key.endswith((".proj_in.weight", ".proj_out.weight"))}
    if ranks:
        return "sd2" if ranks == {2} else "sd1"
    return "sd2" if "clip_h" in parts else "sd1"


def _variant(shapes: Mapping[str, Shape]) -> str:
    first = shapes.get(UNET_PREFIX + "input_blocks.0.0.weight")
    if first is None or len(first) != 4:
        return "base"
    return VARIANTS.get(first[1], "unusual input")


def _without_unet(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Architecture:
    """Text encoders and VAE without a UNET."""
    family: Family | None = None
    if "clip_h" in parts:
        family = "sd2"
    elif "clip_g" in parts:
        refiner = any(key.startswith("conditioner.embedders.0.model.") for key in shapes)
        family = "sdxl_refiner" if refiner else "sdxl"
    name = " and ".join(_PART_NAMES[part] for part in parts if part in _PART_NAMES)
    latent = shapes.get(VAE_PREFIX + "decoder.conv_in.weight", (0, 4))
    if parts == ("vae",) and latent[1:2] != (4,):
        return Architecture(
            None, "other", parts=parts, name=f"VAE with {latent[1]} latent channels, of another architecture"
        )
    return Architecture(family, "component", parts=parts, name=f"{name} alone")


def _adapter_family(names: Iterable[str], shapes: Mapping[str, Shape]) -> Family | None:
    """The family that a LoRA or a ControlNet is for, None when nothing tells.

    Their names write `down_blocks.0.attentions` or `down_blocks_0_attentions`, `input_blocks.1.1.` or `input_blocks_1_1_`.
    """
    flat = [name.replace(".", "_") for name in names]
    if any("double_blocks" in n or "joint_blocks" in n or "single_transformer_blocks" in n for n in flat):
        return None
    inputs = {
        shape[-1]
        for key, shape in shapes.items()
        if len(shape) >= 2 and "attn2" in key and "to_k" in key and not key.endswith(("up.weight", "lora_B.weight"))
    }
    for width in (2048, 1024, 768, 1280):
        if width in inputs:
            return _CONTEXT_FAMILIES[width]
    if any("lora_te2_" in n or "text_encoder_2_" in n or "add_embedding" in n or "label_emb" in n for n in flat):
        return "sdxl"
    if any("down_blocks_0_attentions" in n or "input_blocks_1_1_" in n or "up_blocks_3_" in n for n in flat):
        ranks = {len(shape) for key, shape in shapes.items() if "proj_in" in key and key.endswith("weight")}
        return "sd2" if ranks == {2} else "sd1"
    if any("transformer_blocks_1_" in n for n in flat):
        return "sdxl"
    return None


def _family_name(family: Family | None) -> str:
    return FAMILY_NAMES[family] if family else "an architecture that its names do not tell"


def modelspec_architecture(family: Family, prediction: str | None = None) -> str:
    """What the header's field `modelspec.architecture` says of a model that predicts so."""
    return "stable-diffusion-v2-768-v" if (family, prediction) == ("sd2", "v") else _MODELSPEC[family]
