"""Kin of the families: models of nearly a family's layout, told by their own whole layout and never by a hole in the family's."""

import json
import random

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tiny import load, tensors_of
from told import codes, raising
from typer.testing import CliRunner

from unetscope.checkpoints import open_checkpoint
from unetscope.checkpoints.dtypes import F32
from unetscope.checkpoints.errors import CheckpointError
from unetscope.checkpoints.families import FAMILIES, family_of
from unetscope.checkpoints.families.diffusers import unet_config
from unetscope.checkpoints.recognition import canonical_names
from unetscope.checkpoints.recognition.architecture import missing_keys, recognise
from unetscope.checkpoints.recognition.denoiser import diffusers_family, diffusers_name, key
from unetscope.checkpoints.tensors import StoredTensor
from unetscope.cli.commands import app
from unetscope.diagrams import draw
from unetscope.library.inspection import inspect
from unetscope.library.scan import scan
from unetscope.merge import MergeError, Recipe, merge
from unetscope.merge.convert import convert

UNET = "model.diffusion_model."
KIN = [family.id for family in FAMILIES.values() if family.parent]
# By the layout alone: the others are told by what only they hold.
BY_LAYOUT = [family for family in KIN if family_of(family).known_by is None]
# Tensors of the UNET, and billions of parameters as its authors say, rounded in their manner.
PUBLISHED = {
    "ssd_1b": (944, 1.33),
    "vega": (564, 0.745),
    "koala_700m": (584, 0.782),
    "koala_1b": (790, 1.161),
    "kolors": (1682, 2.58),
    "sd2_unclip": (690, 0.87),
    "sd1_bk_base": (442, 0.58),
    "sd1_bk_small": (396, 0.49),
    "sd1_bk_tiny": (358, 0.33),
    "sd2_bk_base": (442, 0.59),
    "sd2_bk_small": (396, 0.49),
    "sd2_bk_tiny": (358, 0.33),
}


def shapes(family, widths="real"):
    return {key: spec.shape for key, spec in family_of(family).layout(widths).items()}


def unet_of(family, widths="real"):
    record = family_of(family)
    return {k: shape for k, shape in shapes(family, widths).items() if record.block_of(k).core}


def file_of(family, path, seed=0, change=lambda tensors: tensors):
    save_file(change(tensors_of(family, seed, in_channels=None)), path)
    return path


def run(*arguments):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.output


# -- their layouts -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", PUBLISHED)
def test_the_unet_has_as_many_tensors_and_parameters_as_the_published_one(family):
    unet, (tensors, billions) = unet_of(family), PUBLISHED[family]
    assert len(unet) == tensors
    assert sum(int(np.prod(shape)) for shape in unet.values()) / 1e9 == pytest.approx(billions, abs=0.01)


@pytest.mark.one_by_one
@pytest.mark.parametrize("widths", ["real", "narrow"])
@pytest.mark.parametrize("family", [f for f in KIN if f != "zero123"])
def test_the_unet_is_the_one_that_diffusers_builds_of_its_configuration(family, widths):
    diffusers = pytest.importorskip("diffusers")
    record = family_of(family)
    with torch.device("meta"):
        built = diffusers.UNet2DConditionModel(**unet_config(family, widths)).state_dict()
    ours = {diffusers_name(k.removeprefix(UNET), record): shape for k, shape in unet_of(family, widths).items()}
    assert ours == {name: tuple(t.shape) for name, t in built.items()}
    assert {key(name, record) for name in built} == {k.removeprefix(UNET) for k in unet_of(family)}
    assert diffusers_family({name: tuple(t.shape) for name, t in built.items()}) == family


@pytest.mark.parametrize("family", KIN)
def test_each_block_that_it_has_is_named_and_no_other(family):
    record = family_of(family)
    held = {record.block_of(k).label for k in unet_of(family)}
    assert held == set(record.labels)


# -- what a file is taken for ------------------------------------------------------------------------------------------------


@pytest.mark.one_by_one
@pytest.mark.parametrize("widths", ["real", "narrow"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_whole_file_is_of_its_own_family(family, widths):
    found = recognise(shapes(family, widths))
    assert (found.family, found.what, found.variant) == (family, "checkpoint", "base")


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", BY_LAYOUT)
@pytest.mark.parametrize("block", ["input_blocks.2.", "output_blocks.1.", "output_blocks.4.0.", "out."])
def test_a_kin_that_lost_a_block_stays_what_it_is_and_the_loss_is_counted(family, block):
    whole = shapes(family)
    kept = {k: shape for k, shape in whole.items() if not k.startswith(UNET + block)}
    assert recognise(kept).family == family
    assert set(missing_keys(family, kept, "unet")) == set(whole) - set(kept) != set()


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", sorted({family_of(f).parent for f in KIN}))
@pytest.mark.parametrize("seed", range(6))
def test_a_family_that_lost_blocks_layers_or_its_middle_is_no_kin(family, seed):
    draw_from = random.Random(seed)
    whole = shapes(family)
    modules = sorted({".".join(k.removeprefix(UNET).split(".")[:4]) for k in unet_of(family) if "blocks" in k})
    lost = ("middle_block.", *draw_from.sample(modules, draw_from.choice([1, 5, len(modules) // 3])))
    kept = {k: shape for k, shape in whole.items() if not k.removeprefix(UNET).startswith(lost)}
    assert recognise(kept).family == family
    assert len(missing_keys(family, kept, "unet")) == len(whole) - len(kept) > 0


def test_the_family_whose_every_layer_beyond_a_kins_is_gone_is_that_kin():
    small = unet_of("ssd_1b")
    kept = {k: shape for k, shape in shapes("sdxl").items() if not k.startswith(UNET) or k in small}
    assert recognise(kept).family == "ssd_1b"


def test_a_kin_with_one_tensor_of_its_family_beyond_is_not_that_kin():
    one = UNET + "middle_block.2.in_layers.0.weight"
    assert one in shapes("sdxl") and one not in shapes("ssd_1b")
    assert recognise(shapes("ssd_1b") | {one: (1280,)}).family == "sdxl"


def test_a_unet_with_many_layers_that_no_layout_has_is_of_no_family():
    gligen = {
        f"{name.split('.transformer_blocks')[0]}.transformer_blocks.0.fuser.{part}": (8, 8)
        for name in shapes("sd1")
        if ".transformer_blocks.0.norm1.weight" in name
        for part in (
            "attn.to_q.weight",
            "attn.to_k.weight",
            "attn.to_v.weight",
            "ff.weight",
            "linear.weight",
            "norm1.weight",
        )
    }
    assert len(gligen) > 68
    assert recognise(shapes("sd1") | gligen).family is None
    assert recognise(shapes("sd1") | dict(list(gligen.items())[:10])).family == "sd1"


@pytest.mark.parametrize(
    ("names", "word"),
    [
        ({UNET + f"input_blocks.{i}.0.temopral_conv.conv1.0.weight": (8,) for i in (1, 2)}, "ModelScope"),
        ({UNET + f"project_modules.{i}.attn.to_q.weight": (8, 8) for i in range(12)}, "SUPIR"),
    ],
)
def test_models_that_resemble_a_family_are_named_and_are_not_taken_for_it(names, word):
    found = recognise(shapes("sd2") | names)
    assert (found.family, found.what) == (None, "other")
    assert word in found.name


def test_a_video_model_in_diffusers_naming_is_not_taken_for_sd2():
    unet = {diffusers_name(k.removeprefix(UNET), family_of("sd2")): shape for k, shape in unet_of("sd2").items()}
    strange = {
        f"down_blocks.{i}.temp_convs.{j}.conv{n}.weight": (8,) for i in range(4) for j in range(8) for n in range(9)
    }
    assert diffusers_family(unet) == "sd2"
    assert diffusers_family(unet | strange) is None
    stored = [StoredTensor.at(name, F32, shape, None, 0) for name, shape in (unet | strange).items()]
    read = canonical_names(stored).tensors
    assert recognise({k: t.shape for k, t in read.items()}, list(unet | strange)).family is None


def test_swinir_is_an_image_upscaler():
    names = {f"layers.0.residual_group.blocks.{i}.attn.qkv.weight": (24, 8) for i in range(2)}
    assert recognise({"conv_first.weight": (8, 3, 3, 3)} | names).name == "an image upscaler"
    assert recognise(names).name == "an image upscaler"


def test_lone_parts_and_adapters_are_told_by_the_families_not_by_their_kin():
    for family in ("sd1", "sd2", "sdxl"):
        record = family_of(family)
        parts = {
            k: s
            for k, s in shapes(family).items()
            if record.block_of(k).component in ("clip_l", "clip_h", "clip_g", "vae")
        }
        found = recognise(parts).family
        assert found is None or not family_of(found).parent


# -- SSD-1B and its like -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["ssd_1b", "koala_700m", "sd1_bk_tiny", "sd2_unclip", "kolors", "zero123"])
def test_nothing_is_missing_broken_or_junk_in_a_whole_file(family, tmp_path):
    path = file_of(family, tmp_path / "a.safetensors")
    found = inspect(path)
    assert found.architecture.family == family
    assert (found.missing, found.absent, found.junk) == ({}, (), ())
    assert [f for f in scan(path).health if f.severity == "error"] == []


@pytest.mark.parametrize("family", ["ssd_1b", "koala_700m", "sd1_bk_small", "sd2_unclip", "kolors", "zero123"])
def test_the_diagram_has_the_files_own_tensors(family, tmp_path):
    path = file_of(family, tmp_path / "a.safetensors")
    unet = unet_of(family, "narrow")
    with open_checkpoint(path) as checkpoint:
        for level in ("block", "module", "layer"):
            svg = draw(checkpoint, level).svg
            assert f"{sum(int(np.prod(s)) for s in unet.values()):,} parameters in {len(unet):,} tensors" in svg


@pytest.mark.parametrize("family", ["ssd_1b", "koala_1b", "sd2_bk_base"])
def test_kin_merges_with_its_own_and_by_block_and_not_with_its_family(family, tmp_path):
    a, b = (file_of(family, tmp_path / f"{n}.safetensors", n) for n in (1, 2))
    parent = file_of(family_of(family).parent, tmp_path / "parent.safetensors", 3)
    steps = {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": {"UNET": 0.5, "IN01": 0.25}}}
    recipe = Recipe.parse({"models": {"a": str(a), "b": str(b)}, "steps": steps, "output": {"dtype": "fp32"}})
    merge(recipe, tmp_path / "out.safetensors")
    found, one, two = load(tmp_path / "out.safetensors"), load(a), load(b)
    for name, share in ((f"{UNET}input_blocks.1.0.in_layers.2.weight", 0.25), (f"{UNET}out.2.weight", 0.5)):
        expected = (1 - share) * one[name].double() + share * two[name].double()
        assert torch.allclose(found[name].double(), expected, atol=1e-6)
    mixed = Recipe.parse(
        {
            "models": {"a": str(parent), "b": str(a)},
            "steps": {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}},
        }
    )
    with raising("models.architectures", MergeError):
        merge(mixed, tmp_path / "mixed.safetensors")
    assert not (tmp_path / "mixed.safetensors").exists()


@pytest.mark.parametrize("family", ["ssd_1b", "koala_700m", "sd1_bk_tiny"])
def test_a_folder_in_the_diffusers_layout_is_read_as_the_same_kin(family, tmp_path):
    path = file_of(family, tmp_path / "a.safetensors")
    convert(path, tmp_path / "folder", to="diffusers")
    before, unet = load(path), unet_of(family)
    with open_checkpoint(tmp_path / "folder") as folder:
        assert folder.architecture.family == family
        assert all((folder.torch(k).float() == before[k].float()).all() for k in unet)


@pytest.mark.parametrize("family", KIN)
def test_a_number_for_each_block_or_the_vectors_of_its_family_fit(family):
    from unetscope.checkpoints.families.conventions import CONVENTIONS

    record = family_of(family)
    lengths = CONVENTIONS["supermerger"].lengths(family)
    same_blocks = {x for x in record.labels if x.startswith(("IN", "OUT", "M"))} == {
        x for x in family_of(record.parent).labels if x.startswith(("IN", "OUT", "M"))
    }
    parents = CONVENTIONS["supermerger"].lengths(record.parent)
    assert lengths == (parents if same_blocks else (len(record.labels),))


# -- unCLIP, Zero123, depth: what stands next to the UNET --------------------------------------------------------------------


def test_unclips_embedding_is_merged_by_its_weight_and_its_image_encoder_by_the_base_weight(tmp_path):
    def with_encoder(tensors):
        return tensors | {"embedder.model.visual.proj": torch.full((4, 4), float(tensors[UNET + "out.2.bias"][0]))}

    a, b = (file_of("sd2_unclip", tmp_path / f"{n}.safetensors", n, with_encoder) for n in (1, 2))
    out = tmp_path / "out.safetensors"
    code, _ = run(
        "merge", "weighted-sum", a, b, "--alpha", 0.5, "--blocks", "LABEL_EMB: 0.2", "--dtype", "fp32", "-o", out
    )
    assert code == 0
    found, one, two = load(out), load(a), load(b)
    name = UNET + "label_emb.0.0.weight"
    assert torch.allclose(found[name].double(), 0.8 * one[name].double() + 0.2 * two[name].double(), atol=1e-6)
    for name in ("embedder.model.visual.proj", "noise_augmentor.data_mean"):
        assert torch.allclose(found[name].double(), (one[name].double() + two[name].double()) / 2, atol=1e-6)


def test_unclip_is_not_written_in_the_layout_of_a_pipeline_that_cannot_run_it(tmp_path):
    path = file_of("sd2_unclip", tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError):
        convert(path, tmp_path / "folder", to="diffusers")
    assert not (tmp_path / "folder").exists()


EXTRAS = {
    "sd2_unclip": "embedder.model.visual.proj",
    "zero123": "cond_stage_model.model.visual.transformer.resblocks.0.attn.in_proj_weight",
    "sd2": "depth_model.model.scratch.layer1_rn.weight",
}


@pytest.mark.parametrize("family", EXTRAS)
def test_pruning_keeps_what_the_model_needs_and_what_is_not_known(family, tmp_path):
    more = {EXTRAS[family]: torch.zeros(4, 4), "junk.weight": torch.zeros(4, 4), "optimizer.step": torch.zeros(1)}
    path = file_of(family, tmp_path / "a.safetensors", change=lambda tensors: tensors | more)
    assert set(inspect(path).junk) == {"junk.weight", "optimizer.step"} and inspect(path).training == (
        "optimizer.step",
    )
    report = convert(path, tmp_path / "out.safetensors", prune=True)
    assert report.kept == ["junk.weight"]
    assert set(load(path)) - set(load(tmp_path / "out.safetensors")) <= {
        "optimizer.step",
        "model_ema.decay",
        "model_ema.num_updates",
    }


def test_another_familys_extras_are_junk(tmp_path):
    path = file_of("sd1", tmp_path / "a.safetensors", change=lambda tensors: tensors | {"embedder.x": torch.zeros(4)})
    assert inspect(path).junk == ("embedder.x",)


def test_zero123_is_told_by_its_projection_and_has_no_text_encoder():
    found = recognise(shapes("zero123") | {EXTRAS["zero123"]: (12, 4)})
    assert (found.family, found.variant, found.parts) == ("zero123", "base", ("unet", "vae", "ema", "schedule"))
    without = {k: shape for k, shape in shapes("zero123").items() if not k.startswith("cc_projection")}
    assert (recognise(without).family, recognise(without).variant) == ("sd1", "instruct-pix2pix")


# -- a UNET that is there as EMA weights only --------------------------------------------------------------------------------


def only_average(tensors):
    kept = {k: t for k, t in tensors.items() if not k.startswith(UNET)}
    return kept | {
        "model_ema." + k.removeprefix("model.").replace(".", ""): t for k, t in tensors.items() if k.startswith(UNET)
    }


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "ssd_1b", "sd1_bk_base"])
def test_a_unet_that_is_there_as_ema_weights_only_tells_the_family(family):
    found = recognise({k: tuple(t.shape) for k, t in only_average(tensors_of(family, 0)).items()})
    assert (found.family, found.what, found.ema_only) == (family, "checkpoint", True)
    assert "unet" not in found.parts and not recognise(shapes(family)).ema_only


def test_exchange_ema_makes_them_the_unet(tmp_path):
    path = file_of("sd1", tmp_path / "odd.safetensors", 2, only_average)
    out = tmp_path / "out.safetensors"
    code, _ = run("merge", "exchange-ema", path, "--dtype", "keep", "-o", out)
    assert code == 0
    whole, found = tensors_of("sd1", 2), load(out)
    assert {k for k in found if k.startswith(UNET)} == {k for k in whole if k.startswith(UNET)}
    assert all((found[k] == whole[k]).all() for k in whole if k.startswith(UNET))
    assert inspect(out).architecture.name == "SD1 checkpoint"
    assert not any(k.startswith("model_ema.diffusion") for k in found)


def test_without_exchange_ema_they_are_the_unet_too_and_serve_as_a_text_encoders_file(tmp_path):
    odd = file_of("sd1", tmp_path / "odd.safetensors", 2, only_average)
    whole = file_of("sd1", tmp_path / "whole.safetensors", 3)
    recipe = {
        "models": {"a": str(odd), "b": str(whole)},
        "steps": {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.25}},
        "output": {"dtype": "fp32"},
    }
    report = merge(Recipe.parse(recipe), tmp_path / "out.safetensors")
    assert "plan.ema_only" in codes(report.warnings)
    found, one, two = load(tmp_path / "out.safetensors"), tensors_of("sd1", 2), tensors_of("sd1", 3)
    name = f"{UNET}out.2.weight"
    assert torch.allclose(found[name].double(), 0.75 * one[name].double() + 0.25 * two[name].double(), atol=1e-6)
    assert inspect(tmp_path / "out.safetensors").architecture.name == "SD1 checkpoint"
    taken = {"models": {"b": str(whole), "a": str(odd)}, "components": {"clip_l": "a"}, "result": "b"}
    merge(Recipe.parse(taken), tmp_path / "taken.safetensors")
    text = next(k for k in load(whole) if k.endswith("q_proj.weight"))
    assert (load(tmp_path / "taken.safetensors")[text] == load(odd)[text]).all()


def test_ema_weights_with_a_hole_are_refused_and_counted(tmp_path):
    def holed(tensors):
        return {k: t for k, t in only_average(tensors).items() if "outputblocks3" not in k.replace("_", "")}

    path = file_of("sd1", tmp_path / "odd.safetensors", 2, holed)
    assert inspect(path).architecture.ema_only
    recipe = Recipe.parse({"models": {"a": str(path)}, "steps": {"m": {"method": "exchange_ema", "inputs": ["a"]}}})
    with pytest.raises(MergeError, match="lack 38 tensors"):
        merge(recipe, tmp_path / "out.safetensors")


def test_pruning_keeps_the_only_unet_and_inspect_does_not_advise_to_drop_it(tmp_path):
    path = file_of("sd1", tmp_path / "odd.safetensors", 2, only_average)
    convert(path, tmp_path / "out.safetensors", prune=True)
    assert set(load(tmp_path / "out.safetensors")) == set(load(path))
    assert inspect(path).absent == ()
    said = codes(scan(path).health)
    assert "health.ema_only" in said and "health.needless" not in said
    code, printed = run("inspect", path, "--json")
    assert code == 0 and json.loads(printed)["architecture"]["ema_only"] is True
    with pytest.raises(CheckpointError, match="EMA"):
        convert(path, tmp_path / "folder", to="diffusers")


# -- noise schedules that differ though both predict v -----------------------------------------------------------------------


def test_a_continuous_model_merged_with_a_discrete_one_is_warned_of(tmp_path):
    def marked(*names):
        return lambda tensors: tensors | {name: torch.zeros(1) for name in names}

    discrete, other = (file_of("sdxl", tmp_path / f"{n}.safetensors", n, marked("v_pred")) for n in (1, 2))
    cosxl = file_of("sdxl", tmp_path / "cosxl.safetensors", 3, marked("edm_vpred.sigma_max", "edm_vpred.sigma_min"))

    def warnings(b):
        steps = {"m": {"method": "weighted_sum", "inputs": ["a", "b"], "alpha": 0.5}}
        recipe = Recipe.parse({"models": {"a": str(discrete), "b": str(b)}, "steps": steps})
        return merge(recipe, tmp_path / f"out-{b.name}").warnings

    assert "prediction.noise" in codes(warnings(cosxl))
    assert "prediction.noise" not in codes(warnings(other))
