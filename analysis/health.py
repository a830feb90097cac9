"""Is a checkpoint sound? Findings in words, the worst first, from its statistics.

What values alone tell (NaN, zeros, token positions, missing tensors) `library.health` judges; here are added the
findings that need moments and extremes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.dtypes import DTYPES
from ..checkpoints.families.parts.position_ids import is_position_ids
from ..checkpoints.notices import Notice, worst_first
from ..checkpoints.text import some
from ..library.health import TensorValues, findings, look_at_position_ids
from .grouping import is_weight
from .statistics import Statistics

# Trained weights of these models stay within a few tens; one this large is a run that diverged or a faulty merge.
_HUGE = 1000.0
# Shares from which a loss of digits is worth a line.
_VANISHING = 0.01
_SUBNORMAL = 0.10


def examine(checkpoint: Checkpoint, measured: Statistics) -> list[Notice]:
    """What there is to say about a checkpoint's soundness, the worst first; empty when nothing is wrong.

    Args:
        checkpoint: the one that `measured` was made of; token positions are read from it.
        measured: from `measure`.
    """
    found = list(findings(checkpoint, _values(measured.terms), _position_ids(checkpoint)))
    found += [finding for rule in _RULES for finding in rule(measured.terms)]
    return worst_first(found)


def _values(terms: pd.DataFrame) -> dict[str, TensorValues]:
    return {
        row.key: TensorValues(row.nan, row.inf, int(row.beyond_fp16), row.counted == row.zeros == row.parameters > 0)
        for row in terms[["key", "nan", "inf", "beyond_fp16", "counted", "zeros", "parameters"]].itertuples()
    }


def _position_ids(checkpoint: Checkpoint) -> dict:
    found = {}
    for key in filter(is_position_ids, checkpoint.tensors):
        dtype = checkpoint[key].dtype
        values = checkpoint.numpy(key).reshape(-1)
        found[key] = look_at_position_ids(values if dtype.is_float else values.view(np.uint8), dtype)
    return found


def _constant(terms: pd.DataFrame) -> list[Notice]:
    matrices = terms["shape"].str.contains("x") & is_weight(terms) & (terms["counted"] > 1)
    rows = terms[matrices & (terms["min"] == terms["max"]) & (terms["zeros"] == 0)]
    if rows.empty:
        return []
    text = f"{_tensors(rows)} {'is' if len(rows) == 1 else 'are'} one constant throughout: not trained"
    return [Notice("health.constant", text, tuple(rows["key"]), "warning")]


def _huge(terms: pd.DataFrame) -> list[Notice]:
    size = np.maximum(terms["max"], -terms["min"])
    rows = terms[is_weight(terms) & (size > _HUGE) & np.isfinite(size)]
    if rows.empty:
        return []
    largest = size[rows.index].max()
    text = f"values up to {largest:.3g} in {_tensors(rows)}: far beyond trained weights; training or a merge diverged"
    return [Notice("health.huge", text, tuple(rows["key"]), "warning")]


def _shares(terms: pd.DataFrame, column: str) -> Iterator[tuple[str, float, pd.DataFrame]]:
    """Label, the share of its values that `column` counts, and its rows."""
    for label, rows in terms[is_weight(terms)].groupby("label", sort=False):
        yield label, rows[column].sum() / max(rows["counted"].sum(), 1), rows


def _vanishing(terms: pd.DataFrame) -> list[Notice]:
    return [
        Notice("health.vanishing", f"{share:.1%} of the values are too small for fp16 and would become 0").of(label)
        for label, share, _ in _shares(terms, "vanishing_fp16")
        if share > _VANISHING
    ]


def _subnormal(terms: pd.DataFrame) -> list[Notice]:
    return [
        Notice(
            "health.subnormal",
            f"{share:.0%} of the values are subnormal in {rows['dtypes'].iloc[0]}, stored with fewer digits",
        ).of(label)
        for label, share, rows in _shares(terms, "subnormal")
        if share > _SUBNORMAL
    ]


def _mixed(terms: pd.DataFrame) -> list[Notice]:
    """A few tensors in another dtype than the rest of their component: harmless, but a sign of patching."""
    found = []
    floats = terms[is_weight(terms) & terms["dtypes"].map(lambda name: DTYPES[name].is_float)]
    for component, rows in floats.groupby("component", sort=False):
        counts = rows["dtypes"].value_counts()
        if len(counts) > 1:
            what = " and ".join(f"{n:,} of {name}" for name, n in counts.items())
            found.append(
                Notice("health.mixed_dtypes", f"dtypes are mixed: {what} tensors", tuple(counts.index)).of(component)
            )
    return found


_RULES: tuple[Callable[[pd.DataFrame], list[Notice]], ...] = (_constant, _huge, _vanishing, _subnormal, _mixed)


def _tensors(rows: pd.DataFrame) -> str:
    """`the tensor KEY` or `5 tensors (IN01, OUT03; first KEY)`."""
    first = rows["key"].iloc[0]
    if len(rows) == 1:
        return f"the tensor {first}"
    labels = list(dict.fromkeys(rows["label"]))
    return f"{len(rows)} tensors ({some(labels, 4)}; first {first})"
