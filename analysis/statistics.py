"""One checkpoint in numbers: moments, extremes, zeros, what is not finite, what fp16 would lose, and histograms."""

from __future__ import annotations

import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.dtypes import DType
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.kernels import kernel
from ..checkpoints.kernels.definitions import BINS, SHIFT, VALUE_TERMS
from ..checkpoints.stream import Progress, Span
from .alignment import Aligned, align, distinct_names
from .grouping import By, describe, group
from .reduce import Blocks, reduce_aligned

# From here on a value rounds to infinity in fp16.
_FP16_LIMIT = 65520.0
_REST = ("counted", "nan", "inf")
_COLUMNS = (*VALUE_TERMS, *_REST)
_MIN, _MAX = VALUE_TERMS.index("min"), VALUE_TERMS.index("max")
_EXTREMES = [_MIN, _MAX]

# What a table of statistics has for each row, with a line on what it is.
STATISTICS: dict[str, str] = {
    "mean": "mean of the values",
    "std": "standard deviation",
    "rms": "root mean square",
    "mean_abs": "mean size",
    "l1": "sum of sizes",
    "l2": "square root of the sum of squares",
    "min": "smallest value",
    "max": "largest value",
    "zeros": "share of values that are 0",
    "subnormal": "share of values below the normal range of their dtype: stored with fewer digits",
    "nan": "how many values are NaN",
    "inf": "how many values are infinite",
    "beyond_fp16": "how many finite values would be infinite in fp16",
    "vanishing_fp16": "share of values that are not 0 but would be in fp16",
}


@dataclass(frozen=True)
class Statistics:
    """What was measured of one checkpoint.

    Attributes:
        name: of the checkpoint.
        terms: one row per tensor: description, and the terms that statistics are made of.
        histograms: label -> how many values fall into each of `edges()`'s bins; finite floating point values only.
    """

    name: str
    terms: pd.DataFrame
    histograms: dict[str, np.ndarray]

    def table(self, by: By = "tensor", sort: str | None = None) -> pd.DataFrame:
        """The statistics per tensor, layer, label, component, or kind of layer in each label: see `STATISTICS`.

        Integer tensors are listed without statistics. Moments are of the finite values.

        Args:
            by: what a row is.
            sort: a column, largest first; None for network order.

        Raises:
            UnetscopeError: no such grouping or column.
        """
        if sort is not None and sort not in STATISTICS:
            raise UnetscopeError(f"there is no statistic {sort!r}; there are {', '.join(STATISTICS)}")
        terms = group(self.terms, by, largest=["max"], smallest=["min"])
        described = terms.drop(columns=[*_COLUMNS, *(["layer"] if by == "tensor" else [])])
        out = pd.concat([described, _statistics(terms)], axis=1)
        return out.sort_values(sort, ascending=False, ignore_index=True) if sort else out


def _statistics(terms: pd.DataFrame) -> pd.DataFrame:
    n = terms["counted"].where(terms["counted"] > 0)
    mean, square = terms["sum"] / n, terms["squares"] / n
    columns = {
        "mean": mean,
        "std": np.sqrt(np.maximum(square - mean**2, 0)),
        "rms": np.sqrt(square),
        "mean_abs": terms["sizes"] / n,
        "l1": terms["sizes"].where(n.notna()),
        "l2": np.sqrt(terms["squares"]).where(n.notna()),
        "min": terms["min"].where(n.notna()),
        "max": terms["max"].where(n.notna()),
        "zeros": terms["zeros"] / n,
        "subnormal": terms["subnormal"] / n,
        "nan": terms["nan"],
        "inf": terms["inf"],
        "beyond_fp16": terms["beyond_fp16"].astype(np.int64),
        "vanishing_fp16": terms["vanishing_fp16"] / n,
    }
    return pd.DataFrame({name: columns[name] for name in STATISTICS}, index=terms.index)


def edges() -> np.ndarray:
    """The bounds of the histogram's bins, ascending, `BINS` + 1 of them: four bins per octave on each side of 0.

    Bin i counts values from edge i up to (on the negative side: after) edge i + 1. The outermost bins belong to values
    that are not finite and stay empty.
    """
    codes = np.arange(BINS // 2 + 1, dtype=np.uint64) << SHIFT
    positive = np.minimum(codes, 0x7F800000).astype(np.uint32).view(np.float32).astype(np.float64)
    return np.concatenate([-positive[:0:-1], positive])


def measure(
    checkpoint: Checkpoint,
    *,
    keys: Collection[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Statistics:
    """Measure every tensor of a checkpoint, in one pass over the file.

    Args:
        checkpoint: anything that `open_checkpoint` opens, a LoRA excepted.
        keys: only these tensors.
        threads: None for as many as there are cores, at most 8; the result does not depend on it.
        progress: called with bytes done, bytes in all, and a key.
        cancel: stops the pass when it is set.

    Raises:
        UnetscopeError: nothing to measure, or it is a LoRA.
        Cancelled: `cancel` was set.

    Example:
        >>> from unetscope.checkpoints import open_checkpoint
        >>> with open_checkpoint("c.safetensors") as model:
        ...     print(measure(model).table("label")[["label", "mean", "zeros"]])
              label  mean  zeros
        0  LAYERS00   0.0    1.0
        1  LAYERS01   1.0    0.0
        2  LAYERS02   2.0    0.0
    """
    tensors = align([checkpoint], keys).tensors
    values = np.zeros((len(tensors), len(_COLUMNS)))
    values[:, _EXTREMES] = np.inf, -np.inf
    counts: dict[str, np.ndarray] = {}

    def take(index: int, part: tuple[np.ndarray, np.ndarray]) -> None:
        sums, histogram = part
        row = values[index]
        low, high = min(row[_MIN], sums[_MIN]), max(row[_MAX], sums[_MAX])
        row += sums
        row[_EXTREMES] = low, high
        label = tensors[index].label
        counts[label] = counts[label] + histogram if label in counts else histogram

    reduce_aligned(
        [checkpoint],
        tensors,
        lambda length: _reduction(Blocks(1, length)),
        take,
        threads=threads,
        progress=progress,
        cancel=cancel,
    )
    kinds = dict.fromkeys(_REST, np.int64)
    terms = pd.concat([describe(tensors), pd.DataFrame(values, columns=list(_COLUMNS)).astype(kinds)], axis=1)
    # Codes run from 0 up and then from -0 down; turned into ascending order.
    histograms = {label: np.concatenate([c[: BINS // 2 - 1 : -1], c[: BINS // 2]]) for label, c in counts.items()}
    return Statistics(distinct_names([checkpoint])[0], terms, histograms)


def _reduction(blocks: Blocks):
    def reduction(tensor: Aligned, piece: Span, rows: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        out, histogram = np.zeros(len(_COLUMNS)), np.zeros(BINS, np.int64)
        out[_EXTREMES] = np.inf, -np.inf
        dtype = tensor.infos[0].dtype
        if dtype.is_float:
            for (values,) in blocks.split(tensor, rows):
                _add(values, dtype, out, histogram)
        return out, histogram

    return reduction


def _add(values: np.ndarray, dtype: DType, out: np.ndarray, histogram: np.ndarray) -> None:
    sums = _sums(values, dtype)
    if not np.isfinite(sums[1]):
        out[-2:] += np.count_nonzero(np.isnan(values)), np.count_nonzero(np.isinf(values))
        values = values[np.isfinite(values)]
        sums = _sums(values, dtype)
    low, high = min(out[_MIN], sums[_MIN]), max(out[_MAX], sums[_MAX])
    out[: sums.size] += sums
    out[_EXTREMES] = low, high
    out[-3] += values.size
    kernel().histogram(values.astype(np.float32, copy=False), histogram)


def _sums(values: np.ndarray, dtype: DType) -> np.ndarray:
    """The terms of a block."""
    sums = np.zeros(len(VALUE_TERMS))
    sums[_EXTREMES] = np.inf, -np.inf
    kernel().value_sums(values, dtype.normal, _FP16_LIMIT, sums)
    return sums
