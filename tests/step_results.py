"""A step worked out on arrays, in pieces of a chosen length, as the engine does on files."""

from __future__ import annotations

import numpy as np

from unetscope.merge import METHODS
from unetscope.merge.evaluate import evaluate
from unetscope.merge.linear_combination import LinearCombination, MethodCall
from unetscope.merge.measure import measure
from unetscope.merge.tensor_slice import TensorSlice, whole_rows


def result(name, arrays, *, names=None, key="k", length=1 << 16, **values) -> np.ndarray:
    """What a method that measures makes of arrays (fp32), in their shape; of methods on differences the first is the base."""
    method, shape = METHODS[name], arrays[0].shape
    names = list(names or (f"m{i}" for i in range(len(arrays))))
    models = [LinearCombination.of_model(i) for i in range(len(arrays))]
    inputs = (
        [LinearCombination.combined((1.0, -1.0), [f, models[0]]) for f in models[1:]] if method.on_deltas else models
    )
    given = {p.name: p.default for p in method.parameters.values()} | values
    for p in method.parameters.values():
        if p.kind == "numbers" and not isinstance(given[p.name], tuple):
            given[p.name] = (given[p.name],) * len(inputs)
    sources = tuple(names[len(arrays) - len(inputs) :])
    combination = LinearCombination.of(MethodCall(method, tuple(sorted(given.items())), tuple(inputs), sources))
    if method.on_deltas:
        combination = LinearCombination.combined((1.0, 1.0), [models[0], combination])
    flat, tensor_slice = [np.ascontiguousarray(a, np.float32).reshape(-1) for a in arrays], TensorSlice(key, shape, ())
    length = whole_rows(length, tensor_slice.row) if method.rows else length

    def pieces(models):
        for start in range(0, flat[0].size, length):
            yield start, {i: flat[i][start : start + length] for i in models}

    measured = measure(combination, tensor_slice, pieces)
    combination = combination.substituted(measured)
    out = [
        evaluate(combination, values, start, tensor_slice, measured) for start, values in pieces(combination.models())
    ]
    return np.concatenate(out).reshape(shape)
