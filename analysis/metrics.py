"""The metrics of a pair, from summed terms; d = b - a, and c is a common base of a and b.

Every function takes a table of terms (`kernels.definitions.PAIR_TERMS`, `BASE_TERMS`, and `counted`, the elements they are over)
and answers for each row.
NaN means undefined: nothing to relate the number to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd


@dataclass(frozen=True, slots=True)
class Metric:
    """How a metric is shown.

    Attributes:
        title: for a table's head or a colour bar.
        meaning: one line.
        log: whether a colour scale of it is logarithmic.
        percent: whether it is shown in percent.
    """

    title: str
    meaning: str
    log: bool = True
    percent: bool = False


PAIR_METRICS: dict[str, Metric] = {
    "relative_l2": Metric(
        "relative L2", "size of the change over the size of the weights, sqrt(sum d²) / sqrt(sum a²)", percent=True
    ),
    "cosine_distance": Metric("cosine distance", "1 - cosine of the angle between a and b"),
    "distance": Metric("L2 distance", "sqrt(sum d²)"),
    "rms": Metric("RMS", "root mean square of d"),
    "mean_abs": Metric("mean |d|", "mean size of d"),
    "max_abs": Metric("max |d|", "largest size of d"),
    "changed": Metric("changed share", "share of elements that differ", log=False, percent=True),
    "sign_flip": Metric("sign flips", "share of elements whose sign differs", percent=True),
}
BASE_METRICS: dict[str, Metric] = {
    "task_cosine": Metric("task-vector cosine", "cosine of a - c and b - c: 1 same direction, 0 unrelated", log=False),
    "sign_conflict": Metric(
        "sign conflict",
        "share of the change common to both that has opposite signs, weighted by min(|a-c|, |b-c|)",
        log=False,
        percent=True,
    ),
    "moved_a": Metric("a moved", "relative L2 of a - c", percent=True),
    "moved_b": Metric("b moved", "relative L2 of b - c", percent=True),
}


def pair_metrics(terms: pd.DataFrame) -> pd.DataFrame:
    """The columns of `PAIR_METRICS`."""
    aa, bb, dd, counted = (terms[name].to_numpy() for name in ("aa", "bb", "dd", "counted"))
    out = pd.DataFrame(
        {
            "relative_l2": _ratio(np.sqrt(dd), np.sqrt(aa)),
            "cosine_distance": _cosine_distance(aa, bb, dd),
            "distance": np.sqrt(dd),
            "rms": np.sqrt(_ratio(dd, counted)),
            "mean_abs": _ratio(terms["abs_d"], counted),
            "max_abs": terms["max_d"].to_numpy(),
            "changed": _ratio(terms["changed"], counted),
            "sign_flip": _ratio(terms["flipped"], counted),
        },
        index=terms.index,
    )
    return out.where(terms["counted"] > 0)


def base_metrics(terms: pd.DataFrame) -> pd.DataFrame:
    """The columns of `BASE_METRICS`; NaN where a model did not move."""
    pp, qq, cc = (np.sqrt(terms[name].to_numpy()) for name in ("pp", "qq", "cc"))
    cosine = np.divide(terms["pq"], pp * qq, out=np.full(len(terms), np.nan), where=pp * qq > 0)
    common = terms["common"].to_numpy()
    conflict = np.divide(terms["conflict"], common, out=np.full(len(terms), np.nan), where=common > 0)
    return pd.DataFrame(
        {
            "task_cosine": np.clip(cosine, -1, 1),
            "sign_conflict": conflict,
            "moved_a": _ratio(pp, cc),
            "moved_b": _ratio(qq, cc),
        },
        index=terms.index,
    )


def _ratio(above, below) -> np.ndarray:
    """above / below; 0 / 0 is 0 (nothing changed), anything else over 0 is undefined."""
    above, below = np.asarray(above, float), np.asarray(below, float)
    out = np.where(above == 0, 0.0, np.nan)
    return np.divide(above, below, out=out, where=below > 0)


def _cosine_distance(aa: np.ndarray, bb: np.ndarray, dd: np.ndarray) -> np.ndarray:
    """From d, so that near-equal models keep their digits: (dd - (|a| - |b|)^2) / (2 |a| |b|)."""
    a, b = np.sqrt(aa), np.sqrt(bb)
    longer = np.divide(aa - bb, a + b, out=np.zeros_like(a), where=a + b > 0)
    # Beside a vector of zeros there is no angle, unless both are.
    out = np.where(dd == 0, 0.0, np.nan)
    return np.clip(np.divide(np.maximum(dd - longer**2, 0), 2 * a * b, out=out, where=a * b > 0), 0, 2)
