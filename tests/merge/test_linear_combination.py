"""What recipes come to for one tensor: combinations, against steps carried out one after another."""

from __future__ import annotations

from fractions import Fraction

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from unetscope.merge import METHODS
from unetscope.merge.evaluate import evaluate
from unetscope.merge.linear_combination import LinearCombination, MethodCall, Model

MODELS = 4
# Numbers that binary holds exactly, so that sums of products are exact in fractions and nearly so in doubles.
EXACT = st.integers(-32, 32).map(lambda n: n / 16)
LINEAR = ("uniform", "weighted_sum", "weighted_average", "add_difference", "sum_twice", "triple_sum", "copy")


@st.composite
def trees(draw, methods=LINEAR, depth=4):
    """A nested recipe: a model's index, or (method, parameters, inputs)."""
    if depth == 0 or draw(st.integers(0, 3)) == 0:
        return draw(st.integers(0, MODELS - 1))
    method = METHODS[draw(st.sampled_from(methods))]
    count = len(method.inputs) or draw(st.integers(1, 4))
    values = {}
    for p in method.parameters.values():
        if p.kind == "switch":
            values[p.name] = False
        else:
            values[p.name] = draw(EXACT) if p.kind == "number" else [draw(EXACT) for _ in range(count)]
    return method.name, values, [draw(trees(methods, depth - 1)) for _ in range(count)]


def combination(tree) -> LinearCombination:
    """The combination of a recipe, as the plan builds it."""
    if isinstance(tree, int):
        return LinearCombination.of_model(tree)
    name, values, inputs = tree
    method, combinations = METHODS[name], [combination(t) for t in inputs]
    if method.kind == "linear":
        return LinearCombination.combined(method.shares(len(combinations), values), combinations)
    return LinearCombination.of(MethodCall(method, tuple(sorted(values.items())), tuple(combinations)))


def exact(tree, x):
    """The recipe carried out step by step in fractions, by formulas written out here."""
    if isinstance(tree, int):
        return x[tree]
    name, values, inputs = tree
    v = [exact(t, x) for t in inputs]
    p = {k: [Fraction(n) for n in n_s] if isinstance(n_s := w, list) else Fraction(w) for k, w in values.items()}
    if name == "uniform":
        return sum(v) / len(v)
    if name == "weighted_average":
        return sum(w * value for w, value in zip(p["weights"], v, strict=True))
    if name == "copy":
        return v[0]
    alpha, beta = p["alpha"], p.get("beta")
    return {
        "weighted_sum": lambda: v[0] + alpha * (v[1] - v[0]),
        "add_difference": lambda: v[0] + alpha * (v[1] - v[2]),
        "sum_twice": lambda: (1 - beta) * (v[0] + alpha * (v[1] - v[0])) + beta * v[2],
        "triple_sum": lambda: v[0] + alpha * (v[1] - v[0]) + beta * (v[2] - v[0]),
    }[name]()


@settings(max_examples=300, deadline=None)
@given(trees())
def test_nested_linear_steps_are_one_sum_with_the_coefficients_of_their_expansion(tree):
    found = combination(tree)
    got = dict(zip(found.linear_models(), found.coefficients, strict=True))
    for i in range(MODELS):
        # The coefficient of a model is what the recipe makes of 1 for that model and 0 for the others.
        expected = exact(tree, [Fraction(int(i == j)) for j in range(MODELS)])
        assert got.get(i, 0.0) == pytest.approx(float(expected), rel=1e-12, abs=1e-11)


def steps(tree, x):
    """A recipe of any methods carried out step by step in double precision."""
    if isinstance(tree, int):
        return x[tree]
    name, values, inputs = tree
    v = [steps(t, x) for t in inputs]
    if name != "train_difference":
        flat = exact((name, values, list(range(len(v)))), [Vector(t) for t in v])
        return flat.values
    a, b, c = v
    both = np.abs(b - a) + np.abs(b - c)
    near = np.divide(np.abs(b - a), both, out=np.zeros_like(both), where=both > 0)
    return a + 1.8 * values["alpha"] * near * (b - c)


class Vector:
    """An array that fractions multiply."""

    def __init__(self, values):
        self.values = np.asarray(values, np.float64)

    def __add__(self, other):
        return Vector(self.values + (other.values if isinstance(other, Vector) else other))

    def __sub__(self, other):
        return Vector(self.values - other.values)

    def __rmul__(self, factor):
        return Vector(float(factor) * self.values)

    def __truediv__(self, number):
        return Vector(self.values / number)

    __radd__ = __add__


@settings(max_examples=150, deadline=None)
@given(trees(methods=(*LINEAR, "train_difference"), depth=3), st.integers(0, 2**32 - 1))
def test_a_form_has_the_value_of_its_steps_carried_out_one_by_one(tree, seed):
    values = np.random.default_rng(seed).standard_normal((MODELS, 50)).astype(np.float32)
    got = evaluate(combination(tree), dict(enumerate(values)))
    expected = steps(tree, values.astype(np.float64))
    assert got.dtype == np.float32
    # Fp32 steps of values that grow with every difference that is added; 0/0-like quotients amplify a rounding.
    scale = max(1.0, np.abs(expected).max(), sensitivity(tree))
    assert np.median(np.abs(got - expected)) <= 1e-5 * scale
    assert np.max(np.abs(got - expected)) <= 2e-2 * scale


def sensitivity(tree):
    """How large the values on the way can get, at most, for inputs of size 5."""
    if isinstance(tree, int):
        return 5.0
    _, values, inputs = tree
    numbers = [abs(n) for w in values.values() for n in (w if isinstance(w, list) else [w])]
    return (1 + 2 * sum(numbers)) ** 2 * max(map(sensitivity, inputs))


@given(trees())
def test_models_of_a_form_are_listed_once_and_with_a_coefficient(tree):
    found = combination(tree)
    assert len(set(found.models())) == len(found.models())
    assert all(c != 0 for c in found.coefficients) or len(found.coefficients) == 1


@given(st.integers(2, 60))
def test_equal_shares_have_an_anchor_and_stand_for_the_mean(n):
    found = LinearCombination.combined((1 / n,) * n, [LinearCombination.of_model(i) for i in range(n)])
    assert found.coefficients == (1 / n,) * n
    assert found.anchor == 0


def test_a_tree_of_halves_is_uniform_only_for_powers_of_two():
    half = ("weighted_sum", {"alpha": 0.5})
    assert combination((*half, [(*half, [0, 1]), (*half, [2, 3])])).coefficients == (0.25,) * 4
    assert combination((*half, [(*half, [0, 1]), 2])).coefficients == (0.25, 0.25, 0.5)


def test_what_is_added_and_taken_away_again_is_gone():
    plus = ("add_difference", {"alpha": 0.1}, [0, 1, 2])
    assert combination(("add_difference", {"alpha": 0.1}, [plus, 2, 1])).single == Model(0)
    nothing = LinearCombination.combined((1.0, -1.0), [combination(0), combination(0)])
    assert nothing == LinearCombination((Model(0),), (0.0,))
    assert evaluate(nothing, {0: np.ones(3, np.float32)}).tolist() == [0, 0, 0]


def test_equal_elementwise_terms_join_like_models():
    td = ("train_difference", {"alpha": 0.5}, [0, 1, 2])
    joined = combination(("weighted_sum", {"alpha": 0.25}, [td, td]))
    assert len(joined.terms) == 1 and joined.coefficients == (1.0,)
    other = combination(("weighted_sum", {"alpha": 0.25}, [td, ("train_difference", {"alpha": 0.6}, [0, 1, 2])]))
    assert len(other.terms) == 2
    assert other.models() == [0, 1, 2]
    assert other.linear_models() is None


def test_a_chain_of_elementwise_steps_that_use_each_other_twice_does_not_explode():
    values = dict(enumerate(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)))
    found = combination(0)
    expected = values[0].astype(np.float64)
    for _ in range(40):
        found = LinearCombination.of(
            MethodCall(METHODS["train_difference"], (("alpha", 0.1),), (found, LinearCombination.of_model(1), found))
        )
        found = LinearCombination.combined((0.5, 0.5), [found, found])
        b = values[1].astype(np.float64)
        expected = expected + 1.8 * 0.1 * 0.5 * (b - expected)  # a = c: the shares of both distances are halves
    np.testing.assert_allclose(evaluate(found, values), expected, rtol=1e-4, atol=1e-4)


def test_a_recipe_as_deep_as_recipes_may_be_is_carried_out():
    values = dict(enumerate(np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)))
    found = combination(0)
    for _ in range(250):
        found = LinearCombination.of(
            MethodCall(
                METHODS["train_difference"],
                (("alpha", 0.0),),
                (found, LinearCombination.of_model(1), LinearCombination.of_model(2)),
            )
        )
    assert evaluate(found, values).tolist() == values[0].tolist()
