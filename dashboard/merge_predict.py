"""What the diagram needs to predict a merge's distances while a weight moves; offered to be measured where it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import streamlit as st

from ..checkpoints.errors import UnetscopeError
from ..checkpoints.text import file_size
from ..merge.methods import Method
from .diagram import DistancePrediction
from .job_view import offer
from .library import Entry
from .results import kept

# Below this, reading the models takes less time than finding the button.
_AT_ONCE_BYTES = 200e6


def shares_along(
    method: Method, values: Mapping[str, Any], parameter: str, count: int
) -> tuple[list[float], list[float]] | None:
    """The shares of `count` models at weight 0, and what one more of the weight adds; None where they do not follow a line.

    That is so for methods that are not linear or add differences, and where another parameter differs by block.
    """
    others = {name: value for name, value in values.items() if name != parameter}
    if (
        method.kind != "linear"
        or method.on_deltas
        or method.deltas
        or any(isinstance(value, Mapping) for value in others.values())
    ):
        return None
    try:
        zero, half, one = (method.shares(count, others | {parameter: weight}) for weight in (0.0, 0.5, 1.0))
    except (UnetscopeError, TypeError):
        return None
    if any(abs((a + c) / 2 - b) > 1e-9 for a, b, c in zip(zero, half, one, strict=True)):
        return None
    return list(zero), [b - a for a, b in zip(zero, one, strict=True)]


def gram_for(
    method: Method, values: Mapping[str, Any], parameter: str, models: tuple[Entry, ...]
) -> DistancePrediction | None:
    """The inner products of the models if they have been measured; else offers to, and None."""
    if len(models) != len(method.inputs) or len({entry.identity for entry in models}) < 2:
        return None
    line = shares_along(method, values, parameter, len(models))
    if line is None:
        st.caption("Distances cannot be predicted for this method or combination of block weights.")
        return None
    total = sum(entry.size for entry in models)
    title = f"Measure {' and '.join(entry.name for entry in models)}"
    key = offer(
        "gram", title, {"files": [entry.path for entry in models]}, f"Predict distances (reads {file_size(total)} once)",
        icon=":material/straighten:", at_once=total < _AT_ONCE_BYTES,
        help="Colours each block by how far the result will be from a model, while you move its weight.",
    )  # fmt: skip
    if key is None:
        return None
    found = kept("gram", key)
    return DistancePrediction(
        labels=found["labels"], models=found["names"], at_zero=line[0], per_weight=line[1], target=0
    )
