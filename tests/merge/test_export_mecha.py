"""Recipes written for sd-mecha: its own deserialiser reads them, and its own merge of them gives our weights."""

from __future__ import annotations

import itertools

import pytest
import torch
from samples import others_long
from tiny import load

from unetscope.merge import Recipe, RecipeError, merge
from unetscope.merge.exchange import to_mecha
from unetscope.merge.exchange.reading import import_text

sd_mecha = pytest.importorskip("sd_mecha")
import mecha_oracle  # noqa: E402 (only where sd-mecha is)

VECTOR = [round(i / 25, 4) for i in range(26)]


def recipe_of(paths, steps, **more) -> Recipe:
    models = {name: str(path) for name, path in zip("abcd", paths, strict=False)}
    return Recipe.parse({"models": models, "steps": steps, "output": {"dtype": "fp32", "allow_missing": True}, **more})


def assert_same_weights(recipe: Recipe, text: str, folder, tolerance: float = 2e-6) -> None:
    merge(recipe, folder / "out.safetensors", fsync=False)
    expected = mecha_oracle.merged(text)
    mecha_oracle.assert_same_weights(load(folder / "out.safetensors"), expected, tolerance)


ONE_STEP = {
    "uniform": {"inputs": ["a", "b", "c"]},
    "weighted_average": {"inputs": ["a", "b", "c"], "weights": [1, 2, -0.5]},
    "add_difference": {"inputs": ["a", "b", "c"], "alpha": 0.7},
    "triple_sum": {"inputs": ["a", "b", "c"], "alpha": 0.3, "beta": VECTOR, "convention": "sd-mecha"},
    "sum_twice": {"inputs": ["a", "b", "c"], "alpha": 0.3, "beta": 0.2},
    "task_arithmetic": {"inputs": ["a", "b", "c"], "weights": [0.3, 0.6], "alpha": 0.5},
    "train_difference": {"inputs": ["a", "b", "c"], "alpha": 0.8},
    "weighted_subtraction": {"inputs": ["a", "b"], "alpha": 0.4, "beta": 0.5},
    "copy": {"inputs": ["b"]},
    "add_opposite": {"inputs": ["a", "b", "c"], "alpha": 0.8},
    "clamp": {"inputs": ["a", "b", "c"]},
    "tensor_sum": {"inputs": ["a", "b"], "alpha": 0.3, "beta": 0.4},
    "pick_component": {"inputs": ["a", "b"], "component": "text_encoders"},
    "slerp": {"inputs": ["a", "b"], "alpha": 0.3},
    "add_perpendicular": {"inputs": ["a", "b", "c"], "alpha": 0.7},
    "geometric_median": {"inputs": ["a", "b", "c"]},
    "ties": {"inputs": ["a", "b", "c"], "density": 1.0, "alpha": 0.6, "weights": [2, 2]},
    # Nothing is left to chance where everything is kept.
    "dare": {"inputs": ["a", "b", "c"], "density": 1.0, "elect": "count", "combine": "mean", "seed": 3},
    "della": {"inputs": ["a", "b", "c"], "density": 1.0, "epsilon": 0.0, "ranks": "tensor", "rescale": "none",
              "elect": "sum", "combine": "median"},
}  # fmt: skip


# Whether the VAE is merged is the same few lines of the export for each method.
VAE = others_long(
    itertools.product(("merged", "copied"), ONE_STEP), lambda vae, name: vae == "merged" or name == "ties"
)


@pytest.mark.parametrize(("vae", "method"), VAE)
def test_sd_mecha_merges_an_exported_step_to_our_weights(vae, method, mecha_models, tmp_path):
    models = mecha_models("sd1")
    components = {"vae": "merge"} if vae == "merged" else {}
    recipe = recipe_of(models, {"out": {"method": method, **ONE_STEP[method]}}, components=components)
    # sd-mecha's median stops where its objective stands still in fp32; its inner products are sums in fp32.
    loose = {"geometric_median": 3e-4, "della": 3e-4, "add_perpendicular": 1e-5}
    assert_same_weights(recipe, to_mecha(recipe, "sd1"), tmp_path, loose.get(method, 2e-6))


def test_what_sd_mecha_does_a_little_differently_is_a_comment():
    step = {"method": "dare", "inputs": ["a", "b", "c"], "elect": "sum", "combine": "mean", "seed": 7}
    text = to_mecha(recipe_of(["a", "b", "c"], {"out": step}))
    assert "# steps.out: which elements are dropped" in text
    assert "# steps.out: apply_stock=true leaves model stock out" in text
    again = import_text(text, "x.mecha").recipe.steps["dare"].to_plain()
    assert again == {**step, "density": 0.5, "rescale": "density"}
    ties = {"method": "ties", "inputs": ["a", "b", "c"], "density": 0.3}
    assert "keeps one element more" in to_mecha(recipe_of(["a", "b", "c"], {"out": ties}))


REFUSED = {
    "weights": {"method": "ties", "weights": [1, 2]},
    "combine": {"method": "ties", "combine": "sum"},
    "rescale": {"method": "dare", "rescale": "l1", "elect": "sum", "combine": "mean"},
    "elect": {"method": "della", "ranks": "tensor", "rescale": "none", "elect": "none"},
    "ranks": {"method": "della"},
    "norms": {"method": "slerp", "inputs": ["a", "b"], "norms": "slerp"},
    "density": {"method": "ties", "density": {"BASE": 0.5}, "convention": "sd-mecha"},
    "sd-mecha has no method": {"method": "sce"},
}


@pytest.mark.parametrize("said", REFUSED)
def test_options_that_sd_mecha_lacks_are_refused_by_name(said):
    recipe = recipe_of(["a", "b", "c"], {"out": {"inputs": ["a", "b", "c"], **REFUSED[said]}})
    with pytest.raises(RecipeError, match=r"steps\.out") as error:
        to_mecha(recipe, "sd1")
    assert said in str(error.value)


def test_a_lora_is_refused_by_name():
    recipe = recipe_of(["a"], {"out": {"method": "add", "inputs": ["a", "l"]}}, loras={"l": "l.safetensors"})
    with pytest.raises(RecipeError, match=r"loras\.l.*LoRA"):
        to_mecha(recipe)


@pytest.mark.parametrize("family, vector", [("sd1", VECTOR), ("sdxl", [i / 20 for i in range(21)])])
def test_block_weights_become_sd_mechas(family, vector, mecha_models, tmp_path):
    models = mecha_models(family)
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": vector}
    recipe = recipe_of(models[:2], {"out": step}, components={"vae": "merge"}, convention="sd-mecha")
    text = to_mecha(recipe, family)
    assert f"{family}-supermerger_blocks" in text
    assert_same_weights(recipe, text, tmp_path)


def test_nested_steps_differences_and_components_are_carried_over(mecha_models, tmp_path):
    models = mecha_models("sd1")
    steps = {
        "mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25},
        "change": {"method": "subtract", "inputs": ["b", "c"]},
        "out": {"method": "add", "inputs": ["mix", "change"], "alpha": 0.5},
    }
    recipe = recipe_of(models, steps, components={"vae": "c", "text_encoders": "b"})
    assert_same_weights(recipe, to_mecha(recipe, "sd1"), tmp_path)


def test_an_export_that_is_imported_again_merges_to_the_same_bytes(mecha_models, tmp_path):
    steps = {
        "mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": VECTOR, "convention": "sd-mecha"},
        "out": {"method": "add_difference", "inputs": ["mix", "b", "c"], "alpha": 0.5},
    }
    recipe = recipe_of(mecha_models("sd1"), steps, components={"vae": "c"})
    again = import_text(to_mecha(recipe, "sd1"), "again.mecha").recipe
    again = again.model_copy(update={"output": recipe.output})
    merge(recipe, tmp_path / "one.safetensors", fsync=False)
    merge(again, tmp_path / "two.safetensors", fsync=False)
    one, two = load(tmp_path / "one.safetensors"), load(tmp_path / "two.safetensors")
    assert one.keys() == two.keys()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("path", ['C:\\models\\"best" ü 漢.safetensors', "a b\\c.safetensors", "/x/it's.safetensors"])
def test_paths_survive_sd_mechas_reader_and_ours(path):
    text = to_mecha(recipe_of([path, "b.safetensors"], {"out": {"method": "weighted_sum", "inputs": ["a", "b"]}}))
    models = [x for x in sd_mecha.deserialize(text) if isinstance(x, sd_mecha.recipe_nodes.ModelRecipeNode)]
    assert path in {str(model.path) for model in models}
    assert path in import_text(text, "x.mecha").recipe.models.values()


@pytest.mark.parametrize(
    "step, family, said",
    [
        ({"alpha": {"attn1": 0.5}}, "sd1", "kinds of layer"),
        ({"alpha": VECTOR}, "sd1", "one weight for"),
        ({"alpha": VECTOR}, None, "--family"),
        ({"alpha": VECTOR}, "sd2", "not for SD2"),
        ({"alpha": {"VAE": 0.5}}, "sd1", "vae: merge"),
        ({"alpha": {"IN11": 0.5}}, "sdxl", "steps.out.alpha"),
    ],
)
def test_block_weights_that_sd_mecha_lacks_are_refused_by_name(step, family, said):
    recipe = recipe_of(["a", "b"], {"out": {"method": "weighted_sum", "inputs": ["a", "b"], **step}})
    with pytest.raises(RecipeError, match=r"steps\.out\.alpha") as error:
        to_mecha(recipe, family)
    assert said in str(error.value)


def test_what_sd_mecha_cannot_say_is_refused_with_the_step():
    step = {"method": "weighted_average", "inputs": ["a", "b"], "weights": [1, 1], "normalise": False}
    with pytest.raises(RecipeError, match=r"steps\.out"):
        to_mecha(recipe_of(["a", "b"], {"out": step}))
    with pytest.raises(RecipeError, match=r"models\.a"):
        to_mecha(recipe_of(["a=b", "b"], {"out": {"method": "uniform", "inputs": ["a", "b"]}}))
    with pytest.raises(RecipeError, match=r"components\.text_encoders: .*--family"):
        recipe = recipe_of(
            ["a", "b"], {"out": {"method": "uniform", "inputs": ["a", "b"]}}, components={"text_encoders": "b"}
        )
        to_mecha(recipe)


def test_the_command_keeps_relative_paths_as_they_are_written(tmp_path):
    from unetscope.cli.importing import export

    (tmp_path / "sub").mkdir()
    recipe, target = tmp_path / "sub" / "r.yaml", tmp_path / "r.mecha"
    recipe.write_text(
        "models: {a: a.safetensors, b: in/b.safetensors}\nsteps: {o: {method: uniform, inputs: [a, b]}}\n"
    )
    export(recipe, output=target)
    text = target.read_text()
    assert 'model "a.safetensors"' in text and 'model "in/b.safetensors"' in text and str(tmp_path) not in text
