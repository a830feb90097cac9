"""Whatever a recipe or a block weight says, reading it gives a recipe or our own error."""

from __future__ import annotations

import yaml
from fuzz.cases import ANYTHING, FUZZ, SCALARS, damaged
from hypothesis import given
from hypothesis import strategies as st

from unetscope.checkpoints import UnetscopeError
from unetscope.checkpoints.families import FAMILIES
from unetscope.merge import METHODS, BlockWeights, Recipe

GOOD = """
title: an example
models: {a: a.safetensors, b: folder/b.safetensors, c: 'C:\\models\\c.ckpt'}
steps:
  first: {method: weighted_sum, inputs: [a, b], alpha: {IN04-IN08: 0.7, OUT*: 0.2, default: 0.5}}
  out: {method: add_difference, inputs: [first, b, c], alpha: GRAD_V}
result: out
components: {vae: a, text_encoders: b}
output: {dtype: fp16, nan: zero}
"""
WORDS = st.sampled_from([
    "IN04", "OUT*", "IN04-IN08", "M00", "BASE", "-", "NOT", ":", ";", ",", ".", "key:", "/", "*", "attn1.q", "0.5",
    "1", "nan", "{", "}", "[", "]", "gradient", "preset", "GRAD_V", "vector", "base", "scale", "@x",
])  # fmt: skip
TEXTS = st.text(max_size=40) | st.lists(WORDS, max_size=12).map(" ".join) | st.lists(WORDS, max_size=12).map("".join)
WEIGHTS = (
    ANYTHING
    | TEXTS
    | st.lists(SCALARS, max_size=27)
    | st.dictionaries(
        TEXTS | st.sampled_from(["preset", "vector", "base", "default", "scale", "gradient"]), SCALARS, max_size=5
    )
)
SOURCES = st.sampled_from(["a", "b", "s", "out", "x.safetensors", "merge"]) | ANYTHING
STEPS = st.fixed_dictionaries(
    {"method": st.sampled_from([*METHODS, "uniforn", ""]), "inputs": st.lists(SOURCES, max_size=4) | ANYTHING},
    optional=dict.fromkeys(("alpha", "beta", "weights", "normalise", "gamma"), WEIGHTS),
)
RECIPES = st.fixed_dictionaries(
    {"models": st.dictionaries(st.sampled_from(["a", "b", "c", "out"]) | TEXTS, SOURCES, max_size=4) | ANYTHING},
    optional={
        "steps": st.dictionaries(st.sampled_from(["s", "out", "merge"]) | TEXTS, STEPS | ANYTHING, max_size=4)
        | ANYTHING,
        "result": SOURCES,
        "components": st.dictionaries(
            st.sampled_from(["vae", "unet", "clip_l", "text_encoders"]) | TEXTS, SOURCES, max_size=3
        ),
        "output": st.dictionaries(st.sampled_from(["dtype", "nan", "overflow", "position_ids"]), SCALARS, max_size=3),
        "convention": SCALARS,
        "title": SCALARS,
        "version": SCALARS,
    },
)


def used(recipe: Recipe) -> None:
    """What a reader of recipes does with one."""
    again = Recipe.parse(yaml.safe_load(recipe.to_yaml()), "again")
    assert again.to_plain() == recipe.to_plain()
    assert recipe.order(recipe.result) is not None


@FUZZ
@given(RECIPES | ANYTHING)
def test_any_recipe(data):
    try:
        used(Recipe.parse(data, "fuzz"))
    except UnetscopeError as error:
        assert str(error)


@FUZZ
@given(damaged(GOOD.encode()))
def test_a_damaged_recipe_file(tmp_path, content):
    path = tmp_path / "x.yaml"
    path.write_bytes(content)
    try:
        Recipe.load(path)
    except UnetscopeError as error:
        assert str(error)


@FUZZ
@given(WEIGHTS, st.sampled_from(sorted(FAMILIES)))
def test_any_block_weights(value, family):
    try:
        BlockWeights.parse(value).resolve(family).by_label()
    except UnetscopeError as error:
        assert str(error)
