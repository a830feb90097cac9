"""The moving average of a denoiser, which training keeps as `model_ema.*`, the dots of the names taken out."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import cache

from ..families import EMA_PREFIX, FAMILIES, MOST_STRANGE, Family
from ..tensors import Shape

# A pruned file may keep the average's two counters.
_LEAST = 3


def averaged_name(key: str) -> str:
    """What the average of a denoiser's tensor is called, by its key."""
    return EMA_PREFIX + key.removeprefix("model.").replace(".", "")


@cache
def averaged_keys(family: Family) -> Mapping[str, str]:
    """The average's names -> the denoiser's keys, of a family's layout."""
    keys = (family.prefix + name for name in family.core_names)
    return {averaged_name(key): key for key in keys}


def averaged_denoiser(shapes: Mapping[str, Shape]) -> list[dict[str, Shape]]:
    """The denoisers that the average in a file may be one of, each under the keys of a family's layout, the fullest first."""
    average = {key: shape for key, shape in shapes.items() if key.startswith(EMA_PREFIX)}
    if len(average) < _LEAST:
        return []
    found = []
    for family in FAMILIES.values():
        keys = averaged_keys(family)
        named = {keys[name]: shape for name, shape in average.items() if name in keys}
        if len(average) - len(named) <= MOST_STRANGE * len(average):
            found.append(named)
    return sorted(found, key=lambda named: -len(named))


def lacking(family: Family, keys: Collection[str]) -> list[str]:
    """The keys of a family's denoiser whose average is not among `keys`."""
    return sorted(key for name, key in averaged_keys(family).items() if name not in keys)
