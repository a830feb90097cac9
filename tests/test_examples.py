"""Every example recipe runs on the demo checkpoints and does what its first comment says."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from tiny import load

from unetscope.checkpoints.demo import demo_collection
from unetscope.merge import Recipe, merge

RECIPES = sorted((Path(__file__).parent.parent / "examples" / "recipes").glob("*.yaml"))
CONV = "model.diffusion_model.output_blocks.4.0.in_layers.2.weight"  # in OUT04
ATTN2 = "model.diffusion_model.input_blocks.7.1.transformer_blocks.0.attn2.to_q.weight"  # in IN07
CLIP = "cond_stage_model.transformer.text_model.encoder.layers.3.mlp.fc1.weight"

# What each recipe comes to for some keys, worked out by hand: model -> share.
EXPECTED = {
    "uniform": {
        CONV: {"ink": 1 / 3, "photo": 1 / 3, "anime": 1 / 3},
        CLIP: {"ink": 1 / 3, "photo": 1 / 3, "anime": 1 / 3},
    },
    "mbw": {
        CONV: {"photo": 0.2, "anime": 0.8},
        ATTN2: {"photo": 0.4, "anime": 0.6},
        CLIP: {"photo": 0.75, "anime": 0.25},
    },
    "add_difference": {CONV: {"photo": 1, "ink": 0.7, "base": -0.7}},
    "amplified_difference": {CONV: {"ink": 2, "base": -1}, CLIP: {"ink": 2, "base": -1}},
    "reset_clip": {CONV: {"photo": 0.5, "anime": 0.5}, CLIP: {"base": 1}},
    "one_more_thing": {
        CONV: {"ink": 0.2 / 1.5, "photo": 1 / 3 + 1.5 * (0.5 - 1 / 3), "anime": 1 / 3 + 1.5 * (0.3 - 1 / 3)}
    },
}


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    demo_collection(root / "demo")
    (root / "examples").mkdir()
    shutil.copytree(RECIPES[0].parent, root / "examples" / "recipes")
    return root


def test_every_recipe_has_an_expectation():
    assert {p.stem for p in RECIPES} == set(EXPECTED)


@pytest.mark.parametrize("name", EXPECTED)
def test_the_recipe_merges_the_demo_checkpoints_as_it_says(name, collection, tmp_path):
    merge(Recipe.load(collection / "examples" / "recipes" / f"{name}.yaml"), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    for key, shares in EXPECTED[name].items():
        models = {m: load(collection / "demo" / f"sd1-{m}.safetensors")[key].double() for m in shares}
        expected = sum(share * models[m] for m, share in shares.items())
        # One rounding to fp16: half a step of the largest magnitude in the tensor.
        assert torch.allclose(out[key].double(), expected, rtol=2**-11, atol=2**-24), key
