"""Where something free may stand in a recipe, and what a point makes of it."""

from __future__ import annotations

import numpy as np
import pytest
from places import UNET_LABELS

from unetscope.checkpoints.errors import UnetscopeError
from unetscope.merge.block_weights import BlockWeights
from unetscope.merge.recipe import Recipe
from unetscope.search.search_space import read_parameters, read_template

BLOCKS_26 = ["BASE", *(f"IN{i:02d}" for i in range(12)), "M00", *(f"OUT{i:02d}" for i in range(12))]


def names(template):
    return [p.name for p in template.parameters]


def test_one_number_is_one_parameter(recipe):
    template = read_template(recipe({"free": [0.2, 0.8]}))
    assert names(template) == ["mix.alpha"]
    assert template.recipe({"mix.alpha": 0.3}).steps["mix"].given == {"alpha": 0.3}


def test_per_block_has_the_26_slots_of_supermerger(recipe):
    template = read_template(recipe({"free": [0, 1], "per": "block"}))
    assert names(template) == [f"mix.alpha.{x}" for x in BLOCKS_26]


def test_a_point_means_what_the_vector_of_the_same_numbers_means(recipe):
    template = read_template(recipe({"free": [0, 1], "per": "block"}))
    vector = np.random.default_rng(0).uniform(size=26).tolist()
    point = dict(zip(names(template), vector, strict=True))
    mine = template.recipe(point).steps["mix"].weights("supermerger")["alpha"].resolve("sd1").by_label()
    assert mine == BlockWeights.parse(vector).resolve("sd1").by_label()


def test_other_conventions_and_architectures_have_their_own_slots(recipe):
    alpha = {"free": [0, 1], "per": "block"}
    automb = names(read_template(recipe(alpha, convention="automb")))
    assert len(automb) == 27 and "mix.alpha.TIME_EMBED" in automb and "mix.alpha.BASE" not in automb
    models = {"step": {"inputs": ["xl", "xl"]}, "models": ["xl"]}
    assert len(read_template(recipe(alpha, **models)).parameters) == 20


def test_lines_beside_per_block_freeze_blocks_or_group_them(recipe):
    alpha = {"free": [0, 1], "per": "block", "BASE": 0.25, "IN00-IN11": {"free": [0, 0.5], "step": 0.1}}
    template = read_template(recipe(alpha))
    assert names(template) == [f"mix.alpha.{x}" for x in BLOCKS_26[13:]] + ["mix.alpha.IN00-IN11"]
    point = dict.fromkeys(names(template), 1.0) | {"mix.alpha.IN00-IN11": 0.3}
    weights = template.recipe(point).steps["mix"].weights("supermerger")["alpha"].resolve("sd1").by_label()
    assert weights["CLIP_L"] == 0.25 and weights["IN07"] == 0.3 and weights["OUT03"] == 1.0


def test_every_parameter_knows_the_labels_that_it_moves(recipe):
    template = read_template(recipe({"free": [0, 1], "per": "block"}))
    labels = {p.name: p.labels for p in template.parameters}
    assert labels["mix.alpha.IN00"] == ("TIME_EMBED", "IN00") and labels["mix.alpha.OUT11"] == ("OUT11", "OUT")
    moved = [x for group in labels.values() for x in group]
    assert sorted(moved) == sorted(["CLIP_L", *UNET_LABELS["sd1"]])


def test_free_numbers_may_stand_in_vectors_options_gradients_and_lists(recipe):
    vector = read_template(recipe([0.5] * 25 + [{"free": [0, 1]}]))
    assert names(vector) == ["mix.alpha.OUT11"]
    assert names(read_template(recipe({"preset": "GRAD_V", "scale": {"free": [0, 1]}}))) == ["mix.alpha.scale"]
    gradient = {"IN00-OUT11": {"gradient": [{"free": [0, 1]}, 0.5]}}
    assert names(read_template(recipe(gradient))) == ["mix.alpha.IN00-OUT11.1"]
    average = {"method": "weighted_average", "inputs": ["a", "b"], "weights": [{"free": [0, 1]}, 0.5]}
    data = recipe(0.5)
    assert names(read_template(data | {"steps": {"mix": average}})) == ["mix.weights.a"]


def test_methods_inputs_presets_and_components_can_be_chosen(recipe):
    step = {"method": {"choose": ["weighted_sum", "tensor_sum"]}, "inputs": ["a", {"choose": ["b", "c"]}]}
    data = recipe(
        {"preset": {"choose": ["GRAD_V", "GRAD_A"]}},
        models="abc",
        step=step,
        components={"vae": {"choose": ["a", "b"]}},
    )
    template = read_template(data)
    assert names(template) == ["mix.method", "mix.inputs.2", "mix.alpha.preset", "components.vae"]
    point = {"mix.method": "tensor_sum", "mix.inputs.2": "c", "mix.alpha.preset": "GRAD_A", "components.vae": "b"}
    made = template.recipe(point)
    assert made.steps["mix"].method == "tensor_sum" and made.steps["mix"].inputs == ["a", "c"]
    assert made.components == {"vae": "b"} and isinstance(made, Recipe)


def test_steps_give_round_numbers(recipe):
    (p,) = read_template(recipe({"free": [0, 1], "step": 0.1})).parameters
    assert [p.at(i / 10) for i in range(11)] == [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
    assert p.nearest(0.34) == 0.3 and p.nearest(1.2) is None


@pytest.mark.parametrize(
    ("alpha", "said"),
    [
        ({"free": [1, 0]}, "the lower first"),
        ({"free": [0, 1], "step": 2}, "the step must be"),
        ({"free": [0, 1], "per": "blocks"}, "per must be block"),
        ({"free": [0, 1], "M00": 0.5}, "lines next to free need per"),
        ({"IN04": {"free": [0, 1]}, "IN*": 0.5}, "moves nothing"),
        ({"IN99": {"free": [0, 1]}}, "did you mean"),
        ({"IN04": {"free": [0, 1], "steps": 0.1}}, "'steps' has no meaning"),
        ({"choose": ["GRAD_V"]}, "two or more"),
        ({"choose": ["GRAD_V", "GRAD_Q"]}, "GRAD_Q"),
        (0.5, "nothing is free"),
    ],
)
def test_a_mistake_in_what_is_free_is_one_sentence(recipe, alpha, said):
    with pytest.raises(UnetscopeError) as error:
        read_template(recipe(alpha), "study.yaml")
    assert said in str(error.value) and str(error.value).startswith("study.yaml") and "\n" not in str(error.value)


def test_what_others_refer_to_cannot_be_free(recipe):
    with pytest.raises(UnetscopeError, match=r"models\.a: cannot be chosen"):
        read_template(
            recipe({"free": [0, 1]}) | {"models": {"b": recipe(0)["models"]["b"], "a": {"choose": ["x", "y"]}}}
        )
    with pytest.raises(UnetscopeError, match="a convention cannot be chosen"):
        read_template(recipe({"free": [0, 1]}, step={"convention": {"choose": ["automb", "supermerger"]}}))


def test_an_objective_of_ones_own_needs_no_recipe():
    template = read_parameters({"x": {"free": [0, 1]}, "kind": {"choose": ["p", "q"]}}, None)
    assert template.plain({"x": 0.25, "kind": "q"}) == {"x": 0.25, "kind": "q"}
    with pytest.raises(UnetscopeError, match="family"):
        read_parameters({"alpha": {"free": [0, 1], "per": "block"}}, None)
    assert len(read_parameters({"alpha": {"free": [0, 1], "per": "block"}}, "sdxl").parameters) == 20
