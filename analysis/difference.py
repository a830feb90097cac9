"""Two checkpoints, element by element: how far apart they are, where, and whether they would merge well.

`diff(a, b, base)` reads each file once and keeps the terms of every metric per tensor; a table by layer, label or
component adds terms up before it divides.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.kernels import kernel
from ..checkpoints.kernels.definitions import BASE_TERMS, PAIR_TERMS
from ..checkpoints.notices import Notice
from ..checkpoints.stream import Progress, Span
from .alignment import Aligned, Alignment, align, distinct_names
from .grouping import By, describe, group, is_weight
from .metrics import BASE_METRICS, PAIR_METRICS, base_metrics, pair_metrics
from .reduce import Blocks, reduce_aligned, same_bits

# How many elements the sums are over; how many were dropped; whether every bit is the same; whether it is, or would be
# if the wider side were rounded to the dtype of the narrower one.
_REST = ("counted", "not_finite", "identical", "equal")
_COLUMNS = (*PAIR_TERMS, *BASE_TERMS, *_REST)
_MAX = PAIR_TERMS.index("max_d")

# Tensors of two checkpoints that their base lacks.
BASE_LACKING = "difference.base_lacking"


@dataclass(frozen=True)
class Difference:
    """What was measured between two checkpoints.

    Attributes:
        a, b: their names. base: the name of the common ancestor, None without one.
        terms: one row per tensor: description, and the terms that metrics are made of.
        left_out: key, label, component, reason: what one side lacks, or has in another shape.
        notes: what else to know.
    """

    a: str
    b: str
    base: str | None
    terms: pd.DataFrame
    left_out: pd.DataFrame
    notes: tuple[Notice, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of the metrics that tables of this difference have."""
        return (*PAIR_METRICS, *BASE_METRICS) if self.base else tuple(PAIR_METRICS)

    def table(self, by: By = "tensor", sort: str | None = None) -> pd.DataFrame:
        """The metrics per tensor, layer, label, component, or kind of layer in each label.

        Columns: what the row is; `tensors` and `parameters`; `dtypes` (of a, and of b where it differs); the metrics; then
        `not_finite` (elements that are NaN or infinite in one of the files, counted nowhere else), `identical` (every bit is
        the same) and `equal_rounded` (dtypes differ, and one side is the other one rounded). Integers have no metrics: they
        are identical or not.

        Args:
            by: what a row is.
            sort: a metric, largest first; None for network order.

        Raises:
            UnetscopeError: no such grouping or metric.
        """
        if sort is not None and sort not in self.metrics:
            raise UnetscopeError(f"there is no metric {sort!r}; there are {', '.join(self.metrics)}")
        terms = group(self.terms, by, largest=["max_d"], every=["identical", "equal"])
        described = terms.drop(columns=[*_COLUMNS, *(["layer"] if by == "tensor" else [])])
        measures = [pair_metrics(terms), base_metrics(terms)] if self.base else [pair_metrics(terms)]
        flags = terms[["not_finite", "identical"]].assign(equal_rounded=terms["equal"] & ~terms["identical"])
        out = pd.concat([described, *measures, flags], axis=1)
        return out.sort_values(sort, ascending=False, ignore_index=True) if sort else out

    def overall(self) -> pd.Series:
        """The metrics of the whole model: everything but EMA, schedule buffers, markers and unknown keys."""
        kept = self.terms[is_weight(self.terms)]
        whole = replace(self, terms=(kept if len(kept) else self.terms).assign(component="model"))
        return whole.table("component").iloc[0].drop("component")


def diff(
    a: Checkpoint,
    b: Checkpoint,
    base: Checkpoint | None = None,
    *,
    keys: Collection[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Difference:
    """Measure what `b` changed against `a`, in one pass over the files.

    Args:
        a: the checkpoint that differences are relative to.
        b: the other one; containers and dtypes may differ.
        base: a common ancestor of both, for the task-vector metrics.
        keys: only these tensors.
        threads: None for as many as there are cores, at most 8; the result does not depend on it.
        progress: called with bytes done, bytes in all, and a key.
        cancel: stops the pass when it is set.

    Raises:
        UnetscopeError: they share no tensor, or one of them is a LoRA.
        Cancelled: `cancel` was set.

    Example:
        >>> from unetscope.checkpoints import open_checkpoint
        >>> with open_checkpoint("a.safetensors") as a, open_checkpoint("b.safetensors") as b:
        ...     found = diff(a, b)
        >>> print(found.table("label")[["label", "relative_l2", "changed"]])  # all of it, by twice of what was there
              label  relative_l2  changed
        0  LAYERS00          2.0      1.0
        1  LAYERS01          2.0      1.0
        2  LAYERS02          2.0      1.0
    """
    checkpoints = [a, b] if base is None else [a, b, base]
    names = distinct_names(checkpoints)
    alignment, notes = _with_base(align([a, b], keys), base, names[-1])
    values = np.zeros((len(alignment.tensors), len(_COLUMNS)))
    values[:, -2:] = 1

    def take(index: int, part: np.ndarray) -> None:
        row = values[index]
        largest = max(row[_MAX], part[_MAX])
        row[:-2] += part[:-2]
        row[_MAX] = largest
        row[-2:] = np.minimum(row[-2:], part[-2:])

    reduce_aligned(
        checkpoints,
        alignment.tensors,
        lambda length: _reduction(Blocks(len(checkpoints), length)),
        take,
        threads=threads,
        progress=progress,
        cancel=cancel,
    )
    described = describe([replace(tensor, infos=tensor.infos[:2]) for tensor in alignment.tensors])
    kinds = dict.fromkeys(_REST[:2], np.int64) | dict.fromkeys(_REST[2:], bool)
    terms = pd.concat([described, pd.DataFrame(values, columns=list(_COLUMNS)).astype(kinds)], axis=1)
    return Difference(names[0], names[1], names[2] if base else None, terms, _left_out(alignment, a, b), notes)


def _with_base(alignment: Alignment, base: Checkpoint | None, base_name: str) -> tuple[Alignment, tuple[Notice, ...]]:
    """Add the base's tensors to what a and b share, where it has them in the same shape."""
    if base is None:
        return alignment, ()
    align([base])
    tensors, lacking = [], 0
    for tensor in alignment.tensors:
        info = base.tensors.get(tensor.key)
        if info is not None and info.shape == tensor.shape:
            tensor = replace(tensor, infos=(*tensor.infos, info))
        else:
            lacking += 1
        tensors.append(tensor)
    if lacking == len(tensors):
        raise UnetscopeError(f"{base.path}: shares no tensor with the two checkpoints; it cannot be their base")
    text = f"{base_name} lacks {lacking} of {len(tensors)} tensors in their shape; its metrics are of the others"
    note = Notice(BASE_LACKING, text, (base_name,))
    return Alignment(tuple(tensors), alignment.left_out), (note,) if lacking else ()


def _reduction(blocks: Blocks):
    def reduction(tensor: Aligned, piece: Span, rows: Sequence[np.ndarray]) -> np.ndarray:
        out = np.zeros(len(_COLUMNS))
        identical = same_bits(rows[:2], [info.dtype.name for info in tensor.infos[:2]]) == (0, 0)
        if not tensor.is_float:
            out[-2:] = identical
            return out
        equal, at = identical or _dtypes_differ(tensor), 0
        for values in blocks.split(tensor, rows):
            if equal and not identical:
                equal = _equal_rounded(tensor, values, rows, at)
            at += values.shape[1]
            sums = _sums(values)
            if not np.isfinite(sums).all():
                values = np.ascontiguousarray(values[:, np.isfinite(values).all(axis=0)])
                sums = _sums(values)
            largest = max(out[_MAX], sums[_MAX])
            out[: sums.size] += sums
            out[_MAX] = largest
            out[-4] += values.shape[1]
        out[-3:] = piece.elements - out[-4], identical, equal
        return out

    return reduction


def _sums(values: np.ndarray) -> np.ndarray:
    """The terms of a block: of the pair, and of the pair and its base when there are three rows."""
    sums, pairs = np.zeros(len(PAIR_TERMS) + len(BASE_TERMS)), len(PAIR_TERMS)
    kernel().pair_sums(values[0], values[1], sums[:pairs])
    if len(values) == 3:
        kernel().base_sums(values[0], values[1], values[2], sums[pairs:])
    return sums


def _dtypes_differ(tensor: Aligned) -> bool:
    return tensor.infos[0].dtype != tensor.infos[1].dtype


def _equal_rounded(tensor: Aligned, values: np.ndarray, rows: Sequence[np.ndarray], start: int) -> bool:
    """Whether the narrower side's elements from `start` on are the wider side's `values`, rounded to its dtype."""
    a, b = (info.dtype for info in tensor.infos[:2])
    wide, dtype, raw = (values[0], b, rows[1]) if b.size <= a.size else (values[1], a, rows[0])
    made = np.empty(wide.size * dtype.size, np.uint8)
    kernel().encode(wide.astype(np.float32), dtype, made)
    return np.array_equal(made, raw[start * dtype.size :][: made.size])


def _left_out(alignment: Alignment, a: Checkpoint, b: Checkpoint) -> pd.DataFrame:
    rows = []
    for key, reason in alignment.left_out.items():
        info = a.tensors.get(key) or b.tensors.get(key)
        rows.append((key, info.label if info else "", info.component if info else "", reason))
    return pd.DataFrame(rows, columns=["key", "label", "component", "reason"])
