"""Histograms as charts: of blocks, from counts that were kept, and of a few tensors, from their values."""

from __future__ import annotations

from collections.abc import Mapping

import altair as alt
import numpy as np
import pandas as pd

_BINS = 81
_COLOURS = ["#3f8fd9", "#f28e2b", "#4aa564", "#d65f8a", "#9a7fd1", "#8d8d8d"]
# What is cut off at each end, so that a single outlier does not hide the rest.
_TAIL = 0.0005


def value_histogram(counts: Mapping[str, np.ndarray]) -> alt.Chart:
    """Counts by label, in the bins of `analysis.statistics.edges()`, as lines over evenly spaced bins.

    The fine bins are spread evenly over the even ones; the outermost 0.05 % on each side are not shown.
    """
    from ..analysis.statistics import edges

    bounds = edges()
    bounds = np.clip(bounds, -3e38, 3e38)
    cumulated = {label: np.concatenate([[0.0], np.cumsum(found)]) for label, found in counts.items() if found.sum()}
    reach = max((_reach(bounds, total) for total in cumulated.values()), default=1.0)
    even = np.linspace(-reach, reach, _BINS + 1)
    parts = [
        _part(label, even, np.diff(np.interp(even, bounds, total)) / total[-1]) for label, total in cumulated.items()
    ]
    return _lines(parts, "block")


def _reach(bounds: np.ndarray, total: np.ndarray) -> float:
    low, high = np.interp([_TAIL * total[-1], (1 - _TAIL) * total[-1]], total, bounds)
    return float(max(abs(low), abs(high)))


def sample_histogram(values: Mapping[str, np.ndarray]) -> alt.Chart:
    """Values by name, each a flat array, as lines over the same evenly spaced bins."""
    finite = {name: found[np.isfinite(found)] for name, found in values.items()}
    reach = max(
        (float(np.quantile(np.abs(found), 1 - 2 * _TAIL)) for found in finite.values() if found.size), default=1.0
    )
    even = np.linspace(-(reach or 1.0), reach or 1.0, _BINS + 1)
    parts = [_part(name, even, np.histogram(found, even)[0] / max(found.size, 1)) for name, found in finite.items()]
    return _lines(parts, "of")


def _part(name: str, even: np.ndarray, shares: np.ndarray) -> pd.DataFrame:
    return pd.DataFrame({"of": name, "value": (even[:-1] + even[1:]) / 2, "share": shares})


def _lines(parts: list[pd.DataFrame], title: str) -> alt.Chart:
    frame = pd.concat(parts) if parts else pd.DataFrame({"of": [], "value": [], "share": []})
    order = list(dict.fromkeys(frame["of"]))
    return (
        alt.Chart(frame)
        .mark_line(interpolate="step")
        .encode(
            x=alt.X("value:Q", title="value of a weight"),
            y=alt.Y("share:Q", title="share of the weights", axis=alt.Axis(format="%")),
            color=alt.Color(
                "of:N",
                title=None,
                scale=alt.Scale(domain=order, range=_COLOURS[: len(order)]),
                legend=alt.Legend(orient="top") if len(order) > 1 else None,
            ),
            tooltip=[
                alt.Tooltip("of:N", title=title),
                alt.Tooltip("value:Q", format=".4g"),
                alt.Tooltip("share:Q", format=".2%"),
            ],
        )
        .properties(height=230)
    )
