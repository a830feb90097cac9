"""Many checkpoints at once: distances and cosines of all pairs, who is near whom, a map, and which parts are shared.

Everything follows from inner products that one pass over all files adds up per label.
"""

from __future__ import annotations

import threading
from collections.abc import Collection as Names
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np
import pandas as pd

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import BUFFER_LABELS, components_in_order, in_order, known_parts
from ..checkpoints.stream import Progress
from .alignment import distinct_names
from .gram import centred, cosines, distances, measurable, sum_products
from .reduce import meet

Level = Literal["model", "component", "label"]
# The group that stands for all weights together.
MODEL = "model"


@dataclass(frozen=True)
class Comparison:
    """What was measured of N checkpoints.

    Attributes:
        names: one short name per checkpoint.
        reference: the position of the checkpoint that changes are seen from, None without one.
        products: group -> N x N inner products of the raw values. Groups are `model` (all weights), components, labels.
        same: group -> for each checkpoint the first one with the same bits throughout the group.
        parameters: group -> how many elements were measured.
        components: label -> component.
        left_out: key -> why it was not measured.
    """

    names: tuple[str, ...]
    reference: int | None
    products: dict[str, np.ndarray]
    same: dict[str, tuple[int, ...]]
    parameters: dict[str, int]
    components: dict[str, str]
    left_out: dict[str, str]

    def groups(self, by: Level = "model") -> list[str]:
        """The groups of a level: `model`, or the components or labels that were measured, in network order."""
        if by == "model":
            return [MODEL]
        if by == "component":
            return components_in_order(set(self.components.values()))
        if by == "label":
            return in_order(self.components)
        raise UnetscopeError(f"cannot compare by {by!r}; use model, component or label")

    @property
    def not_finite(self) -> list[str]:
        """Checkpoints with NaN or infinite weights: they have no distances, and are on no map."""
        bad = ~np.isfinite(np.diagonal(self.products[MODEL]))
        return [name for name, is_bad in zip(self.names, bad, strict=True) if is_bad]

    def distances(self, group: str = MODEL, *, relative: bool = False) -> pd.DataFrame:
        """Euclidean distances of all pairs, N x N; 0 exactly where the bits are the same.

        Args:
            group: `model`, a component or a label.
            relative: divided by the root mean square of the two norms, so that 0.1 means "differs by 10 %".
        """
        matrix = self._products(group)
        with np.errstate(invalid="ignore"):
            out = distances(matrix)
        if relative:
            squares = np.diagonal(matrix)
            size = np.sqrt((squares[:, None] + squares[None, :]) / 2)
            out = np.divide(out, size, out=np.zeros_like(out), where=size != 0)
        out[self._equal(group)] = 0.0
        return self._frame(out)

    def cosines(self, group: str = MODEL) -> pd.DataFrame:
        """Cosines of all pairs, N x N: of the changes from the reference if there is one, else of the weights.

        NaN for a checkpoint that did not move from the reference.
        """
        matrix, equal = self._products(group), self._equal(group)
        if self.reference is not None:
            matrix = centred(matrix, self.reference)
            still = equal[self.reference]
            matrix[still, :] = matrix[:, still] = 0.0
        with np.errstate(invalid="ignore"):
            out = cosines(matrix)
        out[equal & np.isfinite(out)] = 1.0
        return self._frame(out)

    def pairs(self, by: Level = "model") -> pd.DataFrame:
        """One row per group and pair of checkpoints.

        Columns: `group`, `a`, `b`, `distance`, `relative_l2` (over the root mean square of the two norms), `cosine`,
        `cosine_distance` (1 - cosine of the weights, with all its digits), `identical` (every bit), `parameters`; with a
        reference `task_cosine`, the cosine of the changes from it.
        """
        i, j = np.array(list(combinations(range(len(self.names)), 2)), int).reshape(-1, 2).T
        parts = []
        for group in self.groups(by):
            away = self.distances(group).to_numpy()[i, j]
            norms = np.sqrt(np.diagonal(self._products(group)))
            columns = {
                "group": group,
                "a": np.array(self.names, object)[i],
                "b": np.array(self.names, object)[j],
                "distance": away,
                "relative_l2": self.distances(group, relative=True).to_numpy()[i, j],
                "cosine_distance": _cosine_distance(away, norms[i], norms[j]),
                "identical": self._equal(group)[i, j],
                "parameters": self.parameters[group],
            }
            if self.reference is not None:
                columns["task_cosine"] = self.cosines(group).to_numpy()[i, j]
            parts.append(pd.DataFrame(columns))
        return pd.concat(parts, ignore_index=True)

    def neighbours(self, group: str = MODEL) -> pd.DataFrame:
        """One row per checkpoint: `name`, its `nearest` other, their `distance` and `relative_l2`, and `identical`."""
        away, relative, equal = self.distances(group), self.distances(group, relative=True), self._equal(group)
        rows = []
        for i, name in enumerate(self.names):
            others = away.iloc[i].drop(name).dropna()
            if others.empty:
                rows.append((name, None, np.nan, np.nan, False))
                continue
            j = self.names.index(others.idxmin())
            rows.append((name, self.names[j], away.iloc[i, j], relative.iloc[i, j], bool(equal[i, j])))
        return pd.DataFrame(rows, columns=["name", "nearest", "distance", "relative_l2", "identical"])

    def shared_parts(self) -> pd.DataFrame:
        """Which checkpoints have a component in common, bit by bit: `component`, `count`, `names`; the most shared first."""
        rows = []
        for component in self.groups("component"):
            same = self.same[component]
            for first in dict.fromkeys(same):
                names = [name for name, other in zip(self.names, same, strict=True) if other == first]
                if len(names) > 1:
                    rows.append((component, len(names), names))
        frame = pd.DataFrame(rows, columns=["component", "count", "names"])
        return frame.sort_values("count", ascending=False, kind="stable", ignore_index=True)

    def linkage(self, group: str = MODEL) -> np.ndarray:
        """Hierarchical clustering (average linkage) of the relative distances, as scipy's linkage matrix.

        Raises:
            UnetscopeError: fewer than two checkpoints have finite weights.
        """
        from scipy.cluster.hierarchy import linkage, optimal_leaf_ordering
        from scipy.spatial.distance import squareform

        away = self.finite(self.distances(group, relative=True))
        if len(away) < 2:
            raise UnetscopeError("clustering takes at least two checkpoints with finite weights")
        condensed = squareform(away.to_numpy(), checks=False)
        return optimal_leaf_ordering(linkage(condensed, "average"), condensed)

    def map(self, group: str = MODEL) -> pd.DataFrame:
        """A map of the collection by classical multidimensional scaling: `name`, `x`, `y` in units of distance.

        `attrs["shown"]` is the share of all squared distance that the two axes show. Equal checkpoints share a point.
        """
        away = self.finite(self.distances(group))
        names, squared = list(away.index), away.to_numpy() ** 2
        centring = np.eye(len(names)) - 1 / max(len(names), 1)
        values, vectors = np.linalg.eigh(-0.5 * centring @ squared @ centring)
        values, vectors = np.maximum(values[::-1], 0), vectors[:, ::-1]
        # An eigenvector's sign is arbitrary: make its largest entry positive, so that a map is always the same.
        vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), range(len(names))])
        points = np.zeros((len(names), 2))
        points[:, : len(names)] = (vectors * np.sqrt(values))[:, :2]
        for i, name in enumerate(names):
            points[i] = points[names.index(self.names[self._twin(group, name)])]
        frame = pd.DataFrame({"name": names, "x": points[:, 0], "y": points[:, 1]})
        frame.attrs["shown"] = float(values[:2].sum() / values.sum()) if values.sum() > 0 else 1.0
        return frame

    def finite(self, matrix: pd.DataFrame) -> pd.DataFrame:
        """A matrix without the checkpoints whose distances are undefined."""
        kept = np.isfinite(np.diagonal(matrix.to_numpy()))
        return matrix.loc[kept, kept]

    def _twin(self, group: str, name: str) -> int:
        return self.same[group][self.names.index(name)]

    def _products(self, group: str) -> np.ndarray:
        if group not in self.products:
            raise UnetscopeError(f"{group!r} was not measured; there are {', '.join(self.products)}")
        return self.products[group]

    def _equal(self, group: str) -> np.ndarray:
        """Which pairs are bit-identical, N x N; a checkpoint that is not finite is equal to none."""
        same = np.array(self.same[group])
        finite = np.isfinite(np.diagonal(self._products(group)))
        return (same[:, None] == same[None, :]) & finite[:, None] & finite[None, :]

    def _frame(self, matrix: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(matrix, index=list(self.names), columns=list(self.names))


def _cosine_distance(away: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """1 - cosine from distance and norms, without cancellation: (d^2 - (|a| - |b|)^2) / (2 |a| |b|)."""
    below = 2 * a * b
    above = np.maximum(away**2 - np.where(away > 0, (a - b) ** 2, 0), 0)
    return np.clip(np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0), 0, 2)


def compare(
    checkpoints: Sequence[Checkpoint],
    *,
    reference: Checkpoint | None = None,
    component: str | None = None,
    keys: Names[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> Comparison:
    """Compare N checkpoints with each other, in one pass that reads each file once.

    Args:
        checkpoints: two or more; containers and dtypes may differ.
        reference: a common ancestor: cosines are then those of the changes from it. One of `checkpoints`, or another
            one, which then joins them as the last.
        component: measure only this one (`unet`, `clip_l`, `vae`...).
        keys: only these tensors.
        threads: None for as many as there are cores, at most 8; the result does not depend on it.
        progress: called with bytes done, bytes in all, and a key.
        cancel: stops the pass when it is set.

    Raises:
        UnetscopeError: fewer than two checkpoints, nothing in common, or an unknown component.
        Cancelled: `cancel` was set.

    Example:
        >>> from unetscope.checkpoints import open_checkpoint
        >>> with open_checkpoint("a.safetensors") as a, open_checkpoint("b.safetensors") as b:
        ...     found = compare([a, b])
        >>> found.distances().round(2)  # the root of 48 squares of 2
               a      b
        a   0.00  13.86
        b  13.86   0.00
    """
    models = list(checkpoints)
    at = None if reference is None else _position(models, reference)
    if len(models) < 2:
        raise UnetscopeError("comparing takes at least two checkpoints")
    known = components_in_order({*known_parts(), *(c for model in models for c in model.components)})
    if component is not None and component not in known:
        raise UnetscopeError(f"there is no component {component!r}; use {', '.join(known)}")
    tensors, left_out = measurable(models, keys)
    tensors = tuple(t for t in tensors if component in (None, t.component))
    if not tensors:
        raise UnetscopeError(f"the files have no tensor of {component} in common")
    components = {tensor.label: tensor.component for tensor in tensors}
    labels = list(components)
    matrices, same = sum_products(
        models, tensors, [labels.index(t.label) for t in tensors], threads=threads, progress=progress, cancel=cancel
    )
    products = dict(zip(labels, matrices, strict=True))
    equal = dict(zip(labels, map(tuple, same.tolist()), strict=True))
    sizes = {label: sum(t.elements for t in tensors if t.label == label) for label in labels}
    for name, members in _unions(components).items():
        products[name] = np.sum([products[label] for label in members], axis=0)
        sizes[name] = sum(sizes[label] for label in members)
        joined = equal[members[0]]
        for label in members[1:]:
            joined = meet(joined, equal[label])
        equal[name] = joined
    return Comparison(distinct_names(models), at, products, equal, sizes, components, left_out)


def _position(models: list[Checkpoint], reference: Checkpoint) -> int:
    """Where the reference is among the models; appended when it is not there."""
    for i, model in enumerate(models):
        if model is reference or model.path.absolute() == reference.path.absolute():
            return i
    models.append(reference)
    return len(models) - 1


def _unions(components: dict[str, str]) -> dict[str, list[str]]:
    """Components and the whole model, as the labels that they are made of."""
    unions: dict[str, list[str]] = {}
    for label in in_order(components):
        unions.setdefault(components[label], []).append(label)
    weights = [label for label in in_order(components) if label not in BUFFER_LABELS]
    return unions | {MODEL: weights or list(components)}
