"""A step worked out on arrays, in pieces of a chosen length, as the engine does on files."""

from __future__ import annotations

import numpy as np

from unetscope.merge import METHODS
from unetscope.merge.evaluate import evaluate, whole_rows
from unetscope.merge.forms import Applied, Form, Model
from unetscope.merge.solve import solve
from unetscope.merge.spot import Spot


def result(name, arrays, *, names=None, key="k", length=1 << 16, **values) -> np.ndarray:
    """What a method that measures makes of arrays (fp32), in their shape; of methods on differences the first is the base."""
    method, shape = METHODS[name], arrays[0].shape
    names = list(names or (f"m{i}" for i in range(len(arrays))))
    forms = [Form.of(Model(i)) for i in range(len(arrays))]
    inputs = [Form.combined((1.0, -1.0), [f, forms[0]]) for f in forms[1:]] if method.on_deltas else forms
    given = {p.name: p.default for p in method.parameters.values()} | values
    for p in method.parameters.values():
        if p.kind == "numbers" and not isinstance(given[p.name], tuple):
            given[p.name] = (given[p.name],) * len(inputs)
    sources = tuple(names[len(arrays) - len(inputs) :])
    form = Form.of(Applied(method, tuple(sorted(given.items())), tuple(inputs), sources))
    if method.on_deltas:
        form = Form.combined((1.0, 1.0), [forms[0], form])
    flat, spot = [np.ascontiguousarray(a, np.float32).reshape(-1) for a in arrays], Spot(key, shape, ())
    length = whole_rows(length, spot.row) if method.rows else length

    def pieces(models):
        for start in range(0, flat[0].size, length):
            yield start, {i: flat[i][start : start + length] for i in models}

    solved = solve(form, spot, pieces)
    form = form.resolved({step: found for step, found in solved.items() if isinstance(found, Form)})
    out = [evaluate(form, values, start, spot, solved) for start, values in pieces(form.models())]
    return np.concatenate(out).reshape(shape)
