"""The same tensor in several checkpoints: which keys all of them have with one shape, and why others are left out."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import prod

from ..checkpoints.checkpoint import Checkpoint, TensorInfo
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.tensors import Shape
from ..checkpoints.text import readable


@dataclass(frozen=True, slots=True)
class Aligned:
    """A tensor that several checkpoints have, with the same shape; `infos` has one entry per checkpoint."""

    key: str
    infos: tuple[TensorInfo, ...]

    @property
    def shape(self) -> Shape:
        return self.infos[0].shape

    @property
    def elements(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of this tensor in all checkpoints together."""
        return sum(info.nbytes for info in self.infos)

    @property
    def label(self) -> str:
        return self.infos[0].label

    @property
    def component(self) -> str:
        return self.infos[0].component

    @property
    def kind(self) -> str:
        return self.infos[0].kind

    @property
    def dtypes(self) -> str:
        """`F16` where all agree, else each checkpoint's in order: `F16, F32`."""
        names = [info.dtype.name for info in self.infos]
        return names[0] if len(set(names)) == 1 else ", ".join(names)

    @property
    def is_float(self) -> bool:
        return all(info.dtype.is_float for info in self.infos)


@dataclass(frozen=True, slots=True)
class Alignment:
    """What checkpoints have in common: `tensors` in the first one's file order, and key -> reason for all others."""

    tensors: tuple[Aligned, ...]
    left_out: dict[str, str]


def align(checkpoints: Sequence[Checkpoint], keys: Collection[str] | None = None) -> Alignment:
    """The tensors that all checkpoints have with equal shapes, whatever their containers and dtypes.

    Args:
        checkpoints: one or more.
        keys: look at these alone; a key that no checkpoint has is left out with that reason.

    Raises:
        UnetscopeError: a file is a LoRA or ControlNet, or the checkpoints share no tensor.
    """
    _check(checkpoints)
    names = distinct_names(checkpoints)
    wanted = dict.fromkeys(key for checkpoint in checkpoints for key in checkpoint.tensors)
    if keys is not None:
        chosen = set(keys)
        wanted = dict.fromkeys([*(key for key in wanted if key in chosen), *sorted(chosen - set(wanted))])
    tensors, left_out = [], {}
    for key in wanted:
        reason = _reason(key, checkpoints, names)
        if reason:
            left_out[key] = reason
        else:
            tensors.append(Aligned(key, tuple(checkpoint[key] for checkpoint in checkpoints)))
    if not tensors:
        kinds = "; ".join(f"{name}: {c.architecture.name}" for name, c in zip(names, checkpoints, strict=True))
        raise UnetscopeError(f"no tensor to compare: no key is in all files with one shape ({kinds})")
    return Alignment(tuple(tensors), left_out)


def _check(checkpoints: Sequence[Checkpoint]) -> None:
    if not checkpoints:
        raise UnetscopeError("nothing to measure: name at least one checkpoint")
    for checkpoint in checkpoints:
        if checkpoint.architecture.what in ("lora", "controlnet"):
            raise UnetscopeError(
                f"{checkpoint.path}: is {checkpoint.architecture.name}; it holds changes to a model and no model, "
                "so give checkpoints or their parts"
            )


# Why a key is left out whose shape is another one in another file.
SHAPES = "shapes differ"


def _reason(key: str, checkpoints: Sequence[Checkpoint], names: Sequence[str]) -> str:
    """Why a key is left out, in words; empty when it is not."""
    having = [name for name, checkpoint in zip(names, checkpoints, strict=True) if key in checkpoint]
    if not having:
        return "in no file"
    if len(having) < len(names):
        return "only in " + ", ".join(having) if len(having) <= len(names) / 2 else "not in " + _others(names, having)
    shapes = {checkpoint[key].shape for checkpoint in checkpoints}
    if len(shapes) > 1:
        each = (f"{list(c[key].shape)} in {name}" for name, c in zip(names, checkpoints, strict=True))
        return f"{SHAPES}: " + ", ".join(each)
    return ""


def _others(names: Sequence[str], having: Sequence[str]) -> str:
    return ", ".join(name for name in names if name not in having)


def distinct_names(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """A short name for each checkpoint: its file name without suffix, with more of the path where two agree."""
    paths = [checkpoint.path.absolute() for checkpoint in checkpoints]
    names = [readable(path.name if path.is_dir() else path.stem) for path in paths]
    if len(set(names)) < len(names):
        full = [readable(path.name) for path in paths]
        names = [f if names.count(n) > 1 else n for n, f in zip(names, full, strict=True)]
    if len(set(names)) < len(names):
        longer = [f"{readable(path.parent.name)}/{n}" for path, n in zip(paths, names, strict=True)]
        names = [more if names.count(n) > 1 else n for n, more in zip(names, longer, strict=True)]
    seen: dict[str, int] = {}
    out = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        out.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(out)
