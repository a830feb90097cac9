"""Whose names a LoRA's tensors have: the family, the style, and the module of each tensor."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from math import prod
from pathlib import Path

from ..errors import CheckpointError
from ..families import Family, family_of
from ..recognition.architecture import known_id, recognise
from ..recognition.other_models import foreign_model, name_forms
from ..tensors import Shape
from ..text import counted, some
from .names import Named, Style, Target, has_own_names, lora_families, module_shape, reader_for
from .numbered import NAME, is_numbered, numbered_targets
from .own import dotted, own_names
from .recognised import Members, Recognised
from .roles import Parted, refused_kind, split
from .trainer import said_family

_INPUT_ROLES = ("down", "hada_w1_b", "diff")
# The sides of a Kronecker product: their columns multiplied are the inputs.
_KRONECKER = ("lokr_w1", "lokr_w1_b", "lokr_w2", "lokr_w2_b", "lokr_t2")
_TEXT = re.compile(r"lora_te\d?_|(base_model\.model\.)?text_encoder")
# What stands before names that are written with `_` for dots.
_FLAT = ("lora_", "lycoris_")


def recognise_names(
    path: Path,
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
    family: str | Family | None = None,
    adapter: str | None = None,
) -> Recognised:
    """Sort a LoRA's tensors by module.

    Args:
        path: of the file, for messages.
        shapes: the file's names -> shapes.
        metadata: of the header; says the family where names and widths do not.
        family: when it is known already.
        adapter: the one that is meant where the file holds several, by PEFT's names.

    Raises:
        CheckpointError: none of the names is known, a kind is not supported, or there are several adapters and none is meant.
    """
    for name in shapes:
        if kind := refused_kind(name):
            raise CheckpointError(
                f"{path}: {name} belongs to {kind}, which is not supported; merge it into a checkpoint with the tool that "
                "made it, and extract a LoRA from that"
            )
    families = (family,) if family is not None else lora_families()
    if is_numbered(list(shapes)):
        _others(path, (), adapter)
        return _numbered(path, shapes, families)
    return _spelled(path, shapes, metadata, families, adapter, alone=family is None)


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
    path: Path,
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
    families: Sequence[str | Family],
    adapter: str | None,
    alone: bool = False,
) -> Recognised:
    """The tensors by module; `alone`: no model is given, so that names of no known family may be the LoRA's own."""
    parted = {name: _parted(name, shapes) for name in shapes}
    adapters = tuple(dict.fromkeys(found.adapter for found in parted.values() if found and found.adapter))
    others = _others(path, adapters, adapter)
    parted = {name: found for name, found in parted.items() if found is None or found.adapter not in others}
    by_name = dict.fromkeys(found.module for found in parted.values() if found)
    known = {family: {name: reader_for(family).find(name) for name in by_name} for family in families}
    family = max(families, key=lambda f: _likelihood(f, known[f], parted, shapes, metadata))
    modules: dict[Target, Members] = {}
    unknown: list[str] = []
    styles: Counter[Style] = Counter()
    for name, found in parted.items():
        named = known[family][found.module] if found else None
        if named is None:
            unknown.append(name)
            continue
        members = modules.setdefault(named.target, Members(found.module))
        if found.role in members.tensors:
            raise CheckpointError(
                f"{path}: {found.module}: {members.tensors[found.role]} and {name} are the same tensor of it twice"
            )
        members.tensors[found.role] = name
        styles[_style(found, named, family_of(family))] += 1
    strangers = [parted[name].module for name in unknown if parted[name]]
    if alone and _of_no_family(strangers, modules) and (own := own_names(parted, shapes)):
        return _spelled(path, shapes, metadata, (own,), adapter)
    _refuse_strangers(path, families, shapes, modules, strangers)
    return Recognised(family, styles.most_common(1)[0][0], modules, unknown, adapters)


def _others(path: Path, adapters: Sequence[str], chosen: str | None) -> set[str]:
    """The adapters of a file that are not meant."""
    named = ", ".join(adapters)
    if chosen is None and len(adapters) > 1:
        raise CheckpointError(
            f"{path}: holds {len(adapters)} adapters ({named}), which are never mixed; say which is meant: --adapter "
            f"{adapters[0]}, in a recipe adapter: {adapters[0]}"
        )
    if chosen is not None and chosen not in adapters:
        held = f"it holds {named}" if adapters else "its names tell of none"
        raise CheckpointError(f"{path}: holds no adapter {chosen!r}; {held}")
    return set(adapters) - {chosen} if chosen is not None else set()


def _style(parted: Parted, named: Named, family: Family) -> Style:
    """Whose way of naming a tensor's name shows."""
    if named.single and not has_own_names(family):
        return "single-file"
    if parted.peft:
        return "peft"
    if "." not in parted.module and parted.module.startswith(_FLAT):
        return "kohya"
    return "peft" if has_own_names(family) else "diffusers"


def _refuse_strangers(
    path: Path,
    families: Sequence[str | Family],
    shapes: Mapping[str, Shape],
    modules: Mapping[Target, Members],
    strangers: Sequence[str],
) -> None:
    """Refuse files that are not LoRAs, and LoRAs for other models: those share at most a text encoder with ours.

    Args:
        strangers: names of modules that are none of the family's.
    """
    records = [family_of(family) for family in families]
    ids = ", ".join(known_id(record) or record.title for record in records)
    if not modules:
        found = recognise(shapes, list(shapes))
        if found.what in ("checkpoint", "component"):
            raise CheckpointError(
                f"{path}: expected a LoRA, found {found.name}; a LoRA can be extracted from it and its base"
            )
        if not strangers:
            names = ", ".join(list(shapes)[:3]) or "no tensors"
            raise CheckpointError(
                f"{path}: expected a LoRA for {ids}, found no name of one ({names}); it is not a LoRA"
            )
    if _of_no_family(strangers, modules):
        of_all = list(dict.fromkeys([name for name in strangers if not _TEXT.match(name)] or strangers))
        shown = foreign_model(name_forms([dotted(name) for name in of_all]), has_unet=False)
        whose = f"one for another architecture, {shown}" if shown else "layers that none of these has"
        raise CheckpointError(
            f"{path}: expected a LoRA for {ids}, found {whose}: {counted(len(of_all), 'layer')}, {some(of_all, 2)}"
        )


def _of_no_family(strangers: Sequence[str], modules: Mapping[Target, Members]) -> bool:
    """Whether a LoRA's layers are those of a model that is not known here, but for text encoders like ours."""
    return any(not modules or not _TEXT.match(name) for name in strangers) and not any(t.core for t in modules)


def _parted(name: str, shapes: Mapping[str, Shape]) -> Parted | None:
    """A name in its parts; None for an unknown ending, and for that of a model's own weight.

    LyCORIS' (IA)^3 ends like one, but says next to it on which side it multiplies.
    """
    found = split(name)
    plain = found is not None and found.role == "ia3" and f"{found.module}.on_input" not in shapes
    return None if plain else found


def _likelihood(
    family: str | Family,
    modules: Mapping[str, Named | None],
    parted: Mapping[str, Parted | None],
    shapes: Mapping[str, Shape],
    metadata: Mapping[str, str],
) -> tuple[int, int, int]:
    """How well a family fits: names that it has, inputs as wide as its own, what the metadata says."""
    known = fitting = 0
    columns: dict[Target, int] = {}
    for name, found in parted.items():
        named = modules[found.module] if found else None
        if named is None:
            continue
        known += 1
        if found.role in _INPUT_ROLES:
            fitting += _fits(named.target, family, shapes[name][1:])
        elif found.role in _KRONECKER:
            axes = shapes[name][2:] if found.role == "lokr_t2" else shapes[name][1:]
            columns[named.target] = columns.get(named.target, 1) * prod(axes)
    fitting += sum(_fits(target, family, (width,)) for target, width in columns.items())
    return known, fitting, said_family(metadata) == family


def _fits(target: Target, family: str | Family, axes: Shape) -> int:
    """2 where axes behind the first are those of the module, 1 where only their product is."""
    wanted = [module_shape(target, family, widths)[1:] for widths in ("real", "narrow")]
    if axes in wanted:
        return 2
    return int(any(prod(axes) == prod(w) for w in wanted))
