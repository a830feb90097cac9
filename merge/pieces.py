"""A piece of the result: read from the inputs, combined in fp32, rounded once."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np

from ..checkpoints.dtypes import DType, carrier
from ..checkpoints.families.parts.position_ids import positions
from ..checkpoints.kernels import kernel
from ..checkpoints.stream import spans
from .evaluate import Solved
from .faults import Faults
from .forms import Form
from .plan import Plan
from .solve import solve, unsolved
from .spot import Spot
from .tensor_plan import TensorPlan


class PieceMaker:
    """Makes pieces of a plan's tensors, on one thread. What it returns is overwritten by the next piece.

    Args:
        length: the elements of the longest piece.
    """

    def __init__(self, plan: Plan, faults: Faults, length: int):
        self._checkpoints, self._faults = plan.checkpoints, faults
        self._buffers = _Buffers(plan, length)

    def solve(self, tensor: TensorPlan, length: int) -> tuple[TensorPlan, Solved]:
        """A tensor whose steps have measured what they need to know, in pieces of `length`, and what they found; most tensors have
        no such steps."""
        if not unsolved(tensor.form):
            return tensor, {}

        def pieces(models: tuple[int, ...]) -> Iterator[tuple[int, dict[int, np.ndarray]]]:
            for piece in spans([tensor.elements], tensor.elements if tensor.widened else length):
                yield piece.start, self._decoded(tensor, self._read(tensor, models, piece.start, piece.stop))

        solved = solve(tensor.form, Spot(tensor.key, tensor.merged_shape, ()), pieces)
        form = tensor.form.resolved({step: found for step, found in solved.items() if isinstance(found, Form)})
        # Of a widened tensor all inputs stay: which channels are merged depends on them.
        reads = [i for i in tensor.inputs if i in form.models() or tensor.widened]
        return replace(tensor, form=form, inputs={i: tensor.inputs[i] for i in reads}), solved

    def fused(self, tensor: TensorPlan, start: int, stop: int) -> np.ndarray | None:
        """The raw bytes of a piece that is copied, or that one loop makes of one dtype. None where that will not do: the tensor
        is no such sum, or something is not finite."""
        models, dtypes = tensor.form.linear_models(), {info.dtype for info in tensor.inputs.values()}
        if models is None or len(dtypes) != 1 or tensor.positions or tensor.widened:
            return None
        out = self._buffers.output[: (stop - start) * tensor.dtype.size]
        if tensor.copied:
            self._copy(tensor, start, stop, out)
            return None if _bad_copy(tensor, out) else out
        (dtype,) = dtypes
        rows = self._buffers.rows(len(models), (stop - start) * dtype.size)
        for row, index in zip(rows, models, strict=True):
            self._checkpoints[index].read_raw(tensor.inputs[index], start, stop, row)
        return None if _combine(tensor, rows, dtype, out) else out

    def make(self, tensor: TensorPlan, start: int, stop: int, solved: Solved) -> np.ndarray:
        """The raw bytes of a piece of any tensor, values that are not finite repaired or noted."""
        out = self._buffers.output[: (stop - start) * tensor.dtype.size]
        if tensor.positions:
            out.view(np.int64)[:] = positions(tensor.shape, start, stop)
        elif tensor.copied:
            self._copy(tensor, start, stop, out)
            if _bad_copy(tensor, out):
                self._mend_copy(tensor, out)
        else:
            self._evaluate(tensor, start, stop, out, solved)
        return out

    def _copy(self, tensor: TensorPlan, start: int, stop: int, out: np.ndarray) -> None:
        index = tensor.form.single.index
        self._checkpoints[index].read_raw(tensor.inputs[index], start, stop, out)

    def _mend_copy(self, tensor: TensorPlan, raw: np.ndarray) -> None:
        """Note values that are not finite in a tensor that is copied as it is, and put 0 in their place."""
        elements, values = raw.view(carrier(tensor.dtype)), np.empty(raw.size // tensor.dtype.size, np.float32)
        kernel().decode(raw, tensor.dtype, values)
        broken = ~np.isfinite(values)
        self._faults.note(tensor.key, {tensor.form.single.index: int(broken.sum())})
        elements[broken] = 0

    def _evaluate(self, tensor: TensorPlan, start: int, stop: int, out: np.ndarray, solved: Solved) -> None:
        """Any form, by way of fp32 copies of the inputs."""
        raws = self._read(tensor, tensor.inputs, start, stop)
        result = self._faults.value(tensor, self._decoded(tensor, raws), start, solved)
        if tensor.widened:
            first = next(iter(tensor.inputs))
            wide = np.empty(tensor.elements, np.float32)
            kernel().decode(raws[first], tensor.inputs[first].dtype, wide)
            wide = wide.reshape(tensor.shape)
            wide[:, : tensor.merged_shape[1]] = result.reshape(tensor.merged_shape)
            result = wide.ravel()
        kernel().encode(result, tensor.dtype, out)

    def _read(self, tensor: TensorPlan, models: Iterable[int], start: int, stop: int) -> dict[int, np.ndarray]:
        """A piece of some inputs as raw bytes; of a widened tensor, where inputs differ in shape, all of it."""
        raws = {}
        for slot, index in enumerate(models):
            info = tensor.inputs[index]
            first, last = (0, info.elements) if tensor.widened else (start, stop)
            raws[index] = self._buffers.raw(slot, (last - first) * info.dtype.size)
            self._checkpoints[index].read_raw(info, first, last, raws[index])
        return raws

    def _decoded(self, tensor: TensorPlan, raws: dict[int, np.ndarray]) -> dict[int, np.ndarray]:
        """Inputs as fp32, until the next piece; of a widened tensor the channels that all have, flat."""
        values = {}
        for slot, (index, raw) in enumerate(raws.items()):
            info = tensor.inputs[index]
            values[index] = self._buffers.single(slot, raw.size // info.dtype.size)
            kernel().decode(raw, info.dtype, values[index])
            if tensor.widened:
                values[index] = values[index].reshape(info.shape)[:, : tensor.merged_shape[1]].ravel()
        return values


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


def _combine(tensor: TensorPlan, rows: np.ndarray, dtype: DType, out: np.ndarray) -> int:
    """The weighted sum of rows, rounded; returns how many elements are not finite."""
    coefficients = np.array(tensor.form.coefficients, np.float32)
    return kernel().linear(rows, dtype, coefficients, tensor.form.anchor, out, tensor.dtype)


def _bad_copy(tensor: TensorPlan, raw: np.ndarray) -> bool:
    """Whether a copy holds values that are not finite, and is no buffer, which may."""
    if tensor.buffer or not tensor.dtype.is_float:
        return False
    return bool(kernel().count_bad(raw, tensor.dtype))
