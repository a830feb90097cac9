"""Gram matrices: the inner products of the same tensor of N checkpoints, from which distances and cosines of all pairs,
the map of a collection, the recipe of a merge, and the distance of a merge that was never run all follow.

Products and sums are fp64 of the raw values: fp32 products are useless for models that are near each other.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.errors import UnetscopeError
from ..checkpoints.families import BUFFER_LABELS, components_in_order, in_order
from ..checkpoints.kernels import kernel
from ..checkpoints.stream import Progress, Span
from .alignment import Aligned, align, distinct_names
from .reduce import Blocks, meet, reduce_aligned, same_bits


@dataclass(frozen=True)
class GramTable:
    """Inner products of N checkpoints, per tensor.

    Attributes:
        names: one short name per checkpoint.
        tensors: what was measured: key, label, component, kind, shape of each.
        matrices: float64, (tensors, N, N): `matrices[t, i, j]` is the inner product of checkpoint i's and j's values.
        same: integers, (tensors, N): the first checkpoint whose bits are the same in that tensor.
        left_out: key -> why it was not measured.
    """

    names: tuple[str, ...]
    tensors: tuple[Aligned, ...]
    matrices: np.ndarray
    same: np.ndarray
    left_out: dict[str, str] = field(default_factory=dict)

    def __getitem__(self, key: str) -> np.ndarray:
        """The matrix of one tensor.

        Raises:
            UnetscopeError: there is none for this key, with the reason.
        """
        for tensor, matrix in zip(self.tensors, self.matrices, strict=True):
            if tensor.key == key:
                return matrix
        raise UnetscopeError(f"no inner products for {key!r}: {self.left_out.get(key, 'no checkpoint has it')}")

    @property
    def keys(self) -> tuple[str, ...]:
        return tuple(tensor.key for tensor in self.tensors)

    def parameters(self, labels: Collection[str] | None = None) -> int:
        """How many elements the tensors of these labels have; of all weights when None."""
        return sum(tensor.elements for tensor in self.tensors if _chosen(tensor, labels))

    def by_label(self) -> dict[str, np.ndarray]:
        """label -> summed N x N matrix, in network order."""
        sums = self._sums(tensor.label for tensor in self.tensors)
        return {label: sums[label] for label in in_order(sums)}

    def by_component(self) -> dict[str, np.ndarray]:
        """component -> summed N x N matrix: `unet`, `clip_l`..."""
        sums = self._sums(tensor.component for tensor in self.tensors)
        return {component: sums[component] for component in components_in_order(sums)}

    def total(self, labels: Collection[str] | None = None) -> np.ndarray:
        """The sum over the tensors of these labels; None for all weights: everything but EMA, buffers and unknown keys.

        Raises:
            UnetscopeError: no tensor has one of these labels.
        """
        rows = [i for i, tensor in enumerate(self.tensors) if _chosen(tensor, labels)]
        if not rows:
            known = ", ".join(in_order({tensor.label for tensor in self.tensors}))
            raise UnetscopeError(
                f"no tensor of {', '.join(labels or ()) or 'the model'} was measured; there are {known}"
            )
        return self.matrices[rows].sum(axis=0)

    def centred(self, reference: int) -> GramTable:
        """The table of the differences from one of the checkpoints, by its position."""
        return replace(self, matrices=centred(self.matrices, reference))

    @staticmethod
    def distances(matrix: np.ndarray) -> np.ndarray:
        """See `distances`."""
        return distances(matrix)

    @staticmethod
    def cosines(matrix: np.ndarray) -> np.ndarray:
        """See `cosines`."""
        return cosines(matrix)

    def _sums(self, groups: Iterable[str]) -> dict[str, np.ndarray]:
        sums: dict[str, np.ndarray] = {}
        for group, matrix in zip(groups, self.matrices, strict=True):
            sums[group] = sums[group] + matrix if group in sums else matrix.copy()
        return sums


def _chosen(tensor: Aligned, labels: Collection[str] | None) -> bool:
    return tensor.label in labels if labels is not None else tensor.label not in BUFFER_LABELS


def distances(matrix: np.ndarray) -> np.ndarray:
    """Euclidean distances of all pairs, N x N, from a Gram matrix; not negative, 0 on the diagonal.

    Distances down to about 1e-8 of the models' size are told from 0. Equal models may come out a rounding away from it:
    identity is a matter of bits, never of a distance.
    """
    squares = np.diagonal(matrix, axis1=-2, axis2=-1)
    squared = squares[..., :, None] + squares[..., None, :] - 2 * matrix
    return np.sqrt(np.maximum(squared, 0))


def cosines(matrix: np.ndarray) -> np.ndarray:
    """Cosine similarities of all pairs, N x N, within -1 and 1; NaN for a model whose values are all 0."""
    norms = np.sqrt(np.diagonal(matrix, axis1=-2, axis2=-1))
    product = norms[..., :, None] * norms[..., None, :]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.clip(np.where(product > 0, matrix / product, np.nan), -1, 1)


def centred(matrix: np.ndarray, reference: int) -> np.ndarray:
    """The Gram matrix of the differences from model `reference`, by double centring; its own row and column are 0."""
    row = matrix[..., reference, :]
    corner = row[..., reference][..., None, None]
    return matrix - row[..., None, :] - row[..., :, None] + corner


def gram_matrices(
    checkpoints: Sequence[Checkpoint],
    *,
    keys: Collection[str] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> GramTable:
    """The inner products of N checkpoints, per tensor, in one pass that reads each file once.

    Args:
        checkpoints: one or more; containers and dtypes may differ.
        keys: only these tensors.
        threads: None for as many as there are cores, at most 8; the result does not depend on it.
        progress: called with bytes done, bytes in all, and a key.
        cancel: stops the pass when it is set.

    Raises:
        UnetscopeError: the checkpoints share no tensor of floating point numbers, or one of them is a LoRA.
        Cancelled: `cancel` was set.

    Example:
        >>> from unetscope.checkpoints import open_checkpoint
        >>> with open_checkpoint("a.safetensors") as a, open_checkpoint("b.safetensors") as b:
        ...     gram_matrices([a, b]).total().tolist()
        [[48.0, 144.0], [144.0, 432.0]]
    """
    tensors, left_out = measurable(checkpoints, keys)
    matrices, same = sum_products(
        checkpoints, tensors, range(len(tensors)), threads=threads, progress=progress, cancel=cancel
    )
    return GramTable(distinct_names(checkpoints), tensors, matrices, same, left_out)


def measurable(
    checkpoints: Sequence[Checkpoint], keys: Collection[str] | None = None
) -> tuple[tuple[Aligned, ...], dict[str, str]]:
    """The floating point tensors that all checkpoints share, and key -> why the others are left out.

    Raises:
        UnetscopeError: there are none, or one of the files is a LoRA.
    """
    alignment = align(checkpoints, keys)
    tensors = tuple(t for t in alignment.tensors if t.is_float and t.elements)
    if not tensors:
        raise UnetscopeError("nothing to measure: the files share no tensor of floating point numbers")
    others = {
        t.key: f"not floating point: {t.dtypes}" if t.elements else "empty"
        for t in alignment.tensors
        if not (t.is_float and t.elements)
    }
    return tensors, alignment.left_out | others


def sum_products(
    checkpoints: Sequence[Checkpoint],
    tensors: Sequence[Aligned],
    groups: Sequence[int],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The pass itself: inner products, added up within groups of tensors as they come.

    Args:
        checkpoints, tensors: as in `measurable`.
        groups: for each tensor the number of its group, from 0.

    Returns:
        float64 (groups, N, N) inner products, and integers (groups, N): the first checkpoint with the same bits.
    """
    count, rows = len(checkpoints), max(groups) + 1
    matrices, same = np.zeros((rows, count, count)), np.zeros((rows, count), np.int32)

    def worker(length: int):
        blocks = Blocks(count, length)

        def reduction(tensor: Aligned, piece: Span, raws: Sequence[np.ndarray]):
            total = np.zeros((count, count))
            for values in blocks.split(tensor, raws):
                kernel().gram(values, values.shape[1], total)
            return total, same_bits(raws, [info.dtype.name for info in tensor.infos])

        return reduction

    def take(index: int, part: tuple[np.ndarray, tuple[int, ...]]) -> None:
        row = groups[index]
        matrices[row] += part[0]
        same[row] = meet(same[row], part[1])

    reduce_aligned(checkpoints, tensors, worker, take, threads=threads, progress=progress, cancel=cancel)
    return matrices, same
