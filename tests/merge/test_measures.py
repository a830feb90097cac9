"""What methods declare of what they measure is what they do."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from unetscope.merge import METHODS
from unetscope.merge.linear_combination import LinearCombination, MethodCall
from unetscope.merge.measure import measure
from unetscope.merge.tensor_slice import TensorSlice

SHAPE = (8, 8)


def reads(method, values: dict) -> int:
    """How often a tensor is read when the method makes it: for everything that it measures, and once to write it."""
    count, numbers = len(method.inputs) if not method.variadic else 3, np.random.default_rng(0)
    arrays = [numbers.standard_normal(64).astype(np.float32) for _ in range(count)]
    given = {p.name: (p.default,) * count if p.kind == "numbers" else p.default for p in method.parameters.values()}
    inputs = tuple(LinearCombination.of_model(i) for i in range(count))
    call = MethodCall(method, tuple(sorted((given | values).items())), inputs, tuple("abc"[:count]))
    found = []

    def pieces(models):
        found.append(models)
        yield 0, {i: arrays[i] for i in models}

    measure(LinearCombination.of(call), TensorSlice("k", SHAPE, ()), pieces)
    return len(found) + 1


@pytest.mark.parametrize("name", [m.name for m in METHODS.values() if m.kind == "statistics"])
def test_no_choice_reads_more_often_than_a_method_declares_and_some_choice_reads_as_often(name):
    method = METHODS[name]
    choices = {p.name: p.choices for p in method.parameters.values() if p.kind == "choice"}
    often = {reads(method, dict(zip(choices, chosen, strict=True))) for chosen in product(*choices.values())}
    assert max(often) == method.passes
