"""A checkpoint seen with the moving average of its UNET, which unpruned files hold beside the UNET itself."""

from __future__ import annotations

from dataclasses import replace

from ..checkpoints import Checkpoint
from ..checkpoints.wording import counted
from .errors import MergeError

_UNET, _EMA = "model.", "model_ema."


def with_ema(checkpoint: Checkpoint, name: str) -> Checkpoint:
    """The same checkpoint, its UNET's tensors those of the EMA copy (`model_ema.*`, the dots of the names taken out).

    Raises:
        MergeError: it holds no EMA copy, or one that lacks tensors; `name` is the model's in the recipe.
    """
    tensors, lacking = dict(checkpoint.tensors), []
    for key, info in checkpoint.tensors.items():
        if not info.place.core:
            continue
        found = checkpoint.tensors.get(_EMA + key.removeprefix(_UNET).replace(".", ""))
        if found is None or found.shape != info.shape:
            lacking.append(key)
        else:
            tensors[key] = replace(info, stored=found.stored)
    if lacking:
        what = (
            "no EMA weights"
            if len(lacking) == sum(t.place.core for t in checkpoint.tensors.values())
            else (f"EMA weights that lack {counted(len(lacking), 'tensor')} ({lacking[0]}, ...)")
        )
        raise MergeError(f"{name} ({checkpoint.path}): holds {what}; leave exchange_ema out for this file")
    return replace(checkpoint, tensors=tensors)
