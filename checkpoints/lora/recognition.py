"""Whose names a LoRA's tensors have: the family, the style, and the module of each tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from ..architecture import recognise
from ..errors import CheckpointError
from ..families import Family, family_of
from ..tensors import Shape
from .names import Target, by_spelling, lora_families, module_shape
from .numbered import NAME, is_numbered, numbered_targets
from .recognised import Members, Recognised
from .roles import refused_kind, split
from .trainer import said_family

_INPUT_ROLES = ("down", "hada_w1_b", "diff")
# The sides of a Kronecker product: their columns multiplied are the inputs.
_KRONECKER = ("lokr_w1", "lokr_w1_b", "lokr_w2", "lokr_w2_b", "lokr_t2")
_TEXT = re.compile(r"lora_te\d?_|(base_model\.model\.)?text_encoder")


def recognise_names(
    path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str], family: str | Family | None = None
) -> Recognised:
    """Sort a LoRA's tensors by module.

    Args:
        path: of the file, for messages.
        shapes: the file's names -> shapes.
        metadata: of the header; says the family where names and widths do not.
        family: when it is known already.

    Raises:
        CheckpointError: none of the names is known, or a kind is not supported.
    """
    for name in shapes:
        if kind := refused_kind(name):
            raise CheckpointError(
                f"{path}: {name} belongs to {kind}, which is not supported; merge it into a checkpoint with the tool that "
                "made it, and extract a LoRA from that"
            )
    families = (family,) if family else lora_families()
    if is_numbered(list(shapes)):
        return _numbered(path, shapes, families)
    return _spelled(path, shapes, metadata, families)


def _numbered(path: Path, shapes: Mapping[str, Shape], families: Sequence[str | Family]) -> Recognised:
    family, targets = numbered_targets(path, shapes, families)
    out = Recognised(family, "numbered", {}, [])
    for name in shapes:
        number, _, side = name.rpartition(":")
        if NAME.fullmatch(name) and number in targets:
            out.modules.setdefault(targets[number], Members(number)).tensors["up" if side == "up" else "down"] = name
        else:
            out.unknown.append(name)
    return out


def _spelled(
    path: Path, shapes: Mapping[str, Shape], metadata: Mapping[str, str], families: Sequence[str | Family]
) -> Recognised:
    parted = {name: None if _is_plain_weight(name, shapes) else split(name) for name in shapes}
    family = max(families, key=lambda f: _likelihood(f, parted, shapes, metadata))
    table = by_spelling(family)
    modules: dict[Target, Members] = {}
    unknown: list[str] = []
    styles: Counter[str] = Counter()
    for name, found in parted.items():
        if found is None or found[0] not in table:
            unknown.append(name)
            continue
        spelling, role = found
        target, style = table[spelling]
        members = modules.setdefault(target, Members(spelling))
        if role in members.tensors:
            raise CheckpointError(
                f"{path}: {spelling}: {members.tensors[role]} and {name} are the same tensor of it twice"
            )
        members.tensors[role] = name
        styles["peft" if style == "diffusers" and _is_peft(name) else style] += 1
    _refuse_strangers(path, families, shapes, modules, [name for name in unknown if parted[name]])
    return Recognised(family, styles.most_common(1)[0][0], modules, unknown)


def _refuse_strangers(
    path: Path,
    families: Sequence[str | Family],
    shapes: Mapping[str, Shape],
    modules: Mapping[Target, Members],
    strangers: Sequence[str],
) -> None:
    """Refuse files that are no LoRA, and LoRAs for other models: those share at most a text encoder with ours."""
    records = [family_of(family) for family in families]
    cores, ids = {record.core for record in records}, ", ".join(record.id for record in records)
    if not modules:
        found = recognise(shapes, list(shapes))
        some = ", ".join(list(shapes)[:3]) or "no tensors"
        if found.what in ("checkpoint", "component"):
            raise CheckpointError(
                f"{path}: expected a LoRA, found {found.name}; a LoRA can be extracted from it and its base"
            )
        raise CheckpointError(
            f"{path}: expected a LoRA for {ids}, found no name of one ({some}); it is no LoRA, or one for "
            "another architecture"
        )
    denoiser = [name for name in strangers if not _TEXT.match(name)]
    if denoiser and not any(target.component in cores for target in modules):
        raise CheckpointError(
            f"{path}: expected a LoRA for {ids}, found one for another architecture: of "
            f"{len(denoiser):,} names like {denoiser[0]} none is a UNET's"
        )


def _is_plain_weight(name: str, shapes: Mapping[str, Shape]) -> bool:
    """Whether a name that ends like LyCORIS' (IA)^3 is that of a model's own weight: nothing says on which side it multiplies."""
    return (
        name.endswith(".weight")
        and split(name)[1] == "ia3"
        and f"{name.removesuffix('.weight')}.on_input" not in shapes
    )


def _is_peft(name: str) -> bool:
    return any(word in name for word in (".lora_A.", ".lora_B.", ".lora_magnitude_vector", ".ia3_l"))


def _likelihood(
    family: str | Family, parted, shapes: Mapping[str, Shape], metadata: Mapping[str, str]
) -> tuple[int, int, int]:
    """How well a family fits: names that it has, inputs as wide as its own, what the metadata says."""
    table = by_spelling(family)
    known = fitting = 0
    columns: dict[str, int] = {}
    for name, found in parted.items():
        if found is None or found[0] not in table:
            continue
        known += 1
        target, _ = table[found[0]]
        if found[1] in _INPUT_ROLES:
            fitting += _fits(target, family, shapes[name][1:])
        elif found[1] in _KRONECKER:
            axes = shapes[name][2:] if found[1] == "lokr_t2" else shapes[name][1:]
            columns[found[0]] = columns.get(found[0], 1) * prod(axes)
    fitting += sum(_fits(table[module][0], family, (width,)) for module, width in columns.items())
    return known, fitting, said_family(metadata) == family


def _fits(target: Target, family: str | Family, axes: Shape) -> int:
    """2 where axes behind the first are those of the module, 1 where only their product is."""
    wanted = [module_shape(target, family, widths)[1:] for widths in ("real", "narrow")]
    if axes in wanted:
        return 2
    return int(any(prod(axes) == prod(w) for w in wanted))
