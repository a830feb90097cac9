"""A denoiser's names in the two layouts: its family's table of modules, and a finer one inside of residual blocks."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from ..families import FAMILIES, MOST_STRANGE, Family, family_by
from ..families.parts.part import Renamed, renamed
from ..families.parts.tables import inner_name, split_at, turned
from ..families.signs import Signs
from ..tensors import Shape, StoredTensor


@cache
def _modules(family: Family) -> dict[str, str]:
    """Single-file module -> diffusers module."""
    return dict(family.names(family.real)) if family.names else {}


@cache
def _from_diffusers(family: Family) -> tuple[dict[str, str], dict[str, str]]:
    return turned(_modules(family)), turned(dict(family.inside))


def key(name: str, family: Family) -> str | None:
    """The single-file name (without prefix) of a tensor that diffusers calls `name`; None when there is none."""
    modules, inside = _from_diffusers(family)
    found = split_at(name, modules)
    if found is None:
        return None
    module, rest = found
    inner = inner_name(rest, inside) if ".resnets." in module else rest
    return f"{modules[module]}.{inner}" if inner else None


def to_single_file(named: Mapping[str, StoredTensor], family: Family) -> Renamed:
    """A denoiser under diffusers' names -> under single-file names."""
    return renamed(named, lambda name: key(name, family))


def diffusers_name(name: str, family: Family) -> str | None:
    """The diffusers name of a tensor by its single-file name (without prefix); None when there is none."""
    found = split_at(name, _modules(family))
    if found is None:
        return None
    module = _modules(family)[found[0]]
    inner = inner_name(found[1], dict(family.inside)) if ".resnets." in module else found[1]
    return f"{module}.{inner}" if inner else None


def is_diffusers_unet(names: Collection[str]) -> bool:
    """Whether names are those of a whole `UNet2DConditionModel`: not of a ControlNet, not of a LoRA."""
    ends = {"conv_in.weight", "conv_out.weight", "time_embedding.linear_1.weight"}
    return ends <= set(names) and any(n.startswith("up_blocks.") for n in names)


def diffusers_family(shapes: Mapping[str, Shape]) -> str | None:
    """The family of a denoiser in diffusers naming, None when it is not a known one.

    It is the family that knows the translated names as its own; of several, the one that has a name for most of them, and of
    those with as many a kin, which has the whole layout. Where much has no name in any, it is another model.
    """
    best, most = None, (0, False)
    for family in FAMILIES.values():
        if not family.names:
            continue
        translated = {new: shape for name, shape in shapes.items() if (new := key(name, family)) is not None}
        score = len(translated), bool(family.parent)
        if score > most and family_by(Signs(translated)) is family:
            best, most = family.id, score
    return best if len(shapes) - most[0] <= MOST_STRANGE * len(shapes) else None
