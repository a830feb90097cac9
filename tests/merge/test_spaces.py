"""Models and differences are two kinds of thing: what recipes may do with each, and what is chosen key by key."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import load, tensors_of
from told import raising

from unetscope.merge import MergeError, Recipe, RecipeError, merge

MODELS = {"a": "a.safetensors", "b": "b.safetensors", "c": "c.safetensors"}
UNET = "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight"


def parse(steps, **more) -> Recipe:
    return Recipe.parse({"models": MODELS, "loras": {"style": "style.safetensors"}, "steps": steps, **more})


@pytest.mark.parametrize(
    "steps, about",
    [
        ({"m": {"method": "add", "inputs": ["a", "b"]}}, ["steps.m:", "'b'", "subtract", "add_difference"]),
        ({"m": {"method": "weighted_sum", "inputs": ["a", "style"]}}, ["steps.m:", "'a'", "'style'", "weighted_sum"]),
        ({"m": {"method": "uniform", "inputs": ["a", "b", "style"]}}, ["steps.m:", "'a'", "'style'", "uniform"]),
        ({"m": {"method": "subtract", "inputs": ["a", "b"]}}, ["result:", "'m'", "task_arithmetic"]),
        (
            {"m": {"method": "task_arithmetic", "inputs": ["style", "a"]}},
            ["steps.m:", "'style'", "task_arithmetic"],
        ),
        (
            {"m": {"method": "add_difference", "inputs": ["a", "b", "style"]}},
            ["steps.m:", "'b'", "'style'", "add_difference"],
        ),
        (
            {
                "d": {"method": "subtract", "inputs": ["a", "b"]},
                "m": {"method": "subtract", "inputs": ["d", "c"]},
            },
            ["steps.m:", "'d'", "'c'", "subtract"],
        ),
    ],
)
def test_a_model_where_a_difference_is_meant_is_refused_when_the_recipe_is_read(steps, about):
    with raising("recipe.space", RecipeError, about):
        parse(steps)


def test_differences_of_differences_and_their_sums_are_differences():
    recipe = parse(
        {
            "d": {"method": "subtract", "inputs": ["a", "b"]},
            "e": {"method": "weighted_sum", "inputs": ["d", "style"]},
            "f": {"method": "add", "inputs": ["e", "d"]},
            "m": {"method": "add", "inputs": ["c", "f"]},
        }
    )
    assert [recipe.space_of(n) for n in ("a", "style", "d", "e", "f", "m")] == ["weight", *["delta"] * 4, "weight"]


def test_a_component_cannot_come_from_a_difference():
    with pytest.raises(RecipeError, match=r"components\.unet.*'style'"):
        parse({"m": {"method": "copy", "inputs": ["a"]}}, components={"unet": "style"})


def test_a_lora_counts_from_a_model_of_the_recipe():
    with pytest.raises(RecipeError, match=r"loras\.style\.base.*'z'"):
        Recipe.parse({"models": MODELS, "loras": {"style": {"path": "s.safetensors", "base": "z"}}, "result": "a"})


def test_loras_survive_being_written_and_read_and_move_with_the_recipe(tmp_path):
    loras = {"style": "style.safetensors", "face": {"path": "x/face.safetensors", "base": "b"}}
    step = {"method": "task_arithmetic", "inputs": ["a", "style", "face"], "weights": [0.5, {"IN04": 1.0}]}
    recipe = Recipe.parse({"models": MODELS, "loras": loras, "steps": {"m": step}})
    assert Recipe.parse(recipe.to_plain()).to_plain() == recipe.to_plain()
    path = tmp_path / "recipe.yaml"
    path.write_text(recipe.to_yaml())
    moved = Recipe.load(path)
    assert moved.loras["face"].path == str(tmp_path / "x/face.safetensors") and moved.loras["face"].base == "b"


# -- numbers ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def files(make_checkpoint):
    return {name: make_checkpoint(name, seed=seed) for seed, name in enumerate("abc")}


def merged(files, tmp_path, steps, **output):
    recipe = Recipe.parse(
        {"models": {n: str(p) for n, (p, _) in files.items()}, "steps": steps, "output": {"dtype": "fp32", **output}}
    )
    merge(recipe, tmp_path / "out.safetensors", overwrite=True)
    return load(tmp_path / "out.safetensors")[UNET].numpy()


def test_task_arithmetic_adds_weighted_differences_to_the_base(files, tmp_path):
    step = {"method": "task_arithmetic", "inputs": list("abc"), "weights": [0.5, -0.25], "alpha": 2.0}
    a, b, c = (files[n][1][UNET].double().numpy() for n in "abc")
    expected = a + 2.0 * (0.5 * (b - a) - 0.25 * (c - a))
    np.testing.assert_allclose(merged(files, tmp_path, {"m": step}), expected, rtol=1e-6, atol=1e-7)


def test_a_difference_that_was_made_by_a_step_is_added_as_it_is(files, tmp_path):
    steps = {
        "d": {"method": "subtract", "inputs": ["b", "c"]},
        "m": {"method": "task_arithmetic", "inputs": ["a", "d", "c"], "weights": [0.5, 0.25]},
    }
    a, b, c = (files[n][1][UNET].double().numpy() for n in "abc")
    expected = a + 0.5 * (b - c) + 0.25 * (c - a)
    np.testing.assert_allclose(merged(files, tmp_path, steps), expected, rtol=1e-6, atol=1e-7)


def test_weighted_subtraction_takes_out_what_a_weighted_sum_put_in(files, tmp_path):
    steps = {
        "sum": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25},
        "m": {"method": "weighted_subtraction", "inputs": ["sum", "b"], "alpha": 0.5, "beta": 0.5},
    }
    np.testing.assert_allclose(merged(files, tmp_path, steps), files["a"][1][UNET].float().numpy(), rtol=1e-6)


# -- chosen key by key --------------------------------------------------------------------------------------------------


def test_fallback_takes_what_the_first_lacks_from_the_second(make_checkpoint, tmp_path):
    whole, _ = make_checkpoint("whole", seed=1)
    pruned, _ = make_checkpoint(
        "pruned", seed=2, change=lambda t: {k: v for k, v in t.items() if not k.startswith("cond_stage")}
    )
    models = {"a": str(pruned), "b": str(whole)}
    recipe = Recipe.parse({"models": models, "steps": {"m": {"method": "fallback", "inputs": ["a", "b"]}}})
    merge(recipe, tmp_path / "out.safetensors")
    found, a, b = load(tmp_path / "out.safetensors"), load(pruned), load(whole)
    text = next(k for k in b if k.startswith("cond_stage") and k.endswith("q_proj.weight"))
    assert (found[UNET] == a[UNET]).all() and (found[text] == b[text]).all()


def _with_ema(tensors):
    other = tensors_of("sd1", 9)
    ema = {
        "model_ema." + k.removeprefix("model.").replace(".", ""): v
        for k, v in other.items()
        if k.startswith("model.diff")
    }
    return tensors | ema


def test_the_moving_average_takes_the_place_of_the_unet(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("unpruned", seed=1, change=_with_ema)
    other, theirs = make_checkpoint("other", seed=3)
    steps = {
        "average": {"method": "exchange_ema", "inputs": ["a"]},
        "m": {"method": "weighted_sum", "inputs": ["average", "b"], "alpha": 0.5},
    }
    recipe = Recipe.parse({"models": {"a": str(path), "b": str(other)}, "steps": steps, "output": {"dtype": "fp32"}})
    report = merge(recipe, tmp_path / "out.safetensors")
    expected = (tensors_of("sd1", 9)[UNET].float() + theirs[UNET].float()) / 2
    assert (load(tmp_path / "out.safetensors")[UNET] == expected).all()
    shares = next(row.shares for row in report.labels if row.label == "IN01")
    assert shares == {"a (EMA)": 0.5, "b": 0.5}


def test_a_file_without_a_moving_average_is_refused_by_name(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("pruned", seed=1)
    recipe = Recipe.parse({"models": {"a": str(path)}, "steps": {"m": {"method": "exchange_ema", "inputs": ["a"]}}})
    with pytest.raises(MergeError, match=r"EMA.*exchange_ema"):
        merge(recipe, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
