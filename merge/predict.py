"""How far a merge will be from its ingredients, before it is run.

The result of a linear merge is r = sum c_i x_i, so its distance to an ingredient j follows from inner products alone:
|r - x_j|^2 = c' G c - 2 (G c)_j + G_jj. One pass over the files measures them; every recipe of the same files is then free.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from ..checkpoints.errors import RecipeError
from ..checkpoints.families import BUFFER_LABELS, components_in_order, in_order
from ..checkpoints.stream import Progress
from .linear_combination import MethodCall
from .plan import Plan, TensorPlan
from .planner import planned
from .recipe import Recipe
from .shape_rule import SAME

if TYPE_CHECKING:
    import pandas as pd

    from ..analysis.gram import GramTable

By = Literal["tensor", "label", "component"]


def distances_from_gram(gram: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The distance of a weighted sum of models to each of them.

    Args:
        gram: inner products of N models, (..., N, N).
        coefficients: of the sum, (..., N); they need not add up to one. Leading axes broadcast.

    Returns:
        (..., N): Euclidean distances, 0 where they are less than arithmetic can tell.
    """
    gram, c = np.asarray(gram, np.float64), np.asarray(coefficients, np.float64)
    squares = np.diagonal(gram, axis1=-2, axis2=-1)
    apart = squares[..., :, None] + squares[..., None, :] - 2 * gram
    total = c.sum(axis=-1, keepdims=True)
    # r - x_j = sum c_i (x_i - x_j) - (1 - total) x_j: with shares that add up to one, nothing as large as a model enters.
    within = np.einsum("...i,...ij,...j->...", c, apart, c)[..., None]
    squared = total * np.einsum("...ij,...j->...i", apart, c) - within / 2
    rest = np.where(np.abs(1 - total) > 1e-12, 1 - total, 0.0)
    towards = np.einsum("...ij,...j->...i", gram, c) - total * squares
    return np.sqrt(np.maximum(squared + rest * (rest * squares - 2 * towards), 0))


def predict(
    recipe: Recipe,
    by: By = "label",
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> pd.DataFrame:
    """How far the result of a recipe will be from each of its models, from one pass over them; nothing is merged.

    Args:
        recipe: its steps linear.
        by: a row for every tensor, label or component.
        threads, progress, cancel: of the pass.

    Returns:
        See `predicted_distances`.

    Raises:
        RecipeError: a step is not linear; the models do not fit together.
        UnetscopeError: a model cannot be read, or the recipe is wrong.
    """
    from ..analysis.gram import gram_matrices

    with planned(recipe) as plan:
        check_linear(plan)
        table = gram_matrices(plan.checkpoints, threads=threads, progress=progress, cancel=cancel)
        return predicted_distances(plan, table, by)


def predicted_distances(plan: Plan, table: GramTable, by: By = "label") -> pd.DataFrame:
    """The distances of a plan's result to its models, from inner products that were measured before.

    Args:
        plan: of a recipe with linear steps. Planning reads headers only, so a new plan for other weights costs little.
        table: the inner products of `plan.checkpoints`, in that order.
        by: a row for every tensor, label or component.

    Returns:
        key (by tensor only), label, component, parameters; for each model X `distance X`, the Euclidean distance, and
        `relative X`, the same divided by the length of X. Rounding the result to its dtype adds its own small distance.
        Tensors that only some models have, with other shapes, or with values that are not finite are left out:
        `frame.attrs["left_out"]` has the reasons.

    Raises:
        RecipeError: a step is not linear, or the table is of other models.
    """
    import pandas as pd

    check_linear(plan)
    if table.matrices.shape[-1] != len(plan.checkpoints):
        raise RecipeError(
            f"inner products of {table.matrices.shape[-1]} models do not fit a recipe of {len(plan.checkpoints)}; "
            "measure the recipe's own models"
        )
    position = {key: i for i, key in enumerate(table.keys) if np.isfinite(table.matrices[i]).all()}
    tensors = [t for t in plan.tensors if t.place.label not in BUFFER_LABELS and t.rule.reads and t.dtype.is_float]
    known = [t for t in tensors if t.key in position and t.rule is SAME]
    if not known:
        raise RecipeError("the models have no finite tensor of one shape in common: there is nothing to predict")
    grams = table.matrices[[position[t.key] for t in known]]
    squared = distances_from_gram(grams, np.array([coefficients(t, len(plan.names)) for t in known])) ** 2
    frame = pd.DataFrame({"key": [t.key for t in known]})
    frame["label"] = [t.place.label for t in known]
    frame["component"] = [t.place.component for t in known]
    frame["parameters"] = [t.elements for t in known]
    for i, name in enumerate(plan.names):
        frame[f"distance {name}"], frame[f"relative {name}"] = squared[:, i], grams[:, i, i]
    frame = _summed(frame, by)
    for name in plan.names:
        lengths = np.sqrt(frame[f"relative {name}"])
        frame[f"distance {name}"] = np.sqrt(frame[f"distance {name}"])
        frame[f"relative {name}"] = frame[f"distance {name}"] / lengths.where(lengths > 0)
    missing = {t.key for t in tensors} - {t.key for t in known}
    not_finite = dict.fromkeys(set(table.keys) - set(position), "NaN or infinite weights")
    frame.attrs["left_out"] = {
        key: table.left_out.get(key) or not_finite.get(key, "shapes differ") for key in sorted(missing)
    }
    return frame


def coefficients(tensor: TensorPlan, models: int) -> np.ndarray:
    """The coefficient of every model of the plan in one tensor of the result; of a linear plan."""
    out = np.zeros(models)
    for term, coefficient in tensor.combination.items():
        out[term.index] += coefficient
    return out


def check_linear(plan: Plan) -> None:
    """Refuse a plan whose result is not a weighted sum of its models.

    Raises:
        RecipeError: naming the step's method.
    """
    for tensor in plan.tensors:
        for term in tensor.combination.terms:
            if isinstance(term, MethodCall):
                raise RecipeError(
                    f"{term.name} is not linear: inner products of the models do not tell where it leads; "
                    "predict takes recipes of weighted sums, averages and differences"
                )


def _summed(frame: pd.DataFrame, by: By) -> pd.DataFrame:
    """Sums of squares over the tensors of each label or component, in network order."""
    if by == "tensor":
        return frame
    sort = in_order if by == "label" else components_in_order
    order: Mapping[str, int] = {x: i for i, x in enumerate(sort(set(frame[by])))}
    heads = ["label", "component"] if by == "label" else ["component"]
    out = frame.drop(columns=[c for c in ("key", "label", "component") if c not in heads]).groupby(heads, sort=False)
    return out.sum().reset_index().sort_values(by, key=lambda names: names.map(order), ignore_index=True)
