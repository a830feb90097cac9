"""What a set of tensors is: a known family, one of its variants, a part of one, or something else.

Recognition goes by key structure and ranks, so a checkpoint with narrow channels is recognised as well.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Literal

from ..families import (
    FAMILIES,
    Family,
    components_in_order,
    families_with,
    family_of,
    is_buffer,
    kin_of,
    part_prefixes,
    part_title,
)
from ..families.any import beside_parts
from ..families.parts.unet import PREFIX, whole_unet
from ..families.signs import Signs
from ..tensors import Shape
from ..text import counted
from .averaged import averaged_denoiser, averaged_keys
from .other_models import adapter_kind, controlnet_signs, embeddings, foreign_model, lora_kind, name_forms, small_file

_OF_WIDTH = re.compile(r"(\d{1,6})\.[01]\.linear")
What = Literal["checkpoint", "component", "lora", "controlnet", "other"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a file is.

    Attributes:
        family: the id of its family's record (`sdxl`), or None when it is of none or could be of several: a VAE or a CLIP-L
            alone fits more than one.
        what: `checkpoint` (it has a UNET and more), `component` (a UNET, VAE or text encoder alone), `lora`,
            `controlnet` or `other`.
        variant: `base`, `inpainting` (9 input channels), `instruct-pix2pix` (8), `depth` (5) or `unusual input`.
        parts: the components that are there (`unet`, `clip_l`, `vae`...).
        name: one line for people, e.g. `SDXL checkpoint, inpainting`.
        ema_only: whether the denoiser is not there but for its moving average, of which its family is told.
        told: whether the names show what it is.
        kind: of what changes a model, what it is called without its family: `LoRA`.
    """

    family: str | None
    what: What
    variant: str = "base"
    parts: tuple[str, ...] = ()
    name: str = ""
    ema_only: bool = False
    told: bool = True
    kind: str = ""

    def for_family(self, family: str | Family) -> Architecture:
        """The same adapter, for another family, or for a model of none as its record calls it."""
        record = family_of(family)
        return replace(self, family=known_id(record), name=f"{self.kind} for {record.title}")


def recognise(shapes: Mapping[str, Shape], raw_names: Collection[str] = ()) -> Architecture:
    """What tensors of these shapes are.

    Args:
        shapes: key in single-file naming -> shape.
        raw_names: the names that the file itself uses, where they differ from the keys: LoRAs and ControlNets show in them.
    """
    names = tuple(raw_names) or tuple(shapes)
    forms, found = name_forms(names), parts_of(shapes)
    family = denoiser_family(shapes, found)
    if family is not None and family.extras:
        found = parts_of(key for key in shapes if not key.startswith(family.extras))
    parts = tuple(components_in_order([*([family.core] if family else _unknown_denoiser(shapes)), *found]))
    if family is None and (kind := adapter_kind(forms)):
        return Architecture(None, "other", parts=parts, name=_adapter_name(kind, names, shapes))
    if kind := lora_kind(forms):
        target = _adapter_family(names, shapes)
        return Architecture(target, "lora", parts=parts, name=f"{kind} for {_title(target)}", kind=kind)
    if controlnet_signs(forms):
        target = _adapter_family(names, shapes)
        beside = ", with the UNET that it steers" if family else ""
        return Architecture(target, "controlnet", parts=parts, name=f"ControlNet for {_title(target)}{beside}")
    if family is not None:
        return _with_denoiser(family, shapes, parts)
    if not has_unet(shapes) and (averaged := _averaged_family(shapes, found)):
        return _with_average(averaged, shapes, parts)
    if model := foreign_model(forms, has_unet(shapes)):
        return Architecture(None, "other", parts=parts, name=model)
    if has_unet(shapes):
        titles = ", ".join(f.title for f in FAMILIES.values() if f.native is not None)
        return Architecture(None, "other", parts=parts, name=f"a UNET of none of the layouts {titles}")
    if found and not beside_parts(shapes, [key for key in shapes if NO_FAMILY.block_of(key).component in found]):
        return _without_denoiser(shapes, parts)
    if embedding := _embedding_name(shapes):
        return Architecture(None, "other", parts=parts, name=embedding)
    return Architecture(None, "other", parts=parts, name=small_file(forms), told=False)


def unknown_model(shapes: Mapping[str, Shape], family: Family) -> str:
    """What a model of no known family is, for people: what its names look like, and its blocks."""
    blocks = [label for label in family.labels if label[-1].isdigit()]
    forms = name_forms(shapes)
    kind = adapter_kind(forms)
    what = _adapter_name(kind, shapes, shapes) if kind else foreign_model(forms, False) or family.title
    beside = f", with {', '.join(c.part.title for c in family.components)}" if family.components else ""
    return f"{what}, blocks {blocks[0]} to {blocks[-1]} ({len(blocks)}){beside}"


def reader_of(architecture: Architecture) -> Family:
    """The record that says where the keys of a file live; of a part that several families have, the first one's."""
    if architecture.family in FAMILIES:
        return FAMILIES[architecture.family]
    if architecture.what == "component":
        held = [part for part in architecture.parts if families_with(part)]
        shared = (f for f in FAMILIES.values() if all(f.component(part) for part in held))
        return next(shared, NO_FAMILY)
    return NO_FAMILY


# Reads files whose names mean nothing to the house, LoRAs' among them: every key is OTHER but for parts that stand next to them.
NO_FAMILY = Family(
    id="none", title="an unknown architecture", name="an unknown architecture", blocks="", core="other", prefix=""
)


def missing_keys(family: str | Family, keys: Collection[str], component: str) -> tuple[str, ...]:
    """Keys of a component that the family's layout has and a file lacks; buffers are optional and never missing.

    Args:
        family: whose layout to compare with.
        keys: what the file has, in single-file naming.
        component: `unet`, `clip_l`, `clip_h`, `clip_g` or `vae`.
    """
    have, record = set(keys), family_of(family)
    return tuple(key for key in trained_keys(record, component) if key not in have)


def trained_keys(family: Family, component: str) -> tuple[str, ...]:
    """The keys of a component in a family's layout, but for buffers."""
    return tuple(key for key in family.layout() if family.block_of(key).component == component and not is_buffer(key))


def parts_of(keys: Iterable[str]) -> tuple[str, ...]:
    """The text encoders and VAEs that keys belong to, and what is stored next to weights."""
    parts, denoisers = part_prefixes(), tuple({family.prefix for family in FAMILIES.values() if family.prefix})
    # Most keys are the denoiser's, and need not be placed to be known as none of these.
    rest = [key for key in keys if key.startswith(parts) or not key.startswith(denoisers)]
    return tuple(components_in_order({NO_FAMILY.block_of(key).component for key in rest} - {"other"}))


def denoiser_family(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Family | None:
    """The family that knows the denoiser as its own: the first one, or its kin."""
    signs: dict[str, Signs] = {}
    for family in FAMILIES.values():
        if family.known_by is None or family.parent:
            continue
        prefix = family.prefix
        if prefix not in signs:
            inside = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
            others = [key for key in shapes if not key.startswith(prefix)] if prefix else ()
            signs[prefix] = Signs(inside, parts, others)
        if signs[prefix].shapes and family.known_by(signs[prefix]):
            return kin_of(family, signs[prefix])
    return None


def has_unet(shapes: Mapping[str, Shape]) -> bool:
    """Whether there is a UNET with both halves, of whatever family: a ControlNet has the encoder half alone."""
    return whole_unet(Signs({key.removeprefix(PREFIX): s for key, s in shapes.items() if key.startswith(PREFIX)}))


def _unknown_denoiser(shapes: Mapping[str, Shape]) -> list[str]:
    """The component that a denoiser of no family is: a UNET's blocks tell it."""
    blocks = ("input_blocks.", "middle_block.", "output_blocks.")
    return ["unet"] if any(key.startswith(tuple(PREFIX + block for block in blocks)) for key in shapes) else []


def _with_denoiser(family: Family, shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Architecture:
    variant = _variant(family, shapes)
    whole = any(families_with(part) for part in parts)
    what: What = "checkpoint" if whole else "component"
    name = f"{family.title} {'checkpoint' if whole else family.core_title}"
    return Architecture(family.id, what, variant, parts, name if variant == "base" else f"{name}, {variant}")


def _averaged_family(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Family | None:
    """The family of a denoiser that is there as its moving average only."""
    for named in averaged_denoiser(shapes):
        if family := denoiser_family(named, parts):
            return family
    return None


def _with_average(family: Family, shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Architecture:
    keys = averaged_keys(family)
    named = {keys[name]: shape for name, shape in shapes.items() if name in keys}
    found = _with_denoiser(family, named, parts)
    return replace(found, name=f"{found.name}, its {family.core_title} as EMA weights only", ema_only=True)


def _variant(family: Family, shapes: Mapping[str, Shape]) -> str:
    """The variant that the first layer's input channels tell."""
    first = shapes.get(family.first_key)
    if not family.variants or first is None or len(first) < 2:
        return "base"
    return family.variants.get(first[1], "unusual input")


def _without_denoiser(shapes: Mapping[str, Shape], parts: tuple[str, ...]) -> Architecture:
    """Text encoders and VAE without a denoiser."""
    named = [part for part in parts if families_with(part)]
    name = " and ".join(part_title(part) for part in named)
    latent = shapes.get("first_stage_model.decoder.conv_in.weight", (0, 4))
    if named == ["vae"] and latent[1:2] != (4,):
        return Architecture(
            None, "other", parts=parts, name=f"VAE with {latent[1]} latent channels, of another architecture"
        )
    return Architecture(_told_by_parts(shapes, named), "component", parts=parts, name=f"{name} alone")


def _told_by_parts(shapes: Mapping[str, Shape], parts: list[str]) -> str | None:
    """The family whose text encoder says that it is; of several, the one that keeps it under the file's prefix."""
    telling = [(f, c) for f in FAMILIES.values() for c in f.components if c.tells and c.id in parts]
    placed = [f.id for f, c in telling if any(key.startswith(c.prefix) for key in shapes)]
    return next(iter([*placed, *(f.id for f, _ in telling)]), None)


def _adapter_family(names: Iterable[str], shapes: Mapping[str, Shape]) -> str | None:
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
    # An IP-Adapter's keys come from the text's width; a hypernetwork's parts are called by the widths that they change.
    inputs |= {shape[-1] for key, shape in shapes.items() if key.endswith("to_k_ip.weight") and len(shape) == 2}
    inputs |= {int(found[1]) for key in shapes if (found := _OF_WIDTH.match(key))}
    told = [f for f in FAMILIES.values() if f.adapters]
    if by_width := [f for f in told if f.adapters.width in inputs]:
        return max(by_width, key=lambda f: f.adapters.width).id
    ranks = {len(shape) for key, shape in shapes.items() if "proj_in" in key and key.endswith("weight")}
    for words in ("words", "weak_words"):
        for family in told:
            fits = any(word in name for word in getattr(family.adapters, words) for name in flat)
            if fits and family.adapters.linear in (None, ranks == {2}):
                return family.id
    return None


def _adapter_name(kind: str, names: Iterable[str], shapes: Mapping[str, Shape]) -> str:
    """`an IP-Adapter for SDXL`; without the family where nothing tells it."""
    family = _adapter_family(names, shapes)
    article = "an" if kind[0] in "AEIO" else "a"
    return f"{article} {kind} for {_title(family)}" if family else f"{article} {kind}"


def adapter_or_embedding(shapes: Mapping[str, Shape]) -> str:
    """What a file is that steers a model or holds embeddings, by its own names; empty for anything else, LoRAs among them."""
    kind = adapter_kind(name_forms(shapes))
    return (_adapter_name(kind, shapes, shapes) if kind else _embedding_name(shapes)) or ""


def _embedding_name(shapes: Mapping[str, Shape]) -> str | None:
    """`a textual inversion embedding, 4 vectors of 768 (SD1)`; None for a file that holds none.

    It is for the family whose text encoders have these widths, and no others.
    """
    told = {f.title: set(f.text_widths) for f in FAMILIES.values() if not f.parent and f.text_widths}
    found = embeddings(shapes, set().union(*told.values()))
    if found is None:
        return None
    what, vectors = found[0], dict(sorted(found[1].items()))
    title = next((title for title, widths in told.items() if widths == set(vectors)), None)
    counts, widths = set(vectors.values()), [f"{width:,}" for width in vectors]
    if len(counts) == 1:
        amount = f"{counted(counts.pop(), 'vector')} of {' and '.join(widths)}"
    else:
        amount = ", ".join(
            f"{counted(n, 'vector')} of {width}" for n, width in zip(vectors.values(), widths, strict=True)
        )
    return f"{what}, {amount}" + (f" ({title})" if title else "")


def known_id(family: Family) -> str | None:
    """The id of a known family; None for a record that a file's own names made."""
    return family.id if family.id in FAMILIES else None


def _title(family: str | None) -> str:
    return family_of(family).title if family else "an architecture that its names do not tell"
