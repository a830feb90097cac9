"""What a model file holds and no program that makes pictures needs: what `--prune` leaves out."""

from __future__ import annotations

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.families.parts.training import is_training_state

EMA, TRAINING, TWICE = "EMA copy", "left by training", "there twice"


def needless(checkpoint: Checkpoint, *, by_name: bool = False) -> dict[str, list[str]]:
    """Reason -> keys: the average of a denoiser that is there itself, what training left, and second copies of components.

    A second copy is a tensor of no known place whose name, behind its first words, is that of a component's tensor with the very
    same values. Values are read of such pairs only; `by_name` leaves them unread, and second copies out.
    """
    found: dict[str, list[str]] = {EMA: [], TRAINING: [], TWICE: []}
    for key, info in checkpoint.tensors.items():
        if info.component == "ema" and not checkpoint.architecture.ema_only:
            found[EMA].append(key)
        elif is_training_state(key):
            found[TRAINING].append(key)
        elif not by_name and info.component == "other" and _is_twice(checkpoint, info):
            found[TWICE].append(key)
    return {reason: keys for reason, keys in found.items() if keys}


def _is_twice(checkpoint: Checkpoint, info: TensorInfo) -> bool:
    """Whether a tensor's values are under the key of its component too."""
    twins = (key for key in _keys_of(checkpoint, info.key) if key in checkpoint and key != info.key)
    return any(_equal(checkpoint, info, checkpoint[twin]) for twin in twins)


def _keys_of(checkpoint: Checkpoint, name: str) -> list[str]:
    """What a key of a component would be called behind the component's own prefix, by what stands behind its first words."""
    family, found = checkpoint.family, []
    prefixes = [family.prefix, *(component.prefix for component in family.components)]
    words = name.split(".")
    for first in range(1, min(len(words), 6)):
        rest = ".".join(words[first:])
        found += [prefix + rest for prefix in prefixes if prefix]
    return found


def _equal(checkpoint: Checkpoint, one: TensorInfo, other: TensorInfo) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return bool((checkpoint.raw(one.key) == checkpoint.raw(other.key)).all())
