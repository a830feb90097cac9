"""A checkpoint seen with the moving average of its UNET, which unpruned files hold beside the UNET itself."""

from __future__ import annotations

from dataclasses import replace

from ..checkpoints import Checkpoint
from ..checkpoints.recognition.averaged import averaged_keys, averaged_name, lacking
from ..checkpoints.text import counted
from .errors import MergeError


def with_ema(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The same checkpoint, its UNET's tensors those of the EMA copy (`model_ema.*`); where there is no other UNET, as one.

    Raises:
        MergeError: it holds no EMA copy, or one that lacks tensors; `name` is the model's in the recipe.
    """
    if checkpoint.architecture.ema_only:
        return _from_average(checkpoint, name)
    tensors, lost = dict(checkpoint.tensors), []
    for key, info in checkpoint.tensors.items():
        if not info.place.core:
            continue
        found = checkpoint.tensors.get(averaged_name(key))
        if found is None or found.shape != info.shape:
            lost.append(key)
        else:
            tensors[key] = replace(info, stored=found.stored)
    if lost:
        none = len(lost) == sum(t.place.core for t in checkpoint.tensors.values())
        what = "no EMA weights" if none else _lacks(lost)
        raise MergeError(f"{name} ({checkpoint.path}): holds {what}; leave exchange_ema out for this file")
    return replace(checkpoint, tensors=tensors)


def _from_average(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """A checkpoint whose UNET is there as EMA weights only, with them as its UNET."""
    family, architecture = checkpoint.family, checkpoint.architecture
    if lost := lacking(family, checkpoint.tensors):
        raise MergeError(f"{name} ({checkpoint.path}): holds {_lacks(lost)}, and no other UNET; take another file")
    keys = averaged_keys(family)
    tensors = {}
    for key, info in checkpoint.tensors.items():
        if key in keys:
            tensors[keys[key]] = replace(info, key=keys[key])
        elif info.component != "ema":
            tensors[key] = info
    parts = (family.core, *(part for part in architecture.parts if part != "ema"))
    whole = replace(architecture, ema_only=False, parts=parts)
    return replace(checkpoint, tensors=tensors, architecture=whole)


def _lacks(keys: list[str]) -> str:
    return f"EMA weights that lack {counted(len(keys), 'tensor')} ({keys[0]}, ...)"
