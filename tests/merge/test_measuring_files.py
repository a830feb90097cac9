"""Methods that measure tensors first, in files: nested, by block, by channel, whatever threads and pieces."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from places import place
from samples import others_long
from step_results import result
from tiny import load, raw

from unetscope.merge import Recipe, RecipeError, dry_run, merge

UNET = "model.diffusion_model.middle_block.1.proj_in.weight"
STEPS = {
    "slerp": {"inputs": ["x", "y"], "alpha": 0.3},
    "geometric_median": {"inputs": ["b", "x", "y"]},
    "model_stock": {"inputs": ["b", "x", "y"]},
    "ties": {"inputs": ["b", "x", "y"], "trim": "count"},
    "breadcrumbs": {"inputs": ["b", "x", "y"]},
    "dare": {"inputs": ["b", "x", "y"], "rescale": "l1"},
    "della": {"inputs": ["b", "x", "y"], "combine": "median"},
    "sce": {"inputs": ["b", "x", "y"]},
}


@pytest.fixture
def files(make_checkpoint):
    made = {n: make_checkpoint(n, seed=i, dtype="fp32", thin=True) for i, n in enumerate("bxy")}
    return {n: path for n, (path, _) in made.items()}, {n: tensors for n, (_, tensors) in made.items()}


def merged(folder, paths, steps, threads=1, name="out"):
    output = {"dtype": "fp32", "allow_missing": True}
    data = {"models": {n: str(p) for n, p in paths.items()}, "steps": steps, "output": output}
    merge(Recipe.parse(data), folder / f"{name}.safetensors", fsync=False, threads=threads)
    return load(folder / f"{name}.safetensors")


@pytest.mark.parametrize("method", STEPS)
def test_files_have_the_values_of_the_formulas(method, files, tmp_path):
    paths, tensors = files
    steps = {"s": {"method": method, **STEPS[method]}}
    one = merged(tmp_path, paths, steps)
    values = {k: v for k, v in steps["s"].items() if k not in ("method", "inputs")}
    for key in (UNET, "model.diffusion_model.out.2.weight", "model.diffusion_model.input_blocks.0.0.weight"):
        given = [tensors[n][key].numpy() for n in steps["s"]["inputs"]]
        expected = result(method, given, names=steps["s"]["inputs"], key=key, **values)
        assert (one[key].numpy() == expected).all(), key


# One that sums nothing, and one whose sums are kept by tile.
@pytest.mark.parametrize("method", others_long(STEPS, lambda method: method in ("ties", "model_stock")))
def test_files_do_not_depend_on_threads_and_pieces(method, files, tmp_path, monkeypatch):
    paths, _ = files
    steps = {"s": {"method": method, **STEPS[method]}}
    one = merged(tmp_path, paths, steps)
    monkeypatch.setattr("unetscope.checkpoints.stream._BUFFER_BYTES", 1 << 18)
    monkeypatch.setattr("unetscope.merge.tensor_slice._TILE", 1 << 13)
    four = merged(tmp_path, paths, steps, threads=4, name="four")
    if method in ("ties", "breadcrumbs"):  # what they sum nowhere does not depend on tiles at all
        assert {k: raw(t) for k, t in one.items()} == {k: raw(t) for k, t in four.items()}
    else:
        for k, t in one.items():
            torch.testing.assert_close(t, four[k], rtol=1e-5, atol=1e-6)
    monkeypatch.undo()
    again = merged(tmp_path, paths, steps, threads=3, name="again")
    assert {k: raw(t) for k, t in one.items()} == {k: raw(t) for k, t in again.items()}


def test_methods_that_measure_nest_in_one_another(files, tmp_path):
    paths, tensors = files
    steps = {
        "t": {"method": "ties", "inputs": ["b", "x", "y"], "density": 0.4},
        "s": {"method": "slerp", "inputs": ["t", "y"], "alpha": 0.25},
        "m": {"method": "geometric_median", "inputs": ["s", "x", "b"]},
        "out": {"method": "weighted_sum", "inputs": ["m", "x"], "alpha": {"M00": 0.5}},
    }
    out = merged(tmp_path, paths, steps)
    b, x, y = (tensors[n][UNET].numpy() for n in "bxy")
    t = result("ties", [b, x, y], density=0.4)
    m = result("geometric_median", [result("slerp", [t, y], alpha=0.25), x, b])
    np.testing.assert_allclose(out[UNET].numpy(), 0.5 * m + 0.5 * x, rtol=0, atol=1e-6)


def test_numbers_may_differ_by_block(files, tmp_path):
    paths, tensors = files
    steps = {"s": {"method": "ties", "inputs": ["b", "x", "y"], "density": {"default": 1.0, "M00": 0.1}, "weights": 1}}
    out = merged(tmp_path, paths, steps)
    for key, density in ((UNET, 0.1), ("model.diffusion_model.out.2.weight", 1.0)):
        given = [tensors[n][key].numpy() for n in "bxy"]
        assert (out[key].numpy() == result("ties", given, density=density)).all()


def test_a_share_beyond_1_is_refused_before_anything_is_written(files, tmp_path):
    paths, _ = files
    steps = {"s": {"method": "ties", "inputs": ["b", "x", "y"], "density": {"default": 0.5, "IN04": 20}}}
    with pytest.raises(
        RecipeError, match=r"steps\.s\.density at IN04: must be a share from 0 to 1, not 20; 20 % is 0\.2"
    ):
        merged(tmp_path, paths, steps)
    assert not list(tmp_path.glob("out*"))


def test_a_dry_run_tells_passes_and_the_memory_that_counting_takes(files, tmp_path):
    paths, _ = files

    def said(method):
        steps = {"s": {"method": method, "inputs": ["b", "x", "y"]}}
        models, output = {n: str(p) for n, p in paths.items()}, {"allow_missing": True}
        recipe = Recipe.parse({"models": models, "steps": steps, "output": output})
        return dry_run(recipe, tmp_path / "out.safetensors", threads=1)

    plain, measured = said("task_arithmetic"), said("ties")
    assert (plain.passes, measured.passes) == (1, 5)
    assert measured.memory - plain.memory == 2 * (1 << 18)


def test_the_text_encoder_takes_part_and_the_vae_does_not(files, tmp_path):
    paths, tensors = files
    out = merged(tmp_path, paths, {"s": {"method": "ties", "inputs": ["b", "x", "y"]}})
    changed = {place(k).component for k, t in out.items() if not torch.equal(t, tensors["b"][k])}
    assert {"unet", "clip_l"} <= changed and "vae" not in changed


def test_of_models_with_more_channels_the_same_ones_are_merged_whatever_a_step_turns_out_to_be(
    make_checkpoint, tmp_path
):
    channels = {"a": 9, "b": 4, "c": 9}
    made = {
        n: make_checkpoint(n, seed=i, dtype="fp32", in_channels=channels[n], thin=True) for i, n in enumerate("abc")
    }
    steps = {
        "flat": {"method": "iso_c", "inputs": ["a", "c"]},
        "turned": {
            "method": "slerp",
            "inputs": ["a", "b"],
            "alpha": 0,
        },  # b, the only one with four channels, has no share
        "out": {"method": "weighted_sum", "inputs": ["flat", "turned"], "alpha": 0.5},
    }
    out = merged(tmp_path, {n: path for n, (path, _) in made.items()}, steps)
    key = "model.diffusion_model.input_blocks.0.0.weight"
    a, c = (made[n][1][key].numpy() for n in "ac")
    expected = (result("iso_c", [a[:, :4], c[:, :4]]) + a[:, :4]) / 2
    np.testing.assert_allclose(out[key][:, :4].numpy(), expected, rtol=0, atol=1e-6)
    assert (out[key][:, 4:].numpy() == a[:, 4:]).all()


@pytest.mark.parametrize("ranks", ["row", "tensor"])
def test_rows_of_models_with_more_channels_are_those_of_the_channels_that_all_have(ranks, make_checkpoint, tmp_path):
    channels = {"b": 9, "x": 4, "y": 4}
    made = {
        n: make_checkpoint(n, seed=i, dtype="fp32", in_channels=channels[n], thin=True) for i, n in enumerate("bxy")
    }
    step = {"method": "della", "inputs": ["b", "x", "y"], "ranks": ranks, "rescale": "l1"}
    out = merged(tmp_path, {n: path for n, (path, _) in made.items()}, {"s": step})
    key = "model.diffusion_model.input_blocks.0.0.weight"
    given = [made[n][1][key].numpy()[:, :4] for n in "bxy"]
    assert (out[key][:, :4].numpy() == result("della", given, names="bxy", key=key, ranks=ranks, rescale="l1")).all()
    assert (out[key][:, 4:].numpy() == made["b"][1][key].numpy()[:, 4:]).all()
