"""Steps that must know a whole tensor before they can write an element of it: what they measure, and what follows.

Tensor by tensor: the tensors of all inputs are read piece by piece once for every reduction that a method asks for, and after
that once more for the output, while the system still has them in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from .evaluate import Solved, is_broken, mended, tiles
from .forms import Applied, Form
from .spot import Spot

# Pieces of a tensor, in order: the first element's place, and model index -> fp32 values.
Pieces = Callable[[tuple[int, ...]], Iterator[tuple[int, dict[int, np.ndarray]]]]


def unsolved(form: Form) -> list[Applied]:
    """The steps below a form that have to be solved for each tensor, in the order in which that can be done."""
    return [step for step in form.applied() if step.method.kind in ("statistics", "whole")]


def solve(form: Form, spot: Spot, pieces: Pieces) -> Solved:
    """Measure what the steps below a form need to know of a tensor.

    Args:
        form: what the tensor comes to.
        spot: the tensor.
        pieces: reads the tensors of the models that are named by index, anew each time.

    Returns:
        step -> the weighted sum that it is, the function on tiles that it is, or its whole result, flat.
    """
    solved: dict[Applied, Any] = {}
    for step in unsolved(form):
        at = replace(spot, names=step.sources)
        inputs = tuple(f.resolved({s: x for s, x in solved.items() if isinstance(x, Form)}) for f in step.inputs)
        # Differences too large for fp32 are found in the result, and said there.
        with np.errstate(all="ignore"):
            if step.method.kind == "whole":
                solved[step] = _whole(step, inputs, at, pieces, solved)
                continue
            found = _measured(step, inputs, at, pieces, solved)
        solved[step] = Form.combined(tuple(map(float, found)), list(inputs)) if not callable(found) else found
    return solved


def _walk(
    step: Applied, inputs: tuple[Form, ...], at: Spot, pieces: Pieces, solved: Mapping
) -> Iterator[tuple[int, list[np.ndarray]]]:
    """The tiles of a step's inputs, over the whole tensor."""
    for start, values in pieces(step.models):
        sound = mended(values) if is_broken(values) else values
        for tile, found in tiles(inputs, sound, start, at, solved, step.method.rows):
            yield start + tile.start, found


def _measured(step: Applied, inputs: tuple[Form, ...], at: Spot, pieces: Pieces, solved: Mapping) -> Any:
    """Run the generator of a method: feed each reduction that it yields; returns what it returns."""
    method = step.method.function(*range(at.count), **_given(step, at))
    try:
        reduction = next(method)
        while True:
            for start, found in _walk(step, inputs, at, pieces, solved):
                reduction.add(found, start)
            reduction = method.send(reduction.result())
    except StopIteration as end:
        return end.value


def _whole(step: Applied, inputs: tuple[Form, ...], at: Spot, pieces: Pieces, solved: Mapping) -> np.ndarray:
    """The result of a method on whole tensors, flat."""
    arrays = [np.empty(at.elements, np.float32) for _ in inputs]
    for start, found in _walk(step, inputs, at, pieces, solved):
        for array, values in zip(arrays, found, strict=True):
            array[start : start + values.size] = values
    if not all(np.isfinite(array).all() for array in arrays):
        # A difference too large for fp32, of which no decomposition is known: so is the result.
        return np.full(at.elements, np.nan, np.float32)
    result = step.method.function(*(a.reshape(at.shape) for a in arrays), **_given(step, at))
    return np.asarray(result, np.float32).reshape(-1)


def _given(step: Applied, at: Spot) -> dict[str, Any]:
    """The parameters of a step, and the tensor where its method asks for it."""
    return dict(step.values) | ({"at": at} if "at" in step.method.supplied else {})
