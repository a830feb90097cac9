"""American spellings are taken where a user types: in recipes, studies, options of rewards and on the command line."""

from __future__ import annotations

from dataclasses import replace

import pytest

from unetscope.checkpoints.spelling import respelt, spelt
from unetscope.merge.errors import RecipeError
from unetscope.merge.methods import METHODS
from unetscope.merge.recipe import Recipe


@pytest.mark.parametrize(
    ("typed", "known"),
    [
        ("optimizer", "optimiser"), ("maximize", "maximise"), ("minimize", "minimise"), ("normalize", "normalise"),
        ("no-normalize", "no-normalise"), ("color", "colour"), ("colors", "colours"), ("gray", "grey"), ("center", "centre"),
        ("favorite", "favourite"), ("neighbors", "neighbours"), ("colorfulness", "colourfulness"), ("labeled", "labelled"),
        ("analyze", "analyse"), ("quantization", "quantisation"), ("normalise", "normalize"),
    ],
)  # fmt: skip
def test_both_spellings_mean_the_known_name(typed, known):
    assert spelt(typed, ("noise", known)) == known


def test_what_is_known_as_it_stands_and_what_is_not_a_name_stay():
    assert spelt("gray", ("grey", "gray")) == "gray" and spelt("colr", ("colour",)) == "colr" and spelt(3, ("a",)) == 3
    assert respelt({"gray": 1, 2: 3}, ("grey",)) == {"grey": 1, 2: 3}
    assert set(respelt({"gray": 1, "grey": 2}, ("grey",))) == {"gray", "grey"}  # for the reader to refuse


def test_no_two_names_of_ours_differ_in_spelling_alone():
    names = [*METHODS, *(name for method in METHODS.values() for name in method.parameters)]
    assert all(spelt(f"{name}x", names) == f"{name}x" for name in names)


def recipe(**step):
    inner = {"method": "weighted-average", "inputs": ["a", "b"], "weights": [1, 1], **step}
    return Recipe.parse({"models": {"a": "a", "b": "b"}, "steps": {"mix": inner}})


def test_a_recipe_takes_american_names_and_writes_ours():
    assert recipe(normalize=False) == recipe(normalise=False)
    assert recipe(normalize=False).to_plain()["steps"]["mix"]["normalise"] is False
    with pytest.raises(RecipeError, match="normalize"):
        recipe(normalize=False, normalise=True)


def test_a_method_of_a_recipe_may_be_spelt_either_way():
    mine = METHODS.register(replace(METHODS["weighted_average"], name="colour_average"))
    try:
        assert recipe(method="color-average", normalize=False).steps["mix"].kind is mine
    finally:
        METHODS.forget(mine.name)
