"""Tensors that merge as one: those that lie one after another in every input and in the output, and are the same combination.

Files of one layout make a merge a few long extents instead of a thousand tensors, most of them smaller than what is read at a time.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass, replace

from ..checkpoints import Checkpoint
from ..checkpoints.checkpoint import TensorInfo
from ..checkpoints.tensors import StoredTensor
from .plan import Plan, TensorPlan
from .shape_rule import SAME


@dataclass(frozen=True, slots=True)
class Extent:
    """Tensors of a plan that follow one another, from the `first` on, as one; or a single tensor.

    Attributes:
        whole: the one: all their elements, under the first one's key.
        starts: where each begins in it, and where the last ends, in elements.
    """

    whole: TensorPlan
    first: int
    starts: tuple[int, ...]

    @property
    def single(self) -> bool:
        return len(self.starts) == 2

    def parts(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """The tensors that elements `start` to `stop` belong to: each one's number in the plan, and which of its own they are."""
        n = bisect_right(self.starts, start) - 1
        while n < len(self.starts) - 1 and self.starts[n] < stop:
            begins, ends = self.starts[n : n + 2]
            yield self.first + n, max(start - begins, 0), min(stop, ends) - begins
            n += 1

    def tensors(self, plan: Plan, start: int, stop: int) -> Iterator[tuple[TensorPlan, int, int]]:
        """The tensors that elements `start` to `stop` belong to, each with which of its own they are."""
        for number, first, last in self.parts(start, stop):
            yield plan.tensors[number], first, last


def coalesced(plan: Plan, offsets: Mapping[str, int] | None, without: Container[str] = ()) -> list[Extent]:
    """A plan's tensors, neighbours joined.

    Args:
        offsets: where each tensor begins in the output, in bytes; None where it goes nowhere that tensors could be neighbours.
        without: keys of tensors that are left out.
    """
    found: list[Extent] = []
    joined: list[TensorPlan] = []

    def end() -> None:
        if joined:
            found.append(_extent(joined, first))
            joined.clear()

    for number, tensor in enumerate(plan.tensors):
        if tensor.key in without:
            end()
            continue
        if not (joined and offsets and _follows(plan, joined[-1], tensor, offsets)):
            end()
            first = number
        joined.append(tensor)
    end()
    return found


def _extent(tensors: list[TensorPlan], first: int) -> Extent:
    starts = [0]
    for tensor in tensors:
        starts.append(starts[-1] + tensor.elements)
    if len(tensors) == 1:
        return Extent(tensors[0], first, tuple(starts))
    head, shape = tensors[0], (starts[-1],)
    inputs = {
        index: replace(info, key=head.key, stored=_stretched(info.stored, shape)) for index, info in head.inputs.items()
    }
    return Extent(replace(head, shape=shape, inputs=inputs), first, tuple(starts))


def _stretched(stored: StoredTensor, shape: tuple[int]) -> StoredTensor:
    (piece,) = stored.pieces
    return StoredTensor.at(stored.name, stored.dtype, shape, piece.path, piece.offset)


def _follows(plan: Plan, before: TensorPlan, tensor: TensorPlan, offsets: Mapping[str, int]) -> bool:
    """Whether a tensor is what the one before it is, and lies right behind it wherever it is read and written."""
    return (
        before.dtype == tensor.dtype
        and before.combination == tensor.combination
        and before.buffer == tensor.buffer
        and offsets[before.key] + before.nbytes == offsets[tensor.key]
        and before.combination.linear_models() is not None
        and before.rule is tensor.rule is SAME
        and before.inputs.keys() == tensor.inputs.keys()
        and all(_adjacent(plan.checkpoints[i], info, tensor.inputs[i]) for i, info in before.inputs.items())
    )


def _adjacent(checkpoint: Checkpoint, before: TensorInfo, info: TensorInfo) -> bool:
    a, b = before.stored, info.stored
    if type(checkpoint) is not Checkpoint or a.dtype != b.dtype or not (a.contiguous and b.contiguous):
        return False  # a LoRA's tensors are worked out, not read
    if a.coded or b.coded:
        return False  # each is decoded with scales of its own
    if len(a.pieces) != 1 or len(b.pieces) != 1:
        return False
    (p,), (q,) = a.pieces, b.pieces
    return p.path == q.path and p.offset + a.nbytes == q.offset
