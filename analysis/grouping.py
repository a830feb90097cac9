"""From terms per tensor to terms per layer, label or component: sums of sums, never means of ratios."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pandas as pd

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import BUFFER_LABELS, components_in_order, in_order, kinds_in_order
from .alignment import Aligned

By = Literal["tensor", "layer", "label", "component", "kind"]
# What rows are told apart by; what else is the same in all of a row's tensors.
GROUPS: dict[str, tuple[list[str], list[str]]] = {
    "layer": (["layer"], ["label", "component", "kind"]),
    "label": (["label"], ["component"]),
    "component": (["component"], []),
    "kind": (["label", "kind"], ["component"]),
}
DESCRIPTION = ["key", "layer", "label", "component", "kind", "shape", "parameters", "dtypes"]
_SUFFIXES = (".weight", ".bias", "_weight", "_bias")
_SORTED = {
    "label": in_order,
    "component": components_in_order,
    "kind": kinds_in_order,
}


def describe(tensors: Sequence[Aligned]) -> pd.DataFrame:
    """One row per tensor: `DESCRIPTION`."""
    rows = (
        (
            t.key,
            layer_of(t.key),
            t.label,
            t.component,
            t.kind,
            "x".join(map(str, t.shape)) or "scalar",
            t.elements,
            t.dtypes,
        )
        for t in tensors
    )
    return pd.DataFrame(rows, columns=DESCRIPTION)


def layer_of(key: str) -> str:
    """The module that a tensor belongs to: its key without `weight` or `bias`."""
    for suffix in _SUFFIXES:
        if key.endswith(suffix):
            return key.removesuffix(suffix)
    return key


def group(
    terms: pd.DataFrame,
    by: By,
    *,
    largest: Sequence[str] = (),
    smallest: Sequence[str] = (),
    every: Sequence[str] = (),
) -> pd.DataFrame:
    """Add up terms per group.

    Args:
        terms: one row per tensor, `DESCRIPTION` and terms.
        by: `tensor` for the terms as they are; `layer` joins weight and bias, `kind` the layers of a kind in a label.
        largest, smallest: columns of which the largest or smallest is kept; `every`: true where all are.

    Returns:
        The group's columns, `tensors` (how many), `parameters`, `dtypes`, and the terms; labels in network order.

    Raises:
        UnetscopeError: there is no such grouping.
    """
    if by == "tensor":
        return terms
    if by not in GROUPS:
        raise UnetscopeError(f"cannot group by {by!r}; use tensor, layer, label, component or kind")
    keys, same = GROUPS[by]
    how = {name: "sum" for name in terms.columns if name not in DESCRIPTION}
    how |= dict.fromkeys(largest, "max") | dict.fromkeys(smallest, "min") | dict.fromkeys(every, "all")
    grouped = terms.groupby(keys, sort=False)
    out = grouped[same].first() if same else grouped.size().to_frame().drop(columns=0)
    out["tensors"] = grouped.size()
    out["parameters"] = grouped["parameters"].sum()
    out["dtypes"] = grouped["dtypes"].agg(_joined)
    out = out.join(grouped.agg(how)).reset_index()
    if by == "layer":
        return out
    ranks = {name: {x: i for i, x in enumerate(_SORTED[name](set(out[name])))} for name in keys}
    return out.sort_values(keys, key=lambda column: column.map(ranks[column.name]), ignore_index=True)


def _joined(dtypes: pd.Series) -> str:
    return " / ".join(dict.fromkeys(dtypes))


def is_weight(frame: pd.DataFrame) -> pd.Series:
    """Which rows count when a whole model is meant: all but EMA, schedule buffers, markers and unknown keys."""
    return ~frame["label"].isin(BUFFER_LABELS)


def values_by_label(frame: pd.DataFrame, metric: str) -> dict[str, float]:
    """label -> value of one metric, from a table with one row per label; labels without a value are left out.

    Raises:
        UnetscopeError: the table has no such metric, or more than one row per label.
    """
    if metric not in frame:
        numbers = [name for name in frame.columns if name not in DESCRIPTION and name != "tensors"]
        raise UnetscopeError(f"there is no metric {metric!r} here; there are {', '.join(numbers)}")
    if "label" not in frame or frame["label"].duplicated().any():
        raise UnetscopeError("values per label need a table by label")
    known = frame[["label", metric]].dropna()
    return {label: float(value) for label, value in known.itertuples(index=False)}


def records(frame: pd.DataFrame) -> list[dict]:
    """The rows of a table as dictionaries of plain Python values, ready for JSON: what is undefined is None."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records")
