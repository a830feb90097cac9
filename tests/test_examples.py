"""Every example recipe runs on the demo checkpoints and does what its first comment says."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import load

from unetscope.checkpoints.demo import demo_collection
from unetscope.merge import Recipe, merge

pytestmark = pytest.mark.long
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


def consensus(key: str, of: dict[str, np.ndarray]) -> np.ndarray:
    """TIES and the geometric median, and half of a turn between them, by their formulas."""
    base, models = of["base"], [of["ink"], of["photo"], of["anime"]]
    changes = [m - base for m in models]
    kept = [np.where(abs(d) >= np.sort(abs(d).ravel())[-int(0.3 * d.size)], d, 0) for d in changes]
    sign = np.sign(sum(kept))
    agree = [np.where(np.sign(d) == sign, d, 0) for d in kept]
    ties = base + sum(agree) / np.maximum(sum(d != 0 for d in agree), 1)
    median = np.mean(models, axis=0)
    for _ in range(1000):
        near = [1 / np.linalg.norm(m - median) for m in models]
        median = sum(w * m for w, m in zip(near, models, strict=True)) / sum(near)
    a, b = np.linalg.norm(ties), np.linalg.norm(median)
    angle = np.arccos((ties * median).sum() / (a * b))
    return np.sin(angle / 2) / np.sin(angle) * (ties / a + median / b) * (a + b) / 2


def dropped(key: str, of: dict[str, np.ndarray], out: np.ndarray) -> np.ndarray:
    """Of the four sums that DARE may come to for an element, the one that is nearest to what it came to."""
    ink, photo = 1.2 * (of["ink"] - of["base"]), 1.0 * (of["photo"] - of["base"])
    sums = np.stack([of["base"] + i * ink + j * photo for i in (0, 1) for j in (0, 1)])
    nearest = abs(sums - out).argmin(axis=0)
    if key == CONV:  # of those that fp16 tells apart, a quarter each but for chance
        apart = np.min([abs(sums[i] - sums[j]) for i in range(4) for j in range(i)], axis=0)
        clear = nearest[apart > 2**-8 * abs(sums).max(axis=0)]
        assert clear.size > 10_000 and all(abs((clear == n).mean() - 0.25) < 0.02 for n in range(4))
    return np.take_along_axis(sums, nearest[None], axis=0)[0]


# Methods that are not linear: a formula of the models (and of the result) for a key.
FORMULAS = {"consensus": consensus, "dare": dropped}


@pytest.fixture(scope="session")
def collection(tmp_path_factory):
    root = tmp_path_factory.mktemp("examples")
    demo_collection(root / "demo")
    (root / "examples").mkdir()
    shutil.copytree(RECIPES[0].parent, root / "examples" / "recipes")
    return root


def test_every_recipe_has_an_expectation():
    assert {p.stem for p in RECIPES} == {*EXPECTED, *FORMULAS}


@pytest.mark.parametrize("name", EXPECTED)
def test_the_recipe_merges_the_demo_checkpoints_as_it_says(name, collection, tmp_path):
    merge(Recipe.load(collection / "examples" / "recipes" / f"{name}.yaml"), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    for key, shares in EXPECTED[name].items():
        models = {m: load(collection / "demo" / f"sd1-{m}.safetensors")[key].double() for m in shares}
        expected = sum(share * models[m] for m, share in shares.items())
        # One rounding to fp16: half a step of the largest magnitude in the tensor.
        assert torch.allclose(out[key].double(), expected, rtol=2**-11, atol=2**-24), key


@pytest.mark.parametrize("name", FORMULAS)
def test_methods_that_are_not_linear_come_to_their_formulas(name, collection, tmp_path):
    merge(Recipe.load(collection / "examples" / "recipes" / f"{name}.yaml"), tmp_path / "out.safetensors")
    out = load(tmp_path / "out.safetensors")
    names = ("base", "ink", "photo", "anime")
    models = {n: load(collection / "demo" / f"sd1-{n}.safetensors") for n in names}
    for key in (CONV, ATTN2, CLIP):
        of, found = {n: m[key].double().numpy() for n, m in models.items()}, out[key].double().numpy()
        expected = dropped(key, of, found) if name == "dare" else FORMULAS[name](key, of)
        assert np.allclose(found, expected, rtol=2**-10, atol=1e-6), key
