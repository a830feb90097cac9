"""Predicted distances against running the merge and measuring."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from places import place
from tiny import load

from unetscope.analysis.gram import gram_matrices
from unetscope.merge import MergeError, Recipe, merge
from unetscope.merge.planner import planned
from unetscope.merge.predict import distances_from_gram, predict, predicted_distances

NUMBERS = st.floats(-3, 3, allow_nan=False)


@settings(max_examples=60, deadline=None)
@given(arrays(np.float64, (4, 7), elements=NUMBERS), arrays(np.float64, 4, elements=NUMBERS))
def test_distances_are_those_of_the_sum_itself(models, shares):
    found = distances_from_gram(models @ models.T, shares)
    expected = np.linalg.norm(shares @ models - models, axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


def test_many_sums_at_once_broadcast():
    rng = np.random.default_rng(0)
    models, shares = rng.standard_normal((3, 4, 9)), rng.standard_normal((3, 4))
    found = distances_from_gram(models @ models.transpose(0, 2, 1), shares)
    for i in range(3):
        np.testing.assert_allclose(found[i], np.linalg.norm(shares[i] @ models[i] - models[i], axis=1))
    assert distances_from_gram(np.eye(2), np.array([[0.5, 0.5], [1, 0]])).shape == (2, 2)


def test_models_that_are_near_each_other_keep_their_digits():
    rng = np.random.default_rng(1)
    base = rng.standard_normal(100_000)
    models = base + 1e-4 * rng.standard_normal((3, 100_000))
    shares = np.array([0.2, 0.3, 0.5])
    expected = np.linalg.norm(shares @ models - models, axis=1)
    np.testing.assert_allclose(distances_from_gram(models @ models.T, shares), expected, rtol=1e-6)


def written(paths, step, dtype="fp32", **more) -> Recipe:
    models = {n: str(paths[n]) for n in step["inputs"] if n in paths}
    return Recipe.parse({"models": models, "steps": {"x": step}, "output": {"dtype": dtype}, **more})


STEPS = [
    {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"IN*": 0.25, "OUT*": 0.75, "BASE": 0.1, "attn2": 0.5}},
    {"method": "add_difference", "inputs": ["a", "b", "c"], "alpha": 0.8},
    {"method": "weighted_average", "inputs": ["a", "b", "c"], "weights": [0.3, 0.3, 0.3], "normalise": False},
    {"method": "uniform", "inputs": ["a", "b", "c"]},
]


@pytest.mark.one_by_one
@pytest.mark.parametrize("step", STEPS, ids=lambda s: s["method"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_the_prediction_is_what_the_merge_does(step, dtype, make_checkpoint, tmp_path):
    made = {n: make_checkpoint(n, seed=i) for i, n in enumerate("abc")}
    recipe = written({n: p for n, (p, _) in made.items()}, step, dtype)
    frame = predict(recipe).set_index("label")
    merge(recipe, tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    for label, row in frame.iterrows():
        keys = [k for k in out if place(k).label == label and out[k].is_floating_point()]
        assert row["parameters"] == sum(out[k].numel() for k in keys)
        for name in step["inputs"]:
            values = made[name][1]
            squares = sum(float((out[k].double() - values[k].double()).square().sum()) for k in keys)
            length = sum(float(values[k].double().square().sum()) for k in keys) ** 0.5
            assert row[f"distance {name}"] == pytest.approx(squares**0.5, rel=1e-5, abs=1e-4 * length)
            assert row[f"relative {name}"] == pytest.approx(row[f"distance {name}"] / length, rel=1e-9)


def test_other_weights_need_no_second_pass(make_checkpoint):
    paths = {n: make_checkpoint(n, seed=i)[0] for i, n in enumerate("ab")}
    recipes = [written(paths, {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": x}) for x in (0.0, 0.5, 1.0)]
    with planned(recipes[1]) as plan:
        table = gram_matrices(plan.checkpoints)
    for recipe, far in zip(recipes, ((0, 1), (0.5, 0.5), (1, 0)), strict=True):
        with planned(recipe) as plan:
            whole = predicted_distances(plan, table, "component").set_index("component").loc["unet"]
        apart = np.sqrt(whole["distance a"] ** 2 + whole["distance b"] ** 2) / np.hypot(*far)
        assert whole["distance a"] == pytest.approx(far[0] * apart, abs=1e-6)
        assert whole["distance b"] == pytest.approx(far[1] * apart, abs=1e-6)


def test_steps_that_are_not_linear_are_refused_by_name(make_checkpoint):
    paths = {n: make_checkpoint(n, seed=i)[0] for i, n in enumerate("abc")}
    with pytest.raises(MergeError, match="train_difference"):
        predict(written(paths, {"method": "train_difference", "inputs": ["a", "b", "c"]}))


def test_a_table_of_other_models_is_refused(make_checkpoint):
    paths = {n: make_checkpoint(n, seed=i)[0] for i, n in enumerate("abc")}
    with planned(written(paths, STEPS[0])) as other:
        table = gram_matrices(other.checkpoints)
    refused = pytest.raises(MergeError, match="inner products of 2 models do not fit a recipe of 3")
    with planned(written(paths, STEPS[3])) as plan, refused:
        predicted_distances(plan, table)


def test_what_one_model_lacks_is_left_out_and_said(make_checkpoint):
    key = "model.diffusion_model.middle_block.1.proj_in.weight"
    a, b = (
        make_checkpoint("a")[0],
        make_checkpoint("b", seed=2, change=lambda t: {k: v for k, v in t.items() if k != key})[0],
    )
    frame = predict(written({"a": a, "b": b}, STEPS[0]), by="tensor")
    assert key not in set(frame["key"]) and key in frame.attrs["left_out"]


def test_what_is_not_finite_is_left_out_and_said_and_nothing_else_suffers(make_checkpoint):
    key = "model.diffusion_model.middle_block.1.proj_in.weight"

    def damage(tensors):
        tensors[key].view(-1)[0] = float("nan")
        return tensors

    a, b = make_checkpoint("a")[0], make_checkpoint("b", seed=2)[0]
    damaged = make_checkpoint("damaged", seed=2, change=damage)[0]
    whole = predict(written({"a": a, "b": b}, STEPS[0]), by="tensor")
    frame = predict(written({"a": a, "b": damaged}, STEPS[0]), by="tensor")
    assert frame.attrs["left_out"][key] == "NaN or infinite weights"
    pd.testing.assert_frame_equal(frame, whole[whole["key"] != key].reset_index(drop=True))
