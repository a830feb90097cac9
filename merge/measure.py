"""Methods that must know a whole tensor before they can write an element of it: what they measure, and what follows.

Tensor by tensor: the tensors of all inputs are read piece by piece once for every reduction that a method asks for, and after
that once more for the output, while the system still has them in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .evaluate import Measured, has_nonfinite, nonfinite_as_zero, tiles
from .linear_combination import LinearCombination, MethodCall
from .tensor_slice import TensorSlice

# Pieces of a tensor, in order: the first element's place, and model index -> fp32 values.
Pieces = Callable[[tuple[int, ...]], Iterator[tuple[int, dict[int, np.ndarray]]]]


def measure(combination: LinearCombination, tensor: TensorSlice, pieces: Pieces) -> Measured:
    """Measure what the methods below a combination need to know of a tensor.

    Args:
        combination: what the tensor comes to.
        tensor: the tensor.
        pieces: reads the tensors of the models that are named by index, anew each time.

    Returns:
        call -> the linear combination that it is, the function on tiles that it is, or its whole result, flat.
    """
    measured: dict[MethodCall, Any] = {}
    for call in combination.measuring():
        inputs = tuple(each.substituted(measured) for each in call.inputs)
        run = _Measurement(call, inputs, replace(tensor, names=call.sources), pieces, measured)
        # Differences too large for fp32 are found in the result, and said there.
        with np.errstate(all="ignore"):
            found = run.on_whole_tensors() if call.method.kind == "whole" else run.on_reductions()
        of_shares = call.method.kind != "whole" and not callable(found)
        measured[call] = LinearCombination.combined(tuple(map(float, found)), list(inputs)) if of_shares else found
    return measured


@dataclass(frozen=True)
class _Measurement:
    """A call of a method on one tensor.

    Attributes:
        inputs: of the call, calls below it that turned out to be linear combinations replaced by these.
        at: the tensor.
        measured: what the calls below found.
    """

    call: MethodCall
    inputs: tuple[LinearCombination, ...]
    at: TensorSlice
    pieces: Pieces
    measured: Mapping

    def on_reductions(self) -> Any:
        """Run the generator of a method: feed each reduction that it yields; returns what it returns."""
        method = self.call.method.function(*range(self.at.count), **self._given())
        try:
            reduction = next(method)
            while True:
                for start, found in self._tiles():
                    reduction.add(found, start)
                reduction = method.send(reduction.result())
        except StopIteration as end:
            return end.value

    def on_whole_tensors(self) -> np.ndarray:
        """The result of a method on whole tensors, flat."""
        arrays = [np.empty(self.at.elements, np.float32) for _ in self.inputs]
        for start, found in self._tiles():
            for array, values in zip(arrays, found, strict=True):
                array[start : start + values.size] = values
        if not all(np.isfinite(array).all() for array in arrays):
            # A difference too large for fp32, of which no decomposition is known: so is the result.
            return np.full(self.at.elements, np.nan, np.float32)
        result = self.call.method.function(*(a.reshape(self.at.shape) for a in arrays), **self._given())
        return np.asarray(result, np.float32).reshape(-1)

    def _tiles(self) -> Iterator[tuple[int, list[np.ndarray]]]:
        """The tiles of the inputs, over the whole tensor."""
        for start, values in self.pieces(self.call.models):
            sound = nonfinite_as_zero(values) if has_nonfinite(values) else values
            for tile, found in tiles(self.inputs, sound, start, self.at, self.measured, self.call.method.rows):
                yield start + tile.start, found

    def _given(self) -> dict[str, Any]:
        """The parameters of the call, and the tensor where its method asks for it."""
        return dict(self.call.values) | ({"at": self.at} if "at" in self.call.method.supplied else {})
