"""Merges in memory against the files that the same recipes give."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from places import place
from samples import others_long
from tiny import load, raw
from told import codes

from unetscope.checkpoints import CheckpointError
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.merge import MergeError, Recipe, merge
from unetscope.merge.live import HeldMerge, LiveMerge

MBW = {"BASE": 0.2, "IN04-IN08": 0.7, "M00": 0.5, "OUT*": 0.3, "VAE": 0.4}
STEPS = {
    "mbw": {"method": "weighted_sum", "inputs": ["m0", "m1"], "alpha": MBW},
    "add": {"method": "add_difference", "inputs": ["m0", "m1", "m2"], "alpha": {"*": 0.5, "OUT05": 1.0}},
    "train": {"method": "train_difference", "inputs": ["m0", "m1", "m2"], "alpha": 0.8},
    "measured": {"method": "slerp", "inputs": ["m0", "m1"], "alpha": {"*": 0.5, "IN*": 0.1}},
    "whole": {"method": "iso_c", "inputs": ["m0", "m1", "m2"], "alpha": 0.6},
    "copy": {"method": "weighted_sum", "inputs": ["m0", "m1"], "alpha": 0.0},
}


@pytest.fixture
def models(make_checkpoint):
    return {f"m{i}": str(make_checkpoint(f"m{i}", seed=i + 1)[0]) for i in range(3)}


def recipe(models, step, **more) -> Recipe:
    used = {name: models[name] for name in step["inputs"]}
    return Recipe.parse({"models": used, "steps": {"out": step}, **more})


def assert_equals_file(live: HeldMerge, wanted: Recipe, path) -> None:
    merge(wanted, path, overwrite=True)
    held, saved = live.torch(wanted), load(path)
    assert list(held) and set(held) == set(saved)
    for key, tensor in saved.items():
        assert held[key].dtype == tensor.dtype and held[key].shape == tensor.shape, key
        assert raw(held[key]) == raw(tensor), key


@pytest.mark.parametrize("dtype", others_long(["fp16", "fp8_e4m3", "keep"], lambda dtype: dtype == "fp16"))
def test_a_merge_in_memory_equals_the_saved_file_whatever_came_before_it(models, dtype, tmp_path):
    with HeldMerge() as live:
        for step in (*STEPS.values(), STEPS["mbw"]):
            assert_equals_file(live, recipe(models, step, output={"dtype": dtype}), tmp_path / "out.safetensors")


def test_only_the_blocks_whose_weight_changed_are_worked_out(models, tmp_path):
    with HeldMerge(threads=1) as live:
        live.update(recipe(models, STEPS["mbw"]))
        live.update(recipe(models, STEPS["mbw"]))
        assert live.changes.keys == () and live.changes.unchanged > 1000
        moved = {**STEPS["mbw"], "alpha": {**MBW, "M00": 0.6}}
        assert_equals_file(live, recipe(models, moved), tmp_path / "out.safetensors")
        assert {place(key).label for key in live.changes.keys} == {"M00"}


def test_a_lora_and_a_model_that_changes_its_number_are_told_from_what_was_there(models, tmp_path):
    lora = write_demo_lora(tmp_path / "style.safetensors", "sd1", base=Path(models["m0"]))
    steps = {"out": {"method": "add", "inputs": ["m0", "style"], "alpha": 0.7}}
    with HeldMerge() as live:
        for strength in (0.7, 0.2):
            steps["out"]["alpha"] = strength
            with_lora = Recipe.parse({"models": {"m0": models["m0"]}, "loras": {"style": str(lora)}, "steps": steps})
            assert_equals_file(live, with_lora, tmp_path / "out.safetensors")
        for first in ("m0", "m1"):
            assert_equals_file(live, Recipe.parse({"models": {"a": models[first]}}), tmp_path / "out.safetensors")


def test_a_refused_merge_is_refused_again_and_made_anew_when_it_is_allowed(make_checkpoint, tmp_path):
    key = "model.diffusion_model.middle_block.0.in_layers.2.weight"

    def broken(tensors):
        tensors[key].view(-1)[5] = torch.nan

    a, _ = make_checkpoint("a", seed=1)
    b, _ = make_checkpoint("b", seed=2, change=broken)
    models = {"m0": str(a), "m1": str(b)}
    strict, lenient = (recipe(models, STEPS["mbw"], output={"nan": nan}) for nan in ("error", "zero"))
    with HeldMerge() as live:
        for _ in range(2):
            with pytest.raises(MergeError, match=r"m1: .*middle_block"):
                live.update(strict)
        assert_equals_file(live, lenient, tmp_path / "out.safetensors")
        assert "merge.not_finite" in codes(live.changes.warnings)


def test_a_model_that_was_replaced_since_is_refused(models):
    with HeldMerge() as live:
        live.update(recipe(models, STEPS["mbw"]))
        os.utime(models["m1"], (1, 1))
        with pytest.raises(CheckpointError, match=r"m1\.safetensors"):
            live.update(recipe(models, STEPS["mbw"]))


def test_only_wanted_tensors_are_read_and_each_element_comes_once(models):
    seen: dict[str, np.ndarray] = {}

    def put(tensor, start, values):
        count = seen.setdefault(tensor.key, np.zeros(tensor.elements, int))
        count[start : start + values.size // tensor.dtype.size] += 1

    with LiveMerge(put, threads=2, wanted=lambda key: place(key).component == "unet") as live:
        changes = live.update(recipe(models, STEPS["whole"]))
    assert set(changes.keys) == set(seen) and {place(key).component for key in seen} == {"unet"}
    assert all((count == 1).all() for count in seen.values())


def test_the_arrays_are_the_same_memory_from_update_to_update(models):
    with HeldMerge() as live:
        first = live.update(recipe(models, STEPS["mbw"]))
        second = live.update(recipe(models, STEPS["train"]))
        assert all(np.shares_memory(first[key], second[key]) for key in first if first[key].size)
