"""A difference in sentences, for people who do not read tables."""

from __future__ import annotations

import numpy as np
import pandas as pd

from ..checkpoints.text import percent
from .alignment import SHAPES
from .difference import Difference
from .grouping import is_weight

# Two unrelated changes of the same size have a conflict of one half and a cosine of 0.
_SAME_WAY, _AGREE, _FIGHT = 0.25, 0.45, 0.55
# How the sentence begins that names the components without a difference.
IDENTICAL = "Bit-identical"
_PRECISION = {"F16": "fp16", "BF16": "bf16", "F32": "fp32", "F8_E4M3": "fp8 (E4M3)", "F8_E5M2": "fp8 (E5M2)"}


def sentences(difference: Difference) -> list[str]:
    """What a difference says: what is equal, how much changed and where, what one side lacks, whether they would merge well."""
    out = _equal(difference)
    overall = difference.overall()
    if not (overall["identical"] or overall["equal_rounded"]):
        out.append(_changed(difference, overall["relative_l2"]))
    out += _left_out(difference.left_out)
    if overall["not_finite"]:
        out.append(
            f"{overall['not_finite']:,} elements are NaN or infinite in one of the files; they are counted nowhere."
        )
    out += [note.text + "." for note in difference.notes]
    if difference.base:
        out.append(_merging(difference, overall))
    return out


def _equal(difference: Difference) -> list[str]:
    overall = difference.overall()
    a, b = difference.a, difference.b
    if overall["identical"] and difference.left_out.empty:
        return [f"{a} and {b} are bit-identical in every weight."]
    if overall["equal_rounded"]:
        return [f"{a} and {b} are equal up to {_rounding(difference.terms)} rounding: one is a copy of the other."]
    parts = difference.table("component")
    identical = [c for c, same in zip(parts["component"], parts["identical"], strict=True) if same]
    rounded = parts[parts["equal_rounded"]]["component"]
    out = [f"{IDENTICAL}: {', '.join(identical)}."] if identical else []
    for component in rounded:
        rows = difference.terms[difference.terms["component"] == component]
        out.append(f"{component} is equal up to {_rounding(rows)} rounding.")
    return out


def _rounding(terms: pd.DataFrame) -> str:
    """The narrowest dtype of what was rounded: `fp16`."""
    pairs = terms[terms["equal"] & ~terms["identical"]]["dtypes"].str.split(", ")
    sizes = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}
    names = {min(reversed(pair), key=sizes.__getitem__) for pair in pairs}
    return " / ".join(sorted(_PRECISION.get(name, name) for name in names))


def _changed(difference: Difference, relative: float) -> str:
    table = difference.table("label", sort="relative_l2")
    table = table[is_weight(table) & table["relative_l2"].notna()]
    moved = table[table["relative_l2"] > 0]
    if moved.empty:
        return "No weight differs in value."
    most = ", ".join(_of(row) for row in moved.head(3).itertuples())
    text = f"{difference.b} differs from {difference.a} by {percent(relative)} (relative L2 of all weights), most in {most}"
    return f"{text}, least in {_of(next(moved.tail(1).itertuples()))}." if len(moved) > 3 else f"{text}."


def _of(row) -> str:
    return f"{row.label} ({percent(row.relative_l2)})"


def _left_out(left_out: pd.DataFrame) -> list[str]:
    """One sentence per component and reason; shapes are listed one by one."""
    shapes = left_out["reason"].str.startswith(SHAPES)
    out = []
    for (reason, component), rows in left_out[~shapes].groupby(["reason", "component"], sort=False):
        one = len(rows) == 1
        what = f"{rows['key'].iloc[0]} is" if one else f"{len(rows)} tensors of {component} are"
        out.append(f"{what} {reason}.")
    for row in left_out[shapes].head(3).itertuples():
        out.append(f"{row.key}: {row.reason}.")
    more = int(shapes.sum()) - 3
    return [*out, f"{more} more tensors differ in shape."] if more > 0 else out


def _merging(difference: Difference, overall: pd.Series) -> str:
    """Will these two merge well?"""
    a, b, base = difference.a, difference.b, difference.base
    cosine, conflict = overall["task_cosine"], overall["sign_conflict"]
    if np.isnan(conflict):
        still = [name for name, moved in ((a, overall["moved_a"]), (b, overall["moved_b"])) if not moved > 0]
        if still:
            return f"{' and '.join(still)} did not move from {base}: there is nothing to conflict."
        return f"{a} and {b} changed different weights of {base}: merging them loses nothing by conflict."
    if conflict < _SAME_WAY:
        verdict = "they pull the same way and should merge well"
    elif conflict < _AGREE:
        verdict = "they agree more often than they clash and should merge well"
    elif conflict > _FIGHT:
        verdict = "they pull against each other: an average undoes part of both"
    else:
        verdict = "their changes are largely independent: an average keeps part of each and neither cancels the other"
    labels = difference.table("label", sort="sign_conflict")
    labels = labels[is_weight(labels) & labels["sign_conflict"].notna()]
    worst = labels.iloc[0]
    return (
        f"Seen from {base}, the changes of {a} and {b} have a cosine of {cosine:.2f} and a sign conflict of {conflict:.0%} "
        f"(unrelated changes: 0 and 50 %): {verdict}. Most conflict: {worst['label']} ({worst['sign_conflict']:.0%})."
    )
