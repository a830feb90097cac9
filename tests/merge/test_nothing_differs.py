"""Where no model differs from the base, methods on differences give the base back bit for bit, signs of zeros included."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.torch import save_file
from step_results import result
from tiny import load, raw, tensors_of

from unetscope.checkpoints import kernels
from unetscope.merge import METHODS, Recipe, merge
from unetscope.merge.evaluate import evaluate
from unetscope.merge.linear_combination import LinearCombination, MethodCall

ON_DIFFERENCES = [name for name, method in METHODS.items() if method.on_deltas and method.kind != "linear"]
# Methods of which an element of the result needs no other element's difference to be 0.
BY_ELEMENT = {"ties": {}, "breadcrumbs": {}, "dare": {"rescale": "l1"}, "della": {}, "sce": {"density": 0.5}}
SPECIAL = np.array([-0.0, 0.0, 1e-40, -1e-40, 0.1, -3.0, 65504.0, -0.0], np.float32)


@pytest.fixture(params=["numba", "numpy"])
def kernel(request, monkeypatch):
    monkeypatch.setenv("UNETSCOPE_KERNEL", request.param)
    kernels.kernel.cache_clear()
    yield
    kernels.kernel.cache_clear()


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return a.dtype == b.dtype and a.tobytes() == b.tobytes()


@pytest.mark.parametrize("alpha", [1.0, 0.5, -1.0])
@pytest.mark.parametrize("name", ON_DIFFERENCES)
def test_a_model_merged_with_itself_comes_back(name, alpha, kernel):
    base = np.resize(SPECIAL, (16, 24))
    values = {"alpha": alpha} if "alpha" in METHODS[name].parameters else {}
    assert same_bits(result(name, [base, base.copy(), base.copy()], **values), base)


@pytest.mark.parametrize("combine", ["sum", "mean", "median"])
@pytest.mark.parametrize("name", BY_ELEMENT)
def test_elements_that_no_model_changed_are_the_bases(name, combine, kernel):
    rng = np.random.default_rng(1)
    base = np.where(rng.random((32, 48)) < 0.5, np.resize(SPECIAL, (32, 48)), rng.standard_normal((32, 48))).astype(
        np.float32
    )
    changed = rng.random(base.shape) < 0.3
    models = [np.where(changed, base + rng.standard_normal(base.shape), base).astype(np.float32) for _ in range(3)]
    values = BY_ELEMENT[name] | ({"combine": combine} if "combine" in METHODS[name].parameters else {})
    out = result(name, [base, *models], **values)
    assert same_bits(out[~changed], base[~changed]) and (out != base).any()


@pytest.mark.parametrize("share", [0.3, 0.7, 1.0])
def test_steps_around_it_give_the_base_back_too(share, kernel):
    """(1 - share) a + share (b + ties of differences), where a, b and the models of the differences are equal arrays."""
    base = np.resize(SPECIAL, 4096)
    base[100:] = np.random.default_rng(2).standard_normal(3996)
    a, b, x = (LinearCombination.of_model(i) for i in range(3))
    step = MethodCall(METHODS["ties"], (), (LinearCombination.combined((1.0, -1.0), [x, b]),))
    combination = LinearCombination.combined(
        (1 - share, share), [a, LinearCombination.combined((1.0, 1.0), [b, LinearCombination.of(step)])]
    )
    values = {i: base.copy() for i in range(3)}
    # What the step comes to on tiles of its differences: the differences themselves.
    assert same_bits(evaluate(combination, values, measured={step: lambda tiles, start: tiles[0]}), base)


def test_what_is_added_to_the_base_is_what_it_was():
    """base + c d is rounded as before wherever the change is not 0."""
    rng = np.random.default_rng(3)
    base, x = (rng.standard_normal(5000).astype(np.float32) for _ in range(2))
    step = MethodCall(
        METHODS["ties"],
        (),
        (LinearCombination.combined((1.0, -1.0), [LinearCombination.of_model(1), LinearCombination.of_model(0)]),),
    )
    measured = {step: lambda tiles, start: tiles[0]}
    for c in (1.0, 0.3, -2.0):
        combination = LinearCombination.combined((1.0, c), [LinearCombination.of_model(0), LinearCombination.of(step)])
        assert same_bits(evaluate(combination, {0: base, 1: x}, measured=measured), base + np.float32(c) * (x - base))


@pytest.mark.parametrize("method", ON_DIFFERENCES)
def test_a_file_of_negative_zeros_is_merged_with_copies_of_itself(method, tmp_path):
    tensors = tensors_of("sd1", seed=4, thin=True)
    for tensor in tensors.values():
        if tensor.is_floating_point():
            tensor.view(-1)[::3] = -0.0
    paths = {}
    for name in "bxy":
        paths[name] = str(tmp_path / f"{name}.safetensors")
        save_file(tensors, paths[name], {"format": "pt", "name": name})
    recipe = {
        "models": paths,
        "steps": {"s": {"method": method, "inputs": ["b", "x", "y"]}},
        "output": {"dtype": "keep", "allow_missing": True},
    }
    merge(Recipe.parse(recipe), tmp_path / "out.safetensors", fsync=False)
    out = load(tmp_path / "out.safetensors")
    unet = [key for key in tensors if key.startswith(("model.", "cond_stage_model."))]
    wrong = [key for key in unet if tensors[key].is_floating_point() and raw(out[key]) != raw(tensors[key])]
    assert unet and not wrong
