"""What nothing in a recipe tells apart is compiled once, and comes to what it would come to by itself."""

from __future__ import annotations

import pytest

from unetscope.checkpoints.families import family_of
from unetscope.merge import Recipe
from unetscope.merge.compile import RecipeCompiler
from unetscope.merge.linear_combination import LinearCombination, Missing

FAMILY = family_of("sd1")
KEYS = tuple(FAMILY.layout())
UNET = "model.diffusion_model."
INDEX = {"a": 0, "b": 1, "c": 2}
STEPS = {
    "one number": {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.3}},
    "blocks, kinds and keys": {
        "m": {
            "method": "weighted_sum",
            "inputs": ["a", "b"],
            "alpha": {"IN*": 0.2, "OUT* attn1": 0.7, "key:*.proj_in.*": 0.4, "BASE": 0.1, "default": 0.5},
        }
    },
    "keys of one block in one step, of another in the next": {
        "n": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"IN04": 0.5, "IN04 /norm/": 0.1, "IN05": 0.1}},
        "m": {"method": "weighted_sum", "inputs": ["n", "c"], "alpha": {"IN05": 0.5, "IN05 /norm/": 0.1, "IN04": 0.1}},
    },
    "the VAE by name": {
        "n": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"VAE": 0.25, "default": 0.5}},
        "m": {"method": "train_difference", "inputs": ["n", "b", "c"], "alpha": {"M00": 0.5, "default": 1.0}},
    },
    "another model's component": {
        "n": {"method": "pick_component", "inputs": ["a", "b"], "component": "clip_l"},
        "m": {"method": "weighted_sum", "inputs": ["n", "c"], "alpha": 0.5},
    },
    "what the first lacks": {
        "n": {"method": "fallback", "inputs": ["a", "b"]},
        "m": {"method": "ties", "inputs": ["c", "n", "b"], "alpha": 0.5},
    },
}


def has(index: int, key: str) -> bool:
    """The first model has no output blocks, the second no text encoder."""
    return not key.startswith({0: UNET + "output_blocks.", 1: "cond_stage_model."}.get(index, " "))


def recipe(steps: dict) -> Recipe:
    return Recipe.parse({"models": {name: f"{name}.safetensors" for name in INDEX}, "steps": steps, "result": "m"})


@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("steps", STEPS)
def test_a_tensor_comes_to_what_it_comes_to_in_a_compiler_of_its_own(steps, whole):
    read = recipe(STEPS[steps])
    together, found = RecipeCompiler(read, FAMILY, INDEX, has), {}
    for key in KEYS[::7]:
        alone = RecipeCompiler(read, FAMILY, INDEX, has).combination("m", key, whole=whole)
        found[key] = together.combination("m", key, whole=whole)
        assert found[key] == alone, key
    assert len({id(each) for each in found.values()}) < 0.7 * len(found)


def test_a_chain_of_steps_is_carried_out_once_for_tensors_that_it_does_not_tell_apart(monkeypatch):
    combined, calls = LinearCombination.combined.__func__, []
    monkeypatch.setattr(
        LinearCombination, "combined", classmethod(lambda cls, *given: calls.append(1) or combined(cls, *given))
    )
    steps, last = {}, "a"
    for n in range(50):
        name = "m" if n == 49 else f"s{n}"
        alpha = {"IN*": 0.1, "OUT* attn1": 0.2, "default": 0.3}
        steps[name] = {"method": "weighted_sum", "inputs": [last, "bc"[n % 2]], "alpha": alpha}
        last = name
    compiler = RecipeCompiler(recipe(steps), FAMILY, INDEX)
    for key in KEYS:
        assert isinstance(compiler.combination("m", key), LinearCombination)
    # IN, OUT's attn1, the rest, and buffers, which have no weight; the VAE is passed on.
    assert len(calls) == 4 * 50


def test_models_that_lack_a_tensor_tell_it_apart():
    compiler = RecipeCompiler(recipe(STEPS["one number"]), FAMILY, INDEX, lambda index, key: index == 1)
    assert compiler.combination("m", KEYS[0]).single.index == 1
    nobody = RecipeCompiler(recipe(STEPS["one number"]), FAMILY, INDEX, lambda index, key: False)
    assert nobody.combination("m", KEYS[0]) == Missing(frozenset({0, 1}))
