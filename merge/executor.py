"""Runs a plan: reads pieces of the inputs, lets methods measure, computes pieces of the result, and hands them over.

What comes out is not decided here, only in what lengths it is made. Each thread owns its buffers; a piece is read, worked on and
handed over before the next one, so memory does not depend on how large the models are.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np

from ..checkpoints.files.resumable import ResumableFile
from ..checkpoints.kernels import kernel
from ..checkpoints.stream import Pass, Span, spans
from .coalesce import Extent, coalesced
from .evaluate import Measured
from .measure import measure
from .nonfinite import NonFinite
from .plan import Plan, TensorPlan
from .tensor_slice import whole_rows

# Takes a piece of the result: its tensor, its first element, and its raw bytes, which are overwritten by the next piece. Called
# from several threads; a tensor's pieces come in any order. Where neighbours are joined, "its tensor" may be all of them.
Put = Callable[[TensorPlan, int, np.ndarray], None]


def execute(
    plan: Plan,
    put: Put,
    nonfinite: NonFinite,
    over: Pass,
    finished: Container[str] = (),
    offsets: Mapping[str, int] | None = None,
    resumed: ResumableFile | None = None,
) -> None:
    """Work out every tensor of a plan but those that are finished, and hand the pieces to `put`.

    Neighbours are joined where `offsets` says where each tensor begins in the output. A resumable file is told of every tensor
    that is complete.
    """
    extents, length = coalesced(plan, offsets, finished), plan.piece_length
    tensors = [extent.whole for extent in extents]
    pieces = spans([t.elements if t.in_parts else 0 for t in tensors], length)
    at_once = [Span(i, 0, t.elements) for i, t in enumerate(tensors) if not t.in_parts and t.elements]
    longest = max([length, *(t.elements for t in tensors if not t.rule.in_parts), *(t.row for t in tensors)])
    unwritten = _Unwritten(plan, extents, nonfinite, resumed) if resumed else None

    def cost(piece: Span) -> int:
        tensor = tensors[piece.index]
        return (tensor.nbytes + tensor.bytes_read) * piece.elements // max(tensor.elements, 1)

    def key(piece: Span) -> str:
        number, _, _ = next(extents[piece.index].parts(piece.start, piece.stop))
        return plan.tensors[number].key

    over.run(
        sorted([*pieces, *at_once], key=lambda piece: piece.index),
        lambda: _Worker(plan, extents, put, nonfinite, longest, unwritten),
        weight=cost,
        total=sum(t.nbytes + t.bytes_read for t in tensors),
        key=key,
    )


class _Worker:
    """One thread's part of a run: makes the spans that it is called with.

    Args:
        longest: the elements of the longest piece.
    """

    def __init__(
        self,
        plan: Plan,
        extents: list[Extent],
        put: Put,
        nonfinite: NonFinite,
        longest: int,
        unwritten: _Unwritten | None,
    ):
        self._plan, self._extents, self._put, self._nonfinite, self._unwritten = (
            plan,
            extents,
            put,
            nonfinite,
            unwritten,
        )
        self._length, self._buffers = plan.piece_length, _Buffers(plan, longest)

    def __call__(self, span: Span) -> None:
        extent = self._extents[span.index]
        length = whole_rows(self._length, extent.whole.row)
        tensor, measured = self._measured(extent.whole, length)
        if not tensor.rule.in_parts:
            length = tensor.elements
        for start in range(span.start, span.stop, length):
            stop = min(start + length, span.stop)
            raw = self._fused(tensor, start, stop)
            if raw is not None:
                self._put(tensor, start, raw)
                continue
            # Not one fused loop, or something is not finite: tensor by tensor, looking for the reason.
            for one, first, last in (
                [(tensor, start, stop)] if extent.single else extent.tensors(self._plan, start, stop)
            ):
                self._put(one, first, self._made(one, first, last, measured))
        if self._unwritten:
            self._unwritten.wrote(span)

    # -- methods that measure -------------------------------------------------------------------------------------------

    def _measured(self, tensor: TensorPlan, length: int) -> tuple[TensorPlan, Measured]:
        """A tensor whose methods have measured what they need to know, in pieces of `length`, and what they found; most tensors
        have no such methods."""
        if not tensor.combination.measuring():
            return tensor, {}

        def pieces(models: tuple[int, ...]) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
            for piece in spans([tensor.elements], length if tensor.rule.in_parts else tensor.elements):
                yield piece.start, self._parts(tensor, self._decoded(tensor, models, piece.start, piece.stop))

        measured = measure(tensor.combination, tensor.slice, pieces)
        combination = tensor.combination.substituted(measured)
        # Where inputs differ in shape all of them stay: what of each is merged depends on them.
        reads = [i for i in tensor.inputs if i in combination.models() or not tensor.rule.in_parts]
        return replace(tensor, combination=combination, inputs={i: tensor.inputs[i] for i in reads}), measured

    # -- pieces of the result -------------------------------------------------------------------------------------------

    def _fused(self, tensor: TensorPlan, start: int, stop: int) -> np.ndarray | None:
        """The raw bytes of a piece that is copied, or that one loop makes of one dtype. None where that will not do: the tensor
        is no such sum, or something is not finite."""
        models, dtypes = tensor.combination.linear_models(), {info.dtype for info in tensor.inputs.values()}
        if models is None or len(dtypes) != 1 or not tensor.rule.in_parts:
            return None
        out = self._buffers.output[: (stop - start) * tensor.dtype.size]
        if tensor.copied:
            self._copy(tensor, start, stop, out)
            return None if _bad_copy(tensor, out) else out
        (dtype,) = dtypes
        rows = self._buffers.rows(len(models), (stop - start) * dtype.size)
        for row, index in zip(rows, models, strict=True):
            self._plan.checkpoints[index].read_raw(tensor.inputs[index], start, stop, row)
        coefficients = np.array(tensor.combination.coefficients, np.float32)
        bad = kernel().linear(rows, dtype, coefficients, tensor.combination.anchor, out, tensor.dtype)
        return None if bad else out

    def _made(self, tensor: TensorPlan, start: int, stop: int, measured: Measured) -> np.ndarray:
        """The raw bytes of a piece of any tensor, values that are not finite repaired or noted."""
        out = self._buffers.output[: (stop - start) * tensor.dtype.size]
        if not tensor.rule.reads:
            out.view(np.int64)[:] = tensor.rule.counted(tensor.shape)
        elif tensor.copied:
            self._copy(tensor, start, stop, out)
            if _bad_copy(tensor, out):
                self._nonfinite.mend_copy(tensor, out)
        else:
            values = self._decoded(tensor, tensor.inputs, start, stop)
            result = self._nonfinite.value(tensor, self._parts(tensor, values), start, measured)
            first = values[next(iter(tensor.inputs))]
            kernel().encode(tensor.rule.around(result, tensor.merged_shape, first, tensor.shape), tensor.dtype, out)
        return out

    # -- reading --------------------------------------------------------------------------------------------------------

    def _copy(self, tensor: TensorPlan, start: int, stop: int, out: np.ndarray) -> None:
        index = tensor.combination.single.index
        self._plan.checkpoints[index].read_raw(tensor.inputs[index], start, stop, out)

    def _decoded(self, tensor: TensorPlan, models: Iterable[int], start: int, stop: int) -> dict[int, np.ndarray]:
        """A piece of some inputs as fp32, until the next one; where inputs differ in shape, all of each."""
        raws, values = {}, {}
        for slot, index in enumerate(models):
            info = tensor.inputs[index]
            first, last = (start, stop) if tensor.rule.in_parts else (0, info.elements)
            raws[index] = self._buffers.raw(slot, (last - first) * info.dtype.size)
            self._plan.checkpoints[index].read_raw(info, first, last, raws[index])
        for slot, (index, raw) in enumerate(raws.items()):
            dtype = tensor.inputs[index].dtype
            values[index] = self._buffers.single(slot, raw.size // dtype.size)
            kernel().decode(raw, dtype, values[index])
        return values

    def _parts(self, tensor: TensorPlan, values: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """What of the inputs' values is merged."""
        if tensor.rule.in_parts:
            return values
        merged = tensor.merged_shape
        return {i: tensor.rule.part(v, tensor.inputs[i].shape, merged) for i, v in values.items()}


def _bad_copy(tensor: TensorPlan, raw: np.ndarray) -> bool:
    """Whether a copy holds values that are not finite, and is not a buffer, which may."""
    if not tensor.weight:
        return False
    return bool(kernel().count_bad(raw, tensor.dtype))


class _Buffers:
    """A thread's memory: raw inputs side by side, the same as fp32 where that is needed, and one raw output.

    It is used again for every piece: fresh memory would cost the system more time than reading into it.
    """

    def __init__(self, plan: Plan, length: int):
        self._count, self._length, self._widest = plan.most_inputs, length, plan.widest_input
        self._inputs = np.empty(self._count * length * self._widest, np.uint8)
        self._singles: np.ndarray | None = None
        self.output = np.empty(length * 8, np.uint8)

    def rows(self, count: int, nbytes: int) -> np.ndarray:
        return self._inputs[: count * nbytes].reshape(count, nbytes)

    def raw(self, slot: int, nbytes: int) -> np.ndarray:
        """Room for a piece of the `slot`-th input as it is stored."""
        start = slot * self._length * self._widest
        return self._inputs[start : start + nbytes]

    def single(self, slot: int, elements: int) -> np.ndarray:
        """Room for a piece of the `slot`-th input as fp32."""
        if self._singles is None:
            self._singles = np.empty((self._count, self._length), np.float32)
        return self._singles[slot, :elements]


class _Unwritten:
    """Counts the elements that tensors still lack, and tells a resumable file of those that lack none."""

    def __init__(self, plan: Plan, extents: list[Extent], nonfinite: NonFinite, out: ResumableFile):
        self._tensors, self._extents, self._nonfinite, self._out = plan.tensors, extents, nonfinite, out
        self._lacking, self._guard = [t.elements for t in plan.tensors], threading.Lock()

    def wrote(self, span: Span) -> None:
        complete = []
        with self._guard:
            for number, start, stop in self._extents[span.index].parts(span.start, span.stop):
                self._lacking[number] -= stop - start
                if not self._lacking[number]:
                    complete.append(self._tensors[number].key)
        for key in complete:
            self._out.finish(key, self._nonfinite.noted(key))
