"""A sample of every model's weights, small enough for memory: the same elements of the same tensors of all."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from ...checkpoints.checkpoint import Checkpoint, TensorInfo
from ...checkpoints.kernels import kernel
from ...checkpoints.stream import Cancelled, Progress
from ...library.fingerprint import short_name
from ..evaluate import evaluate
from ..linear_combination import LinearCombination

# Tensors of a label, and elements of each; all models together hold at most as many elements as `_MOST`.
_PER_LABEL = 2
_ELEMENTS = 1 << 15
_MOST = 1 << 25


@dataclass
class Sample:
    """Sampled weights.

    Attributes:
        names: the models.
        keys: component -> keys of the tensors that were sampled.
        values: name -> key -> float32, 1-D; a model that lacks a tensor, or has it in another shape, has no entry.
        core: which component is the denoiser, and `core_title`, what people call it.
    """

    names: tuple[str, ...]
    keys: dict[str, tuple[str, ...]]
    values: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    core: str = ""
    core_title: str = ""

    def of(self, combination: LinearCombination, key: str) -> np.ndarray | None:
        """The values of a weighted sum of models (numbered as `names`); None when it is none, or a model lacks the tensor."""
        models = combination.linear_models()
        if not models or not all(i < len(self.names) for i in models):
            return None
        parts = {i: part for i in models if (part := self.values[self.names[i]].get(key)) is not None}
        return evaluate(combination, parts) if len(parts) == len(models) else None

    def distance(self, a: str, b: str, component: str) -> float | None:
        """|a - b| / |b| over a component's sampled weights; None where they share none, or one is not finite."""
        change, size = 0.0, 0.0
        for key in self.shared(a, b, component):
            x, y = (self.values[name][key].astype(np.float64) for name in (a, b))
            change, size = change + float(np.sum((x - y) ** 2)), size + float(np.sum(y**2))
        return float(np.sqrt(change / size)) if size > 0 and np.isfinite(change + size) else None

    def identical(self, a: str, b: str, component: str) -> bool:
        """Whether all of a component's sampled weights are equal."""
        keys = self.shared(a, b, component)
        return bool(keys) and all(np.array_equal(self.values[a][k], self.values[b][k], equal_nan=True) for k in keys)

    def shared(self, a: str, b: str, component: str) -> list[str]:
        """The sampled tensors of a component that both have."""
        return [k for k in self.keys.get(component, ()) if k in self.values[a] and k in self.values[b]]


def take_sample(
    models: Mapping[str, Checkpoint],
    *,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Sample:
    """Read some tensors of every block label, a stretch from the middle of each.

    Raises:
        CheckpointError: a file ends early.
        Cancelled: `cancel` was set.
    """
    first = next(iter(models.values()))
    keys = _chosen([info for info in first.tensors.values() if info.dtype.is_float and info.elements])
    count = sum(map(len, keys.values())) * len(models)
    length = max(1 << 10, min(_ELEMENTS, _MOST // max(count, 1)))
    sample, done = Sample(tuple(models), keys, core=first.family.core, core_title=first.family.core_title), 0
    for name, checkpoint in models.items():
        found = sample.values[name] = {}
        for key in (k for component in keys.values() for k in component):
            if cancel is not None and cancel.is_set():
                raise Cancelled("cancelled")
            if key in checkpoint and checkpoint[key].shape == first[key].shape and checkpoint[key].dtype.is_float:
                found[key] = _stretch(checkpoint, key, length)
            done += 1
            if progress:
                progress(done, count, key)
    return sample


def _chosen(tensors: Sequence[TensorInfo]) -> dict[str, tuple[str, ...]]:
    """A few weights of every label that fingerprints count: matrices before vectors, of different kinds of layers."""
    by_label: dict[str, list[TensorInfo]] = {}
    for info in tensors:
        if short_name(info.key, info.family) is not None:
            by_label.setdefault(info.label, []).append(info)
    chosen: dict[str, list[str]] = {}
    for members in by_label.values():
        weights = [info for info in members if info.key.endswith(".weight") and info.kind != "norm"] or members
        step = max(1, len(weights) // _PER_LABEL)
        for info in weights[step // 2 :: step][:_PER_LABEL]:
            chosen.setdefault(info.component, []).append(info.key)
    return {component: tuple(members) for component, members in chosen.items()}


def _stretch(checkpoint: Checkpoint, key: str, length: int) -> np.ndarray:
    info = checkpoint[key]
    count = min(length, info.elements)
    start = (info.elements - count) // 2
    raw, out = np.empty(count * info.dtype.size, np.uint8), np.empty(count, np.float32)
    checkpoint.read_raw(info, start, start + count, raw)
    kernel().decode(raw, info.dtype, out)
    return out
