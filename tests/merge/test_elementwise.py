"""Elementwise methods and those that pick: formulas worked out in double precision here, and sd-mecha's functions."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from places import place
from tiny import load, raw

from unetscope.merge import METHODS, Recipe, merge
from unetscope.merge.evaluate import evaluate
from unetscope.merge.linear_combination import LinearCombination, MethodCall
from unetscope.merge.tensor_slice import TensorSlice

KEY = "model.diffusion_model.middle_block.1.proj_in.weight"
# Zeros of both signs, equal values and tiny ones next to ordinary ones: where quotients of differences have no value.
VALUES = st.sampled_from([0.0, -0.0, 1e-30, -1e-30, 0.25, -0.25, 1.0, -1.5, 3e4])
WEIGHTS = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0, 1.7])


def apply(name, *arrays, **values):
    """A method on fp32 arrays."""
    return METHODS[name].function(*(np.asarray(x, np.float32) for x in arrays), **values)


def rows(*arrays):
    return tuple(np.asarray(x, np.float32).astype(np.float64) for x in arrays)


def quotient(top, bottom, otherwise):
    return np.divide(top, bottom, out=np.full_like(top, otherwise), where=bottom != 0)


def add_opposite(a, b, c, alpha):
    return a + 2 * alpha * quotient(abs(a - b), abs(a - b) + abs(a + b - 2 * c), 0) * (b - c)


def multiply_difference(a, b, c, alpha, beta):
    def power(x, e):
        return np.array([0.0 if v == 0 and e < 0 else v**e for v in x])

    size = power(abs(a - c), 1 - alpha) * power(abs(b - c), alpha)
    return c + np.copysign(size, a - c + beta * (b - a))


def similarity_add_difference(a, b, c, alpha, beta):
    largest = np.maximum(abs(a), abs(b))
    s = np.where(largest == 0, 1.0, (quotient(a, largest, 1) * quotient(b, largest, 1) + 1) / 2) * beta
    return (1 - s) * (a + alpha * (b - c)) + s * ((1 - alpha / 2) * a + alpha / 2 * b)


FORMULAS = {
    "add_opposite": (add_opposite, 1),
    "multiply_difference": (multiply_difference, 2),
    "similarity_add_difference": (similarity_add_difference, 2),
}


def parameters(name, alpha, beta):
    return {"alpha": alpha} if FORMULAS[name][1] == 1 else {"alpha": alpha, "beta": beta}


@pytest.mark.parametrize("name", FORMULAS)
@settings(max_examples=80)
@given(st.lists(st.tuples(VALUES, VALUES, VALUES), min_size=1, max_size=20), WEIGHTS, WEIGHTS)
def test_formulas_hold_where_quotients_have_no_value_too(name, values, alpha, beta):
    a, b, c = rows(*zip(*values, strict=True))
    values = parameters(name, alpha, beta)
    with np.errstate(all="ignore"):
        got, expected = apply(name, a, b, c, **values), FORMULAS[name][0](a, b, c, **values)
    assert got.dtype == np.float32 and not np.isnan(got).any()
    finite = np.abs(expected) < 3e38
    scale = np.maximum(np.abs(expected), abs(a) + abs(b) + abs(c)) * (1 + abs(alpha)) * (1 + abs(beta))
    assert (abs(got - expected) <= 4e-6 * scale + 1e-37)[finite].all()


@pytest.mark.parametrize("name", FORMULAS)
def test_formulas_hold_for_weights_of_the_usual_size(name):
    a, b, c = rows(*np.random.default_rng(1).standard_normal((3, 5000)) * 0.05)
    values = parameters(name, 0.7, 0.3)
    np.testing.assert_allclose(
        apply(name, a, b, c, **values), FORMULAS[name][0](a, b, c, **values), rtol=2e-5, atol=2e-7
    )


@pytest.mark.parametrize("name", [*FORMULAS, "train_difference"])
def test_equal_models_come_out_as_they_are_bit_for_bit(name):
    a = np.array([0.0, -0.0, 1e-40, 0.1, -3.0, 65504.0], np.float32)
    values = dict.fromkeys(METHODS[name].parameters, 0.7)
    assert apply(name, a, a, a, **values).tobytes() == a.tobytes()


@pytest.mark.parametrize(("alpha", "other"), [(0.0, 0), (1.0, 1)])
def test_a_geometric_mean_at_its_ends_is_one_of_the_changes(alpha, other):
    models = [np.array([1.0, 2.0, 0.0, -1.0], np.float32), np.array([3.0, 0.0, 1.0, 1.0], np.float32)]
    c = np.zeros(4, np.float32)
    got = apply("multiply_difference", *models, c, alpha=alpha, beta=alpha)
    assert got.tolist() == models[other].tolist()


def torch_of(*arrays):
    return [torch.tensor(np.asarray(x, np.float32)) for x in arrays]


def test_add_opposite_equals_sd_mechas_mask():
    sd_mecha = pytest.importorskip("sd_mecha")
    a, b, c = torch_of(*np.random.default_rng(2).standard_normal((3, 1000)))
    mask = sd_mecha.add_opposite_mask.__wrapped__(a, b, c, alpha=0.8)
    np.testing.assert_allclose(apply("add_opposite", a, b, c, alpha=0.8), a + mask * (b - c), rtol=1e-5, atol=1e-6)


def test_clamping_equals_sd_mechas_and_keeps_the_bounds():
    sd_mecha = pytest.importorskip("sd_mecha")
    x, a, b = torch_of(*np.random.default_rng(3).standard_normal((3, 1000)))
    got = apply("clamp", x, a, b)
    assert (got == sd_mecha.clamp.__wrapped__(x, a, b).numpy()).all()
    assert ((got >= np.minimum(a, b).numpy()) & (got <= np.maximum(a, b).numpy())).all()


def sliced(a, b, at, tile, **values):
    """Tensor sum of two arrays, tile by tile, as the engine calls it."""
    step = MethodCall(
        METHODS["tensor_sum"],
        tuple(values.items()),
        (LinearCombination.of_model(0), LinearCombination.of_model(1)),
        ("a", "b"),
    )
    parts = [
        evaluate(LinearCombination.of(step), {0: a.ravel()[s : s + tile], 1: b.ravel()[s : s + tile]}, s, at)
        for s in range(0, a.size, tile)
    ]
    return np.concatenate(parts).reshape(a.shape)


@settings(max_examples=60)
@given(
    st.lists(st.integers(1, 7), min_size=1, max_size=3), st.floats(-1.5, 1.5), st.floats(-1.5, 1.5), st.integers(1, 40)
)
def test_rows_equal_sd_mechas_wherever_tiles_end(shape, alpha, beta, tile):
    slicing = pytest.importorskip("sd_mecha.extensions.builtin.merge_methods.slicing")
    a, b = np.random.default_rng(4).standard_normal((2, *shape)).astype(np.float32)
    theirs = slicing.tensor_sum.__wrapped__(torch.tensor(a), torch.tensor(b), width=alpha, offset=beta).numpy()
    assert (sliced(a, b, TensorSlice(KEY, tuple(shape), ("a", "b")), tile, alpha=alpha, beta=beta) == theirs).all()


@pytest.mark.parametrize(
    ("alpha", "beta", "from_b"), [(0.5, 0.0, [0, 1]), (0.5, 0.25, [1, 2]), (0.5, 0.75, [3, 0]), (1, 0.5, [0, 1, 2, 3])]
)
def test_rows_come_from_b_where_they_are_asked_for(alpha, beta, from_b):
    a, b = np.zeros((4, 3), np.float32), np.ones((4, 3), np.float32)
    got = sliced(a, b, TensorSlice(KEY, (4, 3), ("a", "b")), 5, alpha=alpha, beta=beta)
    assert {i for i, row in enumerate(got) if row.all()} == set(from_b) and set(got.sum(1)) <= {0.0, 3.0}


def test_a_single_number_is_bs_from_more_than_one_half():
    one = np.ones(1, np.float32)
    for alpha, expected in ((0.5, 0.0), (0.51, 1.0)):
        assert apply("tensor_sum", one * 0, one, at=TensorSlice(KEY, (), ("a", "b")), alpha=alpha, beta=0.0) == expected


# -- in files ----------------------------------------------------------------------------------------------------------


def merged(folder, paths, step, name="out", threads=1):
    """The tensors of a merge, in fp32, VAE included."""
    models = {n: str(p) for n, p in zip("abc", paths, strict=False)}
    data = {"models": models, "steps": {"s": step}, "components": {"vae": "merge"}}
    data["output"] = {"dtype": "fp32", "allow_missing": True}
    merge(Recipe.parse(data), folder / f"{name}.safetensors", fsync=False, threads=threads)
    return load(folder / f"{name}.safetensors")


@pytest.mark.parametrize("name", ["tensor_sum", "clamp", *FORMULAS])
def test_files_come_out_alike_with_any_number_of_threads(name, make_checkpoint, tmp_path):
    paths = [make_checkpoint(n, seed=i, thin=True)[0] for i, n in enumerate("abc")]
    step = {"method": name, "inputs": list("abc")[: len(METHODS[name].inputs)]}
    one, four = (merged(tmp_path, paths, step, f"t{n}", n) for n in (1, 4))
    assert {k: raw(t) for k, t in one.items()} == {k: raw(t) for k, t in four.items()}


def test_rows_nest_in_other_steps_and_differ_by_block(make_checkpoint, tmp_path):
    (path_a, a), (path_b, b) = (make_checkpoint(n, seed=i, dtype="fp32", thin=True) for i, n in enumerate("ab"))
    rows = {"method": "tensor_sum", "inputs": ["a", "b"], "alpha": {"default": 0.5, "M00": 1}}
    step = {"method": "weighted_sum", "inputs": [rows, "a"], "alpha": 0.5}
    out = merged(tmp_path, [path_a, path_b], step)
    for key in (KEY, "model.diffusion_model.input_blocks.0.0.weight"):
        half = a[key].shape[0] if place(key).label == "M00" else a[key].shape[0] // 2
        expected = a[key].clone()
        expected[:half] = (a[key][:half] + b[key][:half]) / 2
        torch.testing.assert_close(out[key], expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("component", ["unet", "text_encoders", "clip_l", "clip_g", "vae"])
def test_one_component_is_bs_and_the_rest_is_as(component, make_checkpoint, tmp_path):
    (path_a, a), (path_b, b) = (make_checkpoint(n, "sdxl", seed=i, dtype="fp32", thin=True) for i, n in enumerate("ab"))
    out = merged(tmp_path, [path_a, path_b], {"method": "pick_component", "inputs": ["a", "b"], "component": component})
    picked = {"text_encoders": ("clip_l", "clip_g")}.get(component, (component,))
    for key, tensor in out.items():
        if tensor.is_floating_point() and place(key).component in ("unet", "clip_l", "clip_g", "vae"):
            assert raw(tensor) == raw((b if place(key).component in picked else a)[key]), key
