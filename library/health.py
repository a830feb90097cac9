"""What is wrong with a checkpoint's values, in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.dtypes import DType
from ..checkpoints.families import BUFFERS
from ..checkpoints.families.parts.position_ids import is_position_ids
from ..checkpoints.wording import counted
from .fingerprint import short_name
from .inspection import absent_components, missing_weights
from .needless import EMA, needless

Level = Literal["broken", "suspect", "note"]
_SHOWN = 4


@dataclass(frozen=True, slots=True)
class TensorValues:
    """How many values of a tensor are NaN, infinite, or finite and too large for fp16; and whether all of them are zero."""

    nan: int = 0
    inf: int = 0
    too_large: int = 0
    zero: bool = False

    @property
    def remarkable(self) -> bool:
        return bool(self.nan or self.inf or self.too_large or self.zero)


class PositionIds(Enum):
    """What a text encoder's `position_ids` hold: they count 0..76, and averaging or rounding them has damaged many files."""

    SOUND = "integers 0..76"
    FLOAT = "0..76, stored as floats"
    OFF = "not 0..76"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something about a file: `broken` spoils pictures, `suspect` may, a `note` is worth knowing."""

    level: Level
    text: str

    def __str__(self) -> str:
        return f"{self.level}: {self.text}"


def look_at_position_ids(values: np.ndarray, dtype: DType) -> PositionIds:
    """Judge position ids by their values: raw bytes (uint8) of an integer dtype, numbers of a float one."""
    numbers = values if dtype.is_float else values.view(dtype.bits)
    if not np.array_equal(numbers, np.arange(numbers.size)):
        return PositionIds.OFF
    return PositionIds.FLOAT if dtype.is_float else PositionIds.SOUND


def findings(
    checkpoint: Checkpoint, values: dict[str, TensorValues], position_ids: dict[str, PositionIds]
) -> tuple[Finding, ...]:
    """What a scan found, worst first."""
    found = [
        *_not_finite(checkpoint, values),
        *_missing(checkpoint),
        *_positions(position_ids),
        *_zero(checkpoint, values),
        *_too_large(checkpoint, values),
        *_ballast(checkpoint),
    ]
    order = ("broken", "suspect", "note")
    return tuple(sorted(found, key=lambda finding: order.index(finding.level)))


def _is_weight(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a key is of the weights that a model is made of."""
    return checkpoint.tensors[key].component not in BUFFERS


def _not_finite(checkpoint: Checkpoint, values: dict[str, TensorValues]) -> list[Finding]:
    out = []
    for weights, level, where in ((True, "broken", ""), (False, "note", " outside the model's own weights")):
        for kind, counts in (("NaN", {k: v.nan for k, v in values.items()}), ("infinite", _counts(values, "inf"))):
            hit = {k: n for k, n in counts.items() if n and _is_weight(checkpoint, k) == weights}
            if hit:
                named = _listed([f"{key} ({n:,} values)" for key, n in hit.items()])
                out.append(
                    Finding(
                        level, f"{_tensors(len(hit))} with {kind} values{where}, {sum(hit.values()):,} in all: {named}"
                    )
                )
    return out


def _counts(values: dict[str, TensorValues], name: str) -> dict[str, int]:
    return {key: getattr(found, name) for key, found in values.items()}


def _missing(checkpoint: Checkpoint) -> list[Finding]:
    if checkpoint.architecture.what not in ("checkpoint", "component"):
        return []
    out = []
    for component, keys in missing_weights(checkpoint).items():
        needed = [key for key in keys if short_name(key) is not None]
        unused = [key for key in keys if key not in needed]
        if needed:
            out.append(Finding("broken", f"{component} lacks {_tensors(len(needed))} of its layout: {_listed(needed)}"))
        if unused:
            out.append(
                Finding("note", f"{component} lacks {_tensors(len(unused))} that nothing uses: {_listed(unused)}")
            )
    if checkpoint.architecture.ema_only:
        core = checkpoint.family.core_title
        text = (
            f"the {core} is there as EMA weights only, which programs do not read: exchange_ema puts them in its place"
        )
        out.append(Finding("suspect", text))
    if absent := absent_components(checkpoint):
        out.append(Finding("note", f"there is no {', no '.join(absent)} in it: programs will take another file's"))
    return out


def _positions(position_ids: dict[str, PositionIds]) -> list[Finding]:
    level: dict[PositionIds, Level] = {PositionIds.OFF: "suspect", PositionIds.FLOAT: "note"}
    remedy = {PositionIds.OFF: "; programs that use them misplace words", PositionIds.FLOAT: ""}
    return [
        Finding(level[ids], f"{key}: {ids.value}{remedy[ids]} (convert with --fix-position-ids mends that)")
        for key, ids in position_ids.items()
        if ids in level
    ]


def _zero(checkpoint: Checkpoint, values: dict[str, TensorValues]) -> list[Finding]:
    zero = [k for k, v in values.items() if v.zero and _is_weight(checkpoint, k) and not is_position_ids(k)]
    weights = [k for k in zero if len(checkpoint[k].shape) > 1]
    vectors = [k for k in zero if len(checkpoint[k].shape) == 1]
    out = []
    if weights:
        out.append(Finding("suspect", f"{_tensors(len(weights))} of weights all zero: {_listed(weights)}"))
    if vectors:
        out.append(Finding("note", f"{_tensors(len(vectors))} of biases or norms all zero: {_listed(vectors)}"))
    return out


def _too_large(checkpoint: Checkpoint, values: dict[str, TensorValues]) -> list[Finding]:
    hit = [key for key, found in values.items() if found.too_large and _is_weight(checkpoint, key)]
    if not hit:
        return []
    return [
        Finding("note", f"{_tensors(len(hit))} with values too large for fp16, which would be infinite: {_listed(hit)}")
    ]


def _ballast(checkpoint: Checkpoint) -> list[Finding]:
    """What makes the file larger and nothing better."""
    if checkpoint.architecture.what not in ("checkpoint", "component"):
        return []
    out, known = [], needless(checkpoint, by_name=True)
    for reason, keys in known.items():
        size = sum(checkpoint[key].nbytes for key in keys)
        # SD1 and SD2 files keep two counters of their EMA weights, of a few bytes.
        if reason != EMA or size > 1000:
            what = f"an {EMA} of the {checkpoint.family.core_title}" if reason == EMA else reason
            out.append(Finding("note", f"{what}: {_tensors(len(keys))}, {size / 1e6:,.1f} MB; --prune drops it"))
    gone = {key for keys in known.values() for key in keys}
    unknown = [t for t in checkpoint.tensors.values() if t.component == "other" and t.key not in gone]
    if unknown:
        size = sum(t.nbytes for t in unknown) / 1e6
        out.append(
            Finding("note", f"keys of no known component: {_tensors(len(unknown))}, {size:,.1f} MB; --prune keeps them")
        )
    return out


def _tensors(count: int) -> str:
    return counted(count, "tensor")


def _listed(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more:,} more" if more > 0 else "")
