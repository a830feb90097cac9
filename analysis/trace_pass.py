"""The one pass of `trace`: every file read once, and for each tensor the sums that least squares needs."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..checkpoints.checkpoint import Checkpoint
from ..checkpoints.families import BUFFERS
from ..checkpoints.stream import Progress, Span
from .alignment import Aligned
from .reduce import BLOCK, Blocks, meet, reduce_aligned, same_bits
from .regression import Sums
from .rounding import finer, measure, own_rounding


@dataclass
class TensorSums:
    """What the pass found out about a tensor.

    Attributes:
        tensor: the merge's tensor and, after it, those of the candidates in `available`.
        available: the candidates that have this tensor with its shape, by position.
        sums: rows in the order of `available`.
        same: for the merge and each available candidate, the first of them that holds the same bits.
        broken: elements that are NaN or infinite in one of the files; they are left out.
    """

    tensor: Aligned
    available: tuple[int, ...]
    sums: Sums
    same: tuple[int, ...]
    broken: int = 0


def read_sums(
    merged: Checkpoint,
    candidates: Sequence[Checkpoint],
    *,
    threads: int | None = None,
    progress: Progress | None = None,
    cancel: threading.Event | None = None,
) -> tuple[list[TensorSums], dict[str, str]]:
    """The sums of every tensor of `merged` that at least one candidate has, in file order, and why others are left out."""
    groups, left_out = _grouped(merged, candidates)
    total = sum(tensor.nbytes for tensors in groups.values() for tensor in tensors)
    found: dict[str, TensorSums] = {}
    done = 0
    for available, tensors in groups.items():
        so_far = done

        def report(part: int, _: int, key: str, so_far: int = so_far) -> None:
            progress(so_far + part, total, key)

        rows = [merged, *(candidates[i] for i in available)]
        for result in _reduce(rows, available, tensors, threads, report if progress else None, cancel):
            found[result.tensor.key] = result
        done += sum(tensor.nbytes for tensor in tensors)
    return [found[key] for key in merged.tensors if key in found], left_out


def _grouped(
    merged: Checkpoint, candidates: Sequence[Checkpoint]
) -> tuple[dict[tuple[int, ...], list[Aligned]], dict[str, str]]:
    """The merge's tensors by which candidates have them too: nearly always one group."""
    groups: dict[tuple[int, ...], list[Aligned]] = {}
    left_out: dict[str, str] = {}
    for key, info in merged.tensors.items():
        if info.component in BUFFERS or not info.dtype.is_float or not info.elements:
            continue
        having = [i for i, c in enumerate(candidates) if key in c and c[key].dtype.is_float]
        available = tuple(i for i in having if candidates[i][key].shape == info.shape)
        if available:
            infos = (info, *(candidates[i][key] for i in available))
            groups.setdefault(available, []).append(Aligned(key, infos))
        else:
            left_out[key] = "no listed file has it with this shape" if having else "no listed file has it"
    return groups, left_out


def _reduce(rows, available, tensors, threads, progress, cancel) -> list[TensorSums]:
    count = len(available)
    found = [TensorSums(t, available, Sums.none(count), (0,) * (count + 1)) for t in tensors]

    def worker(length: int):
        blocks, workspace = Blocks(count + 1, length), _Workspace(count, min(length, BLOCK))

        def reduction(tensor: Aligned, piece: Span, raws: Sequence[np.ndarray]):
            total, broken = Sums.none(count), 0
            for values in blocks.split(tensor, raws):
                part, bad = workspace.sums(tensor, values)
                total, broken = total + part, broken + bad
            return total, same_bits(raws, [info.dtype.name for info in tensor.infos]), broken

        return reduction

    def take(index: int, part) -> None:
        result, (sums, same, broken) = found[index], part
        result.sums, result.same = result.sums + sums, meet(result.same, same)
        result.broken += broken

    reduce_aligned(rows, tensors, worker, take, threads=threads, progress=progress, cancel=cancel)
    return found


class _Workspace:
    """A thread's arrays for a block of one tensor."""

    def __init__(self, count: int, block: int):
        self.count = count
        self.values = np.empty((count + 1, block))
        self.size = np.empty(block)
        self.near = np.empty((count, block), np.float32)

    def sums(self, tensor: Aligned, block: np.ndarray) -> tuple[Sums, int]:
        """The sums of some elements, and how many of them are not finite somewhere; the merge is the first row."""
        count, n = self.count, block.shape[1]
        values, size = self.values[:, :n], self.size[:n]
        # The merge goes last: its row is the y / length of `Sums`.
        values[:count], values[count] = block[1:], block[0]
        np.abs(values[count], out=size)
        largest = size.copy()
        for row in values[:count]:
            np.maximum(largest, np.abs(row, out=size), out=largest)
        broken = ~np.isfinite(largest)
        bad = int(np.count_nonzero(broken))
        if bad:
            values[:, broken], largest[broken] = 0.0, 0.0
        stored = tensor.infos[0].dtype
        length, step = measure(values[count].astype(np.float32), largest.astype(np.float32), stored)
        active = self._rounded(tensor, values)
        values[:count] -= values[count]
        equal = n - np.count_nonzero(values[:count], axis=1)
        near = self.near[:, :n]
        np.copyto(near, values[:count], casting="same_kind")
        plain = (near @ near.T).astype(np.float64)
        values /= length
        ratio = (step[active] / length[active]).astype(np.float64)
        expected = float(ratio @ ratio)
        own = np.array([own_rounding(stored, info.dtype) for info in tensor.infos[1:]]) * expected
        return Sums(values @ values.T, expected, int(np.count_nonzero(active)), own, equal, n, plain), bad

    def _rounded(self, tensor: Aligned, values: np.ndarray) -> np.ndarray:
        """Which elements a merge had to round: where candidates differ, or hold numbers that the merge's dtype has not."""
        stored, candidates = tensor.infos[0].dtype, tensor.infos[1:]
        if any(finer(info.dtype, stored) for info in candidates):
            return np.ones(values.shape[1], bool)
        different = np.zeros(values.shape[1], bool)
        for row in values[1 : self.count]:
            different |= row != values[0]
        return different
