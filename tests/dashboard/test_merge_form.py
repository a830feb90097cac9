"""The controls of the Merge page say a recipe, and a recipe sets the controls."""

from __future__ import annotations

import pytest

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.dashboard.folders import Folders
from unetscope.dashboard.merge_form import MergeForm, finder, from_recipe, in_library, model_names, runnable
from unetscope.dashboard.merge_predict import shares_along
from unetscope.dashboard.weights_editing import even
from unetscope.merge import Recipe
from unetscope.merge.methods import METHODS

FILES = ("base.safetensors", "sd1/tuned.safetensors", "sd1/other.ckpt", "folder")
LORA = "loras/style.safetensors"


def back(form: MergeForm) -> MergeForm:
    return from_recipe(Recipe.parse(form.recipe().to_plain()), finder((*FILES, LORA)), lambda name: "sd1")


@pytest.mark.parametrize(
    "form",
    [
        MergeForm("weighted_sum", FILES[:2], {"alpha": 0.3}),
        MergeForm("weighted_sum", FILES[:2], {"alpha": even("sd1", 0.3) | {"IN05": 0.9}}),
        MergeForm("weighted_sum", (FILES[0], FILES[0]), {"alpha": 0.0}, {}, {"dtype": "fp32"}),
        MergeForm("add_difference", FILES[:3], {"alpha": 1.0}, {"vae": "merge"}, {"nan": "copy"}, "A title"),
        MergeForm("add_difference", FILES[:3], {"alpha": 1.0}, {"vae": "sd1/other.ckpt", "text_encoders": "folder"}),
        MergeForm("sum_twice", FILES[:3], {"alpha": even("sd1", 0.1) | {"M00": 0.2}, "beta": 0.25}),
        MergeForm("weighted_average", FILES[:3], {"weights": [0.5, 0.25, 0.25], "normalise": False}),
        MergeForm("uniform", FILES[:3], {}),
        MergeForm("copy", FILES[:1], {}),
        MergeForm("task_arithmetic", FILES[:3], {"weights": [0.5, -1.0], "alpha": 0.75}),
        MergeForm(
            "task_arithmetic",
            (FILES[0], LORA, FILES[1]),
            {"weights": [0.5, 1.0], "alpha": even("sd1", 0.5) | {"IN05": 0.9}},
            {"vae": "merge"},
            loras=frozenset({LORA}),
        ),
        MergeForm("add", (FILES[0], LORA), {"alpha": 0.8}, loras=frozenset({LORA})),
        MergeForm("pick_component", FILES[:2], {"component": "clip_l"}),
        MergeForm("iso_c", FILES[:3], {"weights": [1.0, 1.0], "alpha": 1.0, "z": 0.8}),
        MergeForm("tensor_sum", FILES[:2], {"alpha": 0.5, "beta": 0.25, "along": "rows"}),
    ],
)
def test_controls_survive_the_way_through_a_recipe(form):
    assert back(form) == form


def test_open_models_are_a_sentence_and_not_a_recipe():
    for form in (MergeForm("weighted_sum", ()), MergeForm("weighted_sum", FILES[:1])):
        with pytest.raises(UnetscopeError, match="a, b"):
            form.recipe()
    with pytest.raises(UnetscopeError, match="a base and one or more models"):
        MergeForm("task_arithmetic", FILES[:1]).recipe()


def test_a_lora_that_names_the_model_it_changes_stays_text():
    recipe = MergeForm("add", (FILES[0], LORA), {"alpha": 0.8}, loras=frozenset({LORA})).recipe().to_plain()
    recipe["loras"] = {"difference": {"path": LORA, "base": "a"}}
    with pytest.raises(UnetscopeError, match="which model the LoRA"):
        from_recipe(Recipe.parse(recipe), finder((*FILES, LORA)), lambda name: "sd1")


def test_a_preset_in_a_recipe_is_spread_over_the_blocks():
    recipe = MergeForm("weighted_sum", FILES[:2], {"alpha": 0.3}).recipe().to_plain()
    recipe["steps"]["mix"]["alpha"] = "GRAD_V"
    alpha = from_recipe(Recipe.parse(recipe), finder(FILES), lambda name: "sd1").parameters["alpha"]
    assert (alpha["IN00"], alpha["M00"], alpha["OUT11"], alpha["CLIP_L"]) == (1.0, 0.0, 1.0, 0.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": {"x": {"method": "uniform", "inputs": ["a", "b"]}, "mix": {"method": "copy", "inputs": ["x"]}}}, "2 steps"),
        ({"steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"attn1": 0.5}}}}, "single layers"),
        ({"steps": {"mix": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"VAE": 0.5}}}}, "VAE"),
        ({"components": {"clip_l": "b"}}, "clip_l"),
        ({"models": {"a": "base.safetensors", "b": "gone.safetensors"}}, "gone.safetensors"),
        ({"result": "a"}, "one model"),
    ],
)  # fmt: skip
def test_a_recipe_that_says_more_than_the_controls_is_refused_with_the_reason(change, says):
    recipe = MergeForm("weighted_sum", FILES[:2], {"alpha": 0.3}).recipe().to_plain() | change
    with pytest.raises(UnetscopeError, match=says):
        from_recipe(Recipe.parse(recipe), finder(FILES), lambda name: "sd1")


def test_paths_of_another_machine_are_found_by_base_name_if_only_one_file_has_it():
    find = finder((*FILES, "x/twice.ckpt", "y/twice.ckpt"))
    assert find("C:\\models\\tuned.safetensors") == "sd1/tuned.safetensors"
    assert find("./base.safetensors") == "base.safetensors"
    assert find("twice.ckpt") is None and find("y/twice.ckpt") == "y/twice.ckpt" and find("gone") is None


def test_a_recipe_whose_paths_leave_the_models_folder_never_becomes_a_job(models):
    folders = Folders.at(models)
    recipe = MergeForm("copy", ("base.safetensors",)).recipe()
    assert runnable(recipe, folders)["models"] == {"a": str(models / "base.safetensors")}
    for path in ("/etc/passwd", "../secret.safetensors"):
        for change in ({"models": {"a": path}}, {"components": {"vae": path}}, {"loras": {"x": path}}):
            data = recipe.to_plain() | change
            with pytest.raises(UnetscopeError):
                runnable(in_library(Recipe.parse(data), finder(("base.safetensors",))), folders)


def test_models_of_equal_stems_get_different_names_in_a_recipe():
    assert model_names(("a/x.ckpt", "b/x.safetensors", "merge.ckpt")) == ["x", "x.2", "model"]


def test_shares_follow_a_line_in_one_weight_of_a_linear_method_only():
    assert shares_along(METHODS["weighted_sum"], {"alpha": {}}, "alpha", 2) == ([1.0, 0.0], [-1.0, 1.0])
    assert shares_along(METHODS["add_difference"], {"alpha": {}}, "alpha", 3) == ([1.0, 0.0, 0.0], [0.0, 1.0, -1.0])
    zero, per_weight = shares_along(METHODS["sum_twice"], {"alpha": {}, "beta": 0.25}, "alpha", 3)
    assert (zero, per_weight) == ([0.75, 0.0, 0.25], [-0.75, 0.75, 0.0])
    assert shares_along(METHODS["sum_twice"], {"alpha": {}, "beta": {"IN00": 1}}, "alpha", 3) is None
    assert shares_along(METHODS["train_difference"], {"alpha": {}}, "alpha", 3) is None
    assert shares_along(METHODS["task_arithmetic"], {"alpha": {}, "weights": [1.0]}, "alpha", 2) is None
    assert shares_along(METHODS["add"], {"alpha": {}}, "alpha", 2) is None
