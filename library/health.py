"""What is wrong with a checkpoint's values, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Literal

import numpy as np

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.dtypes import DType
from ..checkpoints.families import BUFFERS
from ..checkpoints.families.parts.position_ids import is_position_ids
from ..checkpoints.notices import Notice, Severity, worst_first
from ..checkpoints.text import counted, file_size, listed
from .fingerprint import short_name
from .inspection import absent_components, missing_weights
from .needless import EMA, needless

Level = Literal["broken", "suspect", "note"]
_LEVELS: dict[Severity, Level] = {"error": "broken", "warning": "suspect", "note": "note"}
# NaN or infinite weights: what a merge stops at.
NOT_FINITE = "health.not_finite"
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


def level(notice: Notice) -> Level:
    """How bad it is for a file: `broken` spoils pictures, `suspect` may, a `note` is worth knowing."""
    return _LEVELS[notice.severity]


def in_words(notice: Notice) -> str:
    """A finding as a line: `broken: ...`."""
    return f"{level(notice)}: {notice.text}"


def to_plain(notice: Notice) -> dict[str, str]:
    """A finding for JSON."""
    return {"level": level(notice), "text": notice.text, "code": notice.code}


def look_at_position_ids(values: np.ndarray, dtype: DType) -> PositionIds:
    """Judge position ids by their values: raw bytes (uint8) of an integer dtype, numbers of a float one."""
    numbers = values if dtype.is_float else values.view(dtype.bits)
    if not np.array_equal(numbers, np.arange(numbers.size)):
        return PositionIds.OFF
    return PositionIds.FLOAT if dtype.is_float else PositionIds.SOUND


def findings(
    checkpoint: Checkpoint, values: dict[str, TensorValues], position_ids: dict[str, PositionIds]
) -> tuple[Notice, ...]:
    """What a scan found, worst first."""
    found = [
        *_not_finite(checkpoint, values),
        *_missing(checkpoint),
        *_positions(position_ids),
        *_zero(checkpoint, values),
        *_too_large(checkpoint, values),
        *_ballast(checkpoint),
    ]
    return tuple(worst_first(found))


def _is_weight(checkpoint: Checkpoint, key: str) -> bool:
    """Whether a key is of the weights that a model is made of."""
    return checkpoint.tensors[key].component not in BUFFERS


def _not_finite(checkpoint: Checkpoint, values: dict[str, TensorValues]) -> list[Notice]:
    out = []
    places: tuple[tuple[bool, str, Severity, str], ...] = (
        (True, NOT_FINITE, "error", ""),
        (False, "health.not_finite_beside", "note", " outside the model's own weights"),
    )
    for weights, code, severity, where in places:
        for kind, counts in (("NaN", {k: v.nan for k, v in values.items()}), ("infinite", _counts(values, "inf"))):
            hit = {k: n for k, n in counts.items() if n and _is_weight(checkpoint, k) == weights}
            if hit:
                named = listed([f"{key} ({counted(n, 'value')})" for key, n in hit.items()], _SHOWN)
                text = f"{_tensors(len(hit))} with {kind} values{where}, {sum(hit.values()):,} in all: {named}"
                out.append(Notice(code, text, tuple(hit), severity))
    return out


def _counts(values: dict[str, TensorValues], name: str) -> dict[str, int]:
    return {key: getattr(found, name) for key, found in values.items()}


def _missing(checkpoint: Checkpoint) -> list[Notice]:
    if checkpoint.architecture.what not in ("checkpoint", "component"):
        return []
    out = []
    for component, keys in missing_weights(checkpoint).items():
        needed = [key for key in keys if short_name(key) is not None]
        unused = [key for key in keys if key not in needed]
        if needed:
            text = f"{component} lacks {_tensors(len(needed))} of its layout: {listed(needed, _SHOWN)}"
            out.append(Notice("health.lacking", text, (component, *needed), "error"))
        if unused:
            text = f"{component} lacks {_tensors(len(unused))} that nothing uses: {listed(unused, _SHOWN)}"
            out.append(Notice("health.lacking_unused", text, (component, *unused)))
    if checkpoint.architecture.ema_only:
        core = checkpoint.family.core_title
        text = (
            f"the {core} is there as EMA weights only, which programs do not read: exchange_ema puts them in its place"
        )
        out.append(Notice("health.ema_only", text, (checkpoint.family.core,), "warning"))
    if absent := absent_components(checkpoint):
        text = f"there is no {', no '.join(absent)} in it: programs will take another file's"
        out.append(Notice("health.absent", text, tuple(absent)))
    return out


def _positions(position_ids: dict[str, PositionIds]) -> list[Notice]:
    severity: dict[PositionIds, Severity] = {PositionIds.OFF: "warning", PositionIds.FLOAT: "note"}
    effect = {PositionIds.OFF: "; programs that use them misplace words", PositionIds.FLOAT: ""}
    mend = "(convert with --fix-position-ids mends that)"
    return [
        Notice("health.position_ids", f"{ids.value}{effect[ids]} {mend}", (), severity[ids]).of(key)
        for key, ids in position_ids.items()
        if ids in severity
    ]


def _zero(checkpoint: Checkpoint, values: dict[str, TensorValues]) -> list[Notice]:
    zero = [k for k, v in values.items() if v.zero and _is_weight(checkpoint, k) and not is_position_ids(k)]
    weights = [k for k in zero if len(checkpoint[k].shape) > 1]
    vectors = [k for k in zero if len(checkpoint[k].shape) == 1]
    out = []
    if weights:
        text = f"{_tensors(len(weights))} of weights all zero: {listed(weights, _SHOWN)}"
        out.append(Notice("health.zero_weights", text, tuple(weights), "warning"))
    if vectors:
        text = f"{_tensors(len(vectors))} of biases or norms all zero: {listed(vectors, _SHOWN)}"
        out.append(Notice("health.zero_vectors", text, tuple(vectors)))
    return out


def _too_large(checkpoint: Checkpoint, values: dict[str, TensorValues]) -> list[Notice]:
    hit = [key for key, found in values.items() if found.too_large and _is_weight(checkpoint, key)]
    if not hit:
        return []
    text = f"{_tensors(len(hit))} with values too large for fp16, which would be infinite: {listed(hit, _SHOWN)}"
    return [Notice("health.too_large", text, tuple(hit))]


def _ballast(checkpoint: Checkpoint) -> list[Notice]:
    """What makes the file larger and nothing better."""
    if checkpoint.architecture.what not in ("checkpoint", "component"):
        return []
    out, known = [], needless(checkpoint, by_name=True)
    for reason, keys in known.items():
        size = sum(checkpoint[key].nbytes for key in keys)
        # SD1 and SD2 files keep two counters of their EMA weights, of a few bytes.
        if reason != EMA or size > 1000:
            what = f"an {EMA} of the {checkpoint.family.core_title}" if reason == EMA else reason
            text = f"{what}: {_tensors(len(keys))}, {file_size(size)}; --prune drops it"
            out.append(Notice("health.needless", text, tuple(keys)))
    gone = {key for keys in known.values() for key in keys}
    unknown = [t for t in checkpoint.tensors.values() if t.component == "other" and t.key not in gone]
    if unknown:
        size = sum(t.nbytes for t in unknown)
        text = f"keys of no known component: {_tensors(len(unknown))}, {file_size(size)}; --prune keeps them"
        out.append(Notice("health.unknown", text, tuple(t.key for t in unknown)))
    return out


def _tensors(count: int) -> str:
    return counted(count, "tensor")
