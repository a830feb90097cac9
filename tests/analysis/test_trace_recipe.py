"""The recipe that `trace` suggests, run by the merge engine: it has to make the traced file again."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import yaml
from places import place
from safetensors.torch import load_file, save_file

from unetscope.analysis.trace import trace
from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.demo import write_demo
from unetscope.merge import Recipe, merge

NAMES = ("a", "b", "c", "base")
SOME = (".layers.0.", ".layers.3.", "first_stage_model.decoder.conv_")


@pytest.fixture(scope="module")
def pool(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pool")
    base = write_demo(folder / "base.safetensors", "sd1", seed=1)
    # All of the UNET's blocks, and a few layers of the rest.
    tensors = load_file(base)
    save_file({k: v for k, v in tensors.items() if place(k).component == "unet" or any(x in k for x in SOME)}, base)
    paths = {n: write_demo(folder / f"{n}.safetensors", "sd1", seed=ord(n), finetune_of=base) for n in "abc"}
    # A VAE of its own, so that it matters whose is taken.
    tensors = load_file(paths["b"])
    for key in tensors:
        if place(key).component == "vae":
            tensors[key] = (tensors[key].float() * 1.05).half()
    save_file(tensors, paths["b"])
    return {**paths, "base": base}


def made(pool, folder: Path, step: dict, dtype="fp16", **more) -> Path:
    models = {n: str(pool[n]) for n in step["inputs"]}
    output = {"dtype": dtype, "allow_missing": True}
    recipe = {"models": models, "steps": {"x": step}, "output": output, **more}
    merge(Recipe.parse(recipe), folder / "merged.safetensors", overwrite=True)
    return folder / "merged.safetensors"


def again(path: Path, pool, folder: Path, **options):
    """Trace a merge, run the recipe that comes out, and compare: the report, and the share of elements that differ."""
    with open_checkpoint(path) as merged:
        report = trace(merged, [open_checkpoint(pool[n]) for n in NAMES], NAMES, **options)
    found = yaml.safe_load(report.recipe_yaml())
    recipe = Recipe.parse(found | {"output": found["output"] | {"allow_missing": True}})
    merge(recipe, folder / "again.safetensors", overwrite=True)
    before, after = load_file(path), load_file(folder / "again.safetensors")
    assert set(before) == set(after)
    different, elements = 0, 0
    for key, x in before.items():
        y = after[key]
        assert x.dtype == y.dtype
        different, elements = different + int((x != y).sum()), elements + x.numel()
        if x.is_floating_point():
            step = torch.nextafter(x.abs(), torch.tensor(torch.inf, dtype=x.dtype)).double() - x.abs().double()
            assert ((x.double() - y.double()).abs() <= 1.01 * step).all(), key
    return report, different / elements


UNIFORM = {"method": "uniform", "inputs": ["a", "b", "c"]}
SUM = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.3}
DIFFERENCE = {"method": "add_difference", "inputs": ["a", "b", "base"], "alpha": 0.6}
PRESET = {"method": "weighted_sum", "inputs": ["a", "c"], "alpha": "SMOOTHSTEP*2"}
OTHER = {"method": "weighted_sum", "inputs": ["c", "a"], "alpha": "GRAD_A", "convention": "sd-mecha"}
AVERAGE = {"method": "weighted_average", "inputs": ["a", "b", "c"], "weights": [0.5, 0.3, 0.2]}


@pytest.mark.parametrize(
    ("step", "dtype", "method", "words"),
    [
        (UNIFORM, "fp16", "uniform", "uniform average of a and b and c"),
        (SUM, "bf16", "weighted_sum", "0.7 a + 0.3 b"),
        (DIFFERENCE, "fp16", "add_difference", "a + 0.6 (b - base)"),
        (PRESET, "fp16", "weighted_sum", "SMOOTHSTEP*2"),
        (OTHER, "bf16", "weighted_sum", "GRAD_"),
        (AVERAGE, "fp16", "weighted_average", "0.5 a + 0.3 b + 0.2 c"),
        ({"method": "copy", "inputs": ["c"]}, "fp16", "copy", "c"),
    ],
)
def test_known_recipes_are_recognised_and_make_the_same_file(step, dtype, method, words, pool, tmp_path):
    report, different = again(made(pool, tmp_path, step, dtype), pool, tmp_path)
    assert report.complete and report.method == method
    assert words in " ".join(report.sentences)
    assert different < 1e-4


def test_weights_by_block_of_three_models_make_the_same_file(pool, tmp_path):
    lines = [{"UNET": 0.5, "BASE": 0.2, "IN04-IN08": 0.1}, {"UNET": 0.25, "BASE": 0.2}, {"UNET": 0.25, "BASE": 0.6}]
    step = {"method": "weighted_average", "inputs": ["a", "b", "c"], "weights": lines}
    report, different = again(made(pool, tmp_path, step), pool, tmp_path)
    assert report.complete and report.method == "weighted_average"
    assert different < 1e-3


def test_layers_with_weights_of_their_own_are_found(pool, tmp_path):
    alpha = {"BASE": 0.2, "UNET": 0.5, "IN04": 0.75, "attn2": 0.25, "M00 norm": 0}
    step = {"method": "weighted_sum", "inputs": ["a", "c"], "alpha": alpha}
    report, _ = again(made(pool, tmp_path, step), pool, tmp_path)
    assert report.complete
    assert any(s.startswith("Layers have weights of their own") for s in report.sentences)
    found = report.recipe["steps"]["merged"]["alpha"]
    assert found["IN04"] == 0.75 and found["OUT03"] == 0.5
    assert found.get("attn2.k", found.get("IN04 attn2.k")) == 0.25


@pytest.mark.parametrize(
    ("more", "wanted"),
    [({"components": {"vae": "b"}}, {"vae": "b"}), ({}, None), ({"components": {"vae": "merge"}}, "merged")],
)
def test_the_vae_comes_from_where_it_came_from(more, wanted, pool, tmp_path):
    path = made(pool, tmp_path, SUM, **more)
    report, _ = again(path, pool, tmp_path)
    if wanted == "merged":
        assert report.recipe["steps"]["merged"]["alpha"]["VAE"] == 0.3
    else:
        assert report.recipe.get("components") == wanted


def test_differences_are_taken_from_the_base_that_is_named(pool, tmp_path):
    path = made(pool, tmp_path, DIFFERENCE)
    with open_checkpoint(path) as merged, open_checkpoint(pool["base"]) as base:
        report = trace(merged, [open_checkpoint(pool[n]) for n in "ab"], "ab", base)
    assert report.recipe["steps"]["merged"] == {"method": "add_difference", "inputs": ["a", "b", "base"], "alpha": 0.6}
    assert report.names == ("a", "b", "base")


def test_models_with_awkward_names_still_make_a_recipe(pool, tmp_path):
    path = made(pool, tmp_path, SUM)
    with open_checkpoint(path) as merged:
        report = trace(merged, [open_checkpoint(pool[n]) for n in "ab"], ["merge", "merged"])
    Recipe.parse(yaml.safe_load(report.recipe_yaml()))


def test_the_sdxl_layout_is_traced_too(tmp_path):
    base = write_demo(tmp_path / "base.safetensors", "sdxl", seed=2)
    shallow = {
        k: v for k, v in load_file(base).items() if "transformer_blocks" not in k or "transformer_blocks.0." in k
    }
    save_file({k: v for k, v in shallow.items() if ".layers." not in k and ".resblocks." not in k}, base)
    paths = {n: write_demo(tmp_path / f"{n}.safetensors", "sdxl", seed=ord(n), finetune_of=base) for n in "ab"}
    step = {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": "GRAD_V"}
    path = made(paths, tmp_path, step)
    with open_checkpoint(path) as merged:
        report = trace(merged, [open_checkpoint(p) for p in paths.values()], list(paths))
    assert report.complete
    assert report.recipe["steps"]["merged"]["alpha"]["preset"] == "GRAD_V"
