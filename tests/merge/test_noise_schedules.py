"""What models predict, and of what noise: every file's marks count, whatever the order of the inputs."""

from __future__ import annotations

import json
from itertools import combinations, permutations

import pytest
import torch
from safetensors.torch import save_file
from tiny import load, tensors_of
from told import codes, raising, the

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.families.parts.schedule import CONTINUOUS, ZERO_SNR
from unetscope.library.inspection import inspect
from unetscope.merge import MergeError, Recipe, merge
from unetscope.merge.convert import convert
from unetscope.merge.lint import lint
from unetscope.merge.lint.finding import check_of
from unetscope.merge.planner import planned

EMPTY = torch.zeros(0)
SIGMAS = {"edm_vpred.sigma_max": torch.tensor(120.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
# Name -> its marker keys, its metadata, and what it is: (prediction, noise), as ComfyUI asks for the keys in its SDXL.
KINDS = {
    "eps": ({}, {}, (None, "")),
    "said_eps": ({}, {"modelspec.predict_key": "epsilon"}, ("epsilon", "")),
    "v": ({"v_pred": EMPTY}, {}, ("v", "")),
    "said_v": ({}, {"modelspec.prediction_type": "v"}, ("v", "")),
    "ztsnr": ({"v_pred": EMPTY, "ztsnr": EMPTY}, {}, ("v", ZERO_SNR)),
    "cosxl": (SIGMAS, {}, ("v", CONTINUOUS)),
    "cosxl_marked_twice": (SIGMAS | {"v_pred": EMPTY}, {}, ("v", CONTINUOUS)),
    "playground": ({"edm_mean": torch.ones(1, 4, 1, 1), "edm_std": torch.ones(1, 4, 1, 1)}, {}, ("edm", CONTINUOUS)),
    "flow": ({}, {"modelspec.prediction_type": "flow_matching"}, ("flow", "")),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds")
    tensors = tensors_of("sd1", 0)
    unet = {key: tensor for key, tensor in tensors.items() if key.startswith("model.diffusion_model.")}
    for name, (marks, metadata, _) in KINDS.items():
        save_file(unet | {key: mark.clone() for key, mark in marks.items()}, folder / f"{name}.safetensors", metadata)
    other = {"edm_vpred.sigma_max": torch.tensor(80.0), "edm_vpred.sigma_min": torch.tensor(0.002)}
    save_file(unet | other, folder / "cosxl_80.safetensors")
    return {path.stem: path for path in folder.iterdir()}


def recipe_of(files, names, **output):
    step = {"method": "uniform", "inputs": list(names)}
    return Recipe.parse({"models": {n: str(files[n]) for n in names}, "steps": {"m": step}, "output": output})


def plan_of(files, *names, **output):
    """The marker keys and warnings of a merge, and what it predicts."""
    with planned(recipe_of(files, names, **output)) as plan:
        return {t.key for t in plan.tensors if t.place.component == "marker"}, plan.warnings, plan.prediction


@pytest.mark.parametrize("name", KINDS)
def test_a_file_says_what_it_predicts_and_of_what_noise(files, name):
    found = inspect(files[name])
    assert (found.prediction, found.noise) == KINDS[name][2]


@pytest.mark.parametrize("pair", combinations(KINDS, 2), ids="-".join)
def test_what_predicts_differently_is_refused_and_other_noise_is_told_in_either_order(files, pair):
    (one, noise), (two, other) = ((said or "epsilon", noise) for said, noise in (KINDS[n][2] for n in pair))
    for names in permutations(pair):
        if one != two:
            with raising("models.predictions", MergeError):
                plan_of(files, *names)
            continue
        _, warnings, _ = plan_of(files, *names)
        assert ("prediction.noise" in codes(warnings)) == (noise != other)
        found = [f for f in lint(recipe_of(files, names)).findings if check_of(f) == "prediction"]
        assert [f.severity for f in found] == ["warning"] * (noise != other)


def test_the_result_is_marked_as_what_it_predicts(files):
    v, zero, levels = {"v_pred"}, {"v_pred", "ztsnr"}, set(SIGMAS)
    for names, marks in [
        (("v", "ztsnr"), v), (("ztsnr", "v"), zero), (("said_v", "v"), v), (("said_v", "ztsnr"), zero),
        (("said_v", "ztsnr", "v"), v), (("cosxl", "ztsnr"), levels), (("said_v", "cosxl"), set()),
        (("eps", "said_eps"), set()), (("ztsnr", "cosxl"), zero),
    ]:  # fmt: skip
        assert plan_of(files, *names)[0] == marks, names
    assert plan_of(files, "eps", "v", mix_predictions=True)[0::2] == (set(), None)
    assert plan_of(files, "v", "eps", mix_predictions=True)[0::2] == (v, "v")


def test_other_noise_levels_of_the_same_mark_are_told(files):
    assert "prediction.levels" not in codes(plan_of(files, "cosxl", "cosxl_marked_twice")[1])
    told = the(plan_of(files, "cosxl", "cosxl_80")[1], "prediction.levels")
    assert "cosxl_80" in told.subject and any("sigma_max" in key for key in told.subject)


def test_a_merge_is_written_with_its_marks(files, tmp_path):
    merge(recipe_of(files, ("said_v", "ztsnr")), tmp_path / "m.safetensors")
    written = load(tmp_path / "m.safetensors")
    assert written["v_pred"].numel() == written["ztsnr"].numel() == 0
    assert (inspect(tmp_path / "m.safetensors").predicts) == f"v, {ZERO_SNR} (keys v_pred, ztsnr)"


# -- diffusers folders ----------------------------------------------------------------------------------------------------

SCHEDULERS = [
    ({"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction"}, ("v", ""), {"v_pred"}),
    (
        {"_class_name": "EulerDiscreteScheduler", "prediction_type": "v_prediction", "rescale_betas_zero_snr": True},
        ("v", ZERO_SNR),
        {"v_pred", "ztsnr"},
    ),
    (
        {"_class_name": "DDIMScheduler", "prediction_type": "epsilon", "rescale_betas_zero_snr": True},
        ("epsilon", ZERO_SNR),
        {"ztsnr"},
    ),
    ({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"}, ("epsilon", ""), set()),
    ({"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"}, ("v", CONTINUOUS), set()),
    ({"_class_name": "EDMEulerScheduler", "prediction_type": "epsilon"}, ("edm", CONTINUOUS), set()),
    ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, ("flow", ""), set()),
]


@pytest.mark.parametrize(("config", "said", "marks"), SCHEDULERS)
def test_a_single_file_of_a_folder_says_what_its_scheduler_says(files, tmp_path, config, said, marks):
    folder = tmp_path / "folder"
    convert(files["eps"], folder, to="diffusers")
    (folder / "scheduler").mkdir(exist_ok=True)
    (folder / "scheduler/scheduler_config.json").write_text(json.dumps(config))
    (folder / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    with open_checkpoint(folder) as checkpoint:
        assert (checkpoint.prediction, checkpoint.noise) == said
        assert {key for key, info in checkpoint.tensors.items() if info.component == "marker"} == marks
    report = convert(folder, tmp_path / "single.safetensors")
    assert marks <= load(tmp_path / "single.safetensors").keys()
    assert ("convert.noise_unmarked" in codes(report.notes)) == (said[1] == CONTINUOUS)
    step = {"method": "copy", "inputs": ["a"]}
    with planned(Recipe.parse({"models": {"a": str(folder)}, "steps": {"m": step}})) as plan:
        assert {t.key for t in plan.tensors if t.place.component == "marker"} == marks
        assert ("prediction.no_mark" in codes(plan.warnings)) == (said[1] == CONTINUOUS)
    if said[1] != CONTINUOUS and said[0] != "flow":
        back = convert(folder, tmp_path / "back", to="diffusers")
        assert not back.dropped
        written = json.loads((tmp_path / "back/scheduler/scheduler_config.json").read_text())
        assert written.get("rescale_betas_zero_snr", False) == (said[1] == ZERO_SNR)
    else:
        with pytest.raises(CheckpointError, match="diffusers' configuration of those is not written"):
            convert(folder, tmp_path / "back", to="diffusers")


def test_a_continuous_model_gets_no_scheduler_of_steps(files, tmp_path):
    with pytest.raises(CheckpointError, match="EDM"):
        convert(files["cosxl"], tmp_path / "folder", to="diffusers")
    assert not (tmp_path / "folder").exists()
