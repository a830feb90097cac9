"""Conversions against the tensors they began with, torch's own rounding, and what diffusers loads."""

from __future__ import annotations

import json
import threading

import numpy as np
import pytest
import torch
from places import place
from safetensors import safe_open
from safetensors.torch import save_file
from tiny import TORCH, leftovers, load, raw
from told import codes, raising, the

from unetscope.checkpoints import CheckpointError, OutputError, open_checkpoint
from unetscope.checkpoints.stream import Cancelled
from unetscope.library.scan import scan
from unetscope.merge.convert import convert

FAMILIES = ("sd1", "sd2", "sdxl", "sdxl_refiner")
POSITIONS = "cond_stage_model.transformer.text_model.embeddings.position_ids"
UNET_WEIGHT = "model.diffusion_model.input_blocks.4.1.proj_in.weight"


def same(left: dict, right: dict) -> None:
    assert set(left) == set(right)
    for key in left:
        assert (left[key].dtype, left[key].shape) == (right[key].dtype, right[key].shape), key
        assert raw(left[key]) == raw(right[key]), key


def said(path) -> dict:
    with safe_open(path, "pt") as file:
        return file.metadata()


# -- single files -----------------------------------------------------------------------------------------------------


def test_a_pickle_becomes_the_file_that_the_safetensors_library_would_have_written(make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("a", "sdxl")
    turned = {k: t.T.contiguous().T if t.ndim == 2 else t for k, t in tensors.items()}
    torch.save({"state_dict": turned}, tmp_path / "a.ckpt")
    report = convert(tmp_path / "a.ckpt", tmp_path / "out.safetensors")
    same(load(tmp_path / "out.safetensors"), tensors)
    assert (tmp_path / "out.safetensors").read_bytes() == path.read_bytes()
    assert report.tensors == len(tensors) and report.size == path.stat().st_size


def test_tensors_of_every_dtype_lie_in_the_order_of_the_safetensors_library(make_checkpoint, tmp_path):
    names = "float64 float32 float16 bfloat16 float8_e4m3fn float8_e5m2 int64 int32 int16 int8 uint64 uint32 uint16 uint8 bool"
    tensors = {f"{i % 7}.{name}": torch.ones(3).to(getattr(torch, name)) for i, name in enumerate(names.split())}
    tensors |= {f"{i % 5}.again": tensor.clone() for i, tensor in enumerate(tensors.values())}
    save_file(tensors, tmp_path / "all.safetensors", {"format": "pt"})
    convert(tmp_path / "all.safetensors", tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == (tmp_path / "all.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("origin", "target"),
    [("fp32", "fp16"), ("fp32", "bf16"), ("fp32", "fp8_e4m3"), ("fp16", "bf16"), ("bf16", "fp16"), ("fp16", "fp32")],
)
def test_dtypes_are_rounded_as_torch_rounds(origin, target, make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("a", dtype=origin)
    report = convert(path, tmp_path / "out.safetensors", dtype=target)
    out = load(tmp_path / "out.safetensors")
    changed = 0
    for key, tensor in tensors.items():
        weight = tensor.is_floating_point() and tensor.ndim and place(key).component != "schedule"
        expected = tensor.to(TORCH[target]) if weight else tensor
        changed += bool(weight)
        assert out[key].dtype == expected.dtype and raw(out[key]) == raw(expected), key
    assert sum(report.dtypes.values()) == len(tensors)
    assert max(report.dtypes.values()) == changed


def test_double_precision_is_rounded_too(make_checkpoint, tmp_path):
    path, tensors = make_checkpoint(
        "a", change=lambda t: {k: v.double() if v.is_floating_point() else v for k, v in t.items()}
    )
    convert(path, tmp_path / "out.safetensors", dtype="fp32")
    assert raw(load(tmp_path / "out.safetensors")[UNET_WEIGHT]) == raw(tensors[UNET_WEIGHT].float())


@pytest.mark.parametrize(("dtype", "value"), [("fp16", 1e5), ("fp8_e4m3", 500.0), ("fp8_e4m3", float("inf"))])
def test_values_too_large_for_the_dtype_are_refused_and_nothing_is_left(dtype, value, make_checkpoint, tmp_path):
    def change(tensors):
        tensors[UNET_WEIGHT].view(-1)[:2] = value

    path, _ = make_checkpoint("a", dtype="fp32", change=change)
    before = sorted(p.name for p in tmp_path.iterdir())
    for to, name in (("single-file", "out.safetensors"), ("diffusers", "folder")):
        with raising("convert.too_large", CheckpointError, [str(path), "2"]):
            convert(path, tmp_path / name, dtype=dtype, to=to)
        assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_nan_and_infinite_values_stay_and_are_reported(make_checkpoint, tmp_path):
    def change(tensors):
        tensors[UNET_WEIGHT].view(-1)[:3] = torch.tensor([torch.nan, torch.inf, -torch.inf])

    path, _ = make_checkpoint("a", change=change)
    report = convert(path, tmp_path / "out.safetensors", dtype="bf16")
    out = load(tmp_path / "out.safetensors")[UNET_WEIGHT].view(-1)[:3].float().numpy()
    assert np.isnan(out[0]) and list(out[1:]) == [np.inf, -np.inf]
    assert "3 " in (told := the(report.notes, "convert.not_finite")).text and told.subject == (UNET_WEIGHT,)


def test_pruning_drops_ema_and_junk_and_keeps_markers(make_checkpoint, tmp_path):
    extra = {
        "model_ema.diffusion_modelout2weight": torch.ones(4),
        "optimizer.step": torch.ones(2),
        "v_pred": torch.zeros(0),
        "ztsnr": torch.zeros(0),
    }
    path, tensors = make_checkpoint("a", change=lambda t: t.update(extra))
    report = convert(path, tmp_path / "out.safetensors", prune=True)
    gone = {key for key in tensors if key.startswith("model_ema.")} | {"optimizer.step"}
    assert {key for keys in report.dropped.values() for key in keys} == gone
    same(load(tmp_path / "out.safetensors"), {k: t for k, t in tensors.items() if k not in gone})


def test_pruning_drops_second_copies_and_what_differs_stays(make_checkpoint, tmp_path):
    same, other = "first_stage_model.decoder.conv_in.weight", "first_stage_model.decoder.conv_out.weight"

    def twice(tensors):
        tensors["vae." + same.partition(".")[2]] = tensors[same].clone()
        tensors["vae." + other.partition(".")[2]] = tensors[other] + 1

    path, _ = make_checkpoint("a", change=twice)
    report = convert(path, tmp_path / "out.safetensors", prune=True)
    assert report.dropped["there twice"] == ["vae.decoder.conv_in.weight"]
    assert report.kept == ["vae.decoder.conv_out.weight"] and "convert.kept" in codes(report.notes)


def test_tensors_are_left_out_by_name_and_only_where_there_are_such(make_checkpoint, tmp_path):
    more = {
        "embedder.a": torch.ones(2),
        "embedder.b": torch.ones(2),
        "x.1.bias": torch.ones(2),
        "x.1.weight": torch.ones(2),
    }
    path, tensors = make_checkpoint("a", change=lambda t: t.update(more))
    report = convert(path, tmp_path / "out.safetensors", drop=["embedder.", "x.*.bias"])
    assert report.dropped["by name"] == ["embedder.a", "embedder.b", "x.1.bias"]
    assert set(tensors) - set(load(tmp_path / "out.safetensors")) == {"embedder.a", "embedder.b", "x.1.bias"}
    with pytest.raises(CheckpointError, match="embeder"):
        convert(path, tmp_path / "other.safetensors", drop=["embeder."])
    assert not (tmp_path / "other.safetensors").exists()


def test_names_to_leave_out_may_overlap_each_other_and_what_pruning_drops(make_checkpoint, tmp_path):
    more = {"embedder.a": torch.ones(2), "embedder.b": torch.ones(2), "x": torch.ones(2)}
    path, tensors = make_checkpoint("a", change=lambda t: t.update(more))
    ema = [key for key in tensors if key.startswith("model_ema.")]
    names = ["embedder.", "embedder.b", "model_ema."]
    report = convert(path, tmp_path / "out.safetensors", prune=True, drop=names)
    assert set(report.dropped["by name"]) == {"embedder.a", "embedder.b", *ema} and ema
    assert report.kept == ["x"] and list(report.dropped) == ["by name"]
    assert set(tensors) - set(load(tmp_path / "out.safetensors")) == {"embedder.a", "embedder.b", *ema}
    with raising("convert.nothing_left", CheckpointError, [str(path)]):
        convert(path, tmp_path / "none.safetensors", drop=["*"])


def test_a_conversion_counts_what_the_layout_has_and_the_file_lacks(make_checkpoint, tmp_path):
    def half(tensors):
        return {k: t for k, t in tensors.items() if not k.startswith("first_stage_model.encoder.")}

    report = convert(make_checkpoint("a", change=half)[0], tmp_path / "out.safetensors")
    assert (
        the(report.notes, "convert.lacking").subject[0] == "vae" and "106 " in the(report.notes, "convert.lacking").text
    )


@pytest.mark.parametrize("ids", [torch.arange(77).half() * 0.99, torch.zeros(77).int()])
def test_position_ids_are_mended_when_asked_and_only_then(ids, make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a", change=lambda t: t.update({POSITIONS: ids.reshape(1, 77)}))
    convert(path, tmp_path / "kept.safetensors", dtype="fp8_e4m3")
    assert raw(load(tmp_path / "kept.safetensors")[POSITIONS]) == raw(ids)
    convert(path, tmp_path / "fixed.safetensors", fix_position_ids=True)
    fixed = load(tmp_path / "fixed.safetensors")[POSITIONS]
    assert fixed.dtype == torch.int64 and torch.equal(fixed, torch.arange(77).reshape(1, 77))
    convert(path, tmp_path / "folder", fix_position_ids=True, to="diffusers")
    assert torch.equal(open_checkpoint(tmp_path / "folder").torch(POSITIONS), torch.arange(77).reshape(1, 77))


def test_metadata_is_kept_but_for_digests_that_no_longer_hold(make_checkpoint, tmp_path):
    metadata = {"format": "pt", "modelspec.title": "T", "sd_merge_recipe": "{}", "modelspec.hash_sha256": "0xab"}
    path, _ = make_checkpoint("a", metadata=metadata)
    del metadata["modelspec.hash_sha256"]
    convert(path, tmp_path / "out.safetensors", dtype="bf16")
    assert said(tmp_path / "out.safetensors") == metadata
    convert(path, tmp_path / "folder", to="diffusers")
    convert(tmp_path / "folder", tmp_path / "back.safetensors")
    assert said(tmp_path / "back.safetensors") == metadata


def test_a_lora_changes_its_dtype_and_cannot_be_pruned(tmp_path):
    tensors = {f"lora_unet_x_{i}.lora_{way}.weight": torch.randn(4, 4) for i in range(3) for way in ("down", "up")}
    save_file(tensors, tmp_path / "lora.safetensors")
    convert(tmp_path / "lora.safetensors", tmp_path / "out.safetensors", dtype="fp16")
    same(load(tmp_path / "out.safetensors"), {k: t.half() for k, t in tensors.items()})
    for name, options in (("x.safetensors", {"prune": True}), ("folder", {"to": "diffusers"})):
        with pytest.raises(CheckpointError, match="LoRA"):
            convert(tmp_path / "lora.safetensors", tmp_path / name, **options)


def test_bytes_do_not_depend_on_threads(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a", "sdxl")
    for threads in (1, 4):
        convert(path, tmp_path / f"{threads}.safetensors", dtype="bf16", threads=threads)
    assert (tmp_path / "1.safetensors").read_bytes() == (tmp_path / "4.safetensors").read_bytes()


# -- targets ------------------------------------------------------------------------------------------------------------


def test_targets_that_cannot_be_are_refused(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a")
    other, _ = make_checkpoint("b")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    (tmp_path / "link.safetensors").hardlink_to(path)
    refused = [
        (path, {"overwrite": True}, "output.is_input", str(path)),
        (tmp_path / "link.safetensors", {"overwrite": True}, "output.is_input", str(path)),
        (other, {}, "output.exists", "--overwrite"),
        (tmp_path / "x.ckpt", {}, "", ".safetensors"),
        (tmp_path / "no" / "x.safetensors", {}, "", str(tmp_path / "no")),
        (tmp_path / "x.safetensors", {"to": "diffusers"}, "", "diffusers"),
        (tmp_path / "mine", {"to": "diffusers"}, "output.exists", "--overwrite"),
        (tmp_path / "mine", {"to": "diffusers", "overwrite": True}, "", "letter.txt"),
        (tmp_path, {"to": "diffusers", "overwrite": True}, "output.is_input", str(path)),
        (tmp_path / "x.safetensors", {"to": "onnx"}, "", "'onnx'"),
    ]
    before = sorted(p.name for p in tmp_path.rglob("*"))
    for target, options, code, about in refused:
        with raising(code, OutputError, [about]):
            convert(path, target, **options)
    assert sorted(p.name for p in tmp_path.rglob("*")) == before


def test_a_folder_is_replaced_when_asked_and_a_cancelled_run_changes_nothing(make_checkpoint, tmp_path):
    first, _ = make_checkpoint("a", seed=1)
    second, tensors = make_checkpoint("b", seed=2)
    convert(first, tmp_path / "folder", to="diffusers")
    before = {p: p.read_bytes() for p in (tmp_path / "folder").rglob("*") if p.is_file()}
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(Cancelled):
        convert(second, tmp_path / "folder", to="diffusers", overwrite=True, cancel=cancel)
    assert {p: p.read_bytes() for p in (tmp_path / "folder").rglob("*") if p.is_file()} == before
    assert leftovers(tmp_path) == []
    convert(second, tmp_path / "folder", to="diffusers", overwrite=True)
    assert leftovers(tmp_path) == []
    assert torch.equal(open_checkpoint(tmp_path / "folder").torch(UNET_WEIGHT), tensors[UNET_WEIGHT])


def test_progress_goes_from_nothing_to_everything(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a")
    seen = []
    report = convert(path, tmp_path / "folder", to="diffusers", progress=lambda *now: seen.append(now))
    assert [done for done, _, _ in seen] == sorted(done for done, _, _ in seen)
    assert seen[-1][0] == seen[-1][1] <= report.size


# -- diffusers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_to_diffusers_and_back_gives_the_same_file(family, make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("a", family)
    report = convert(path, tmp_path / "folder", to="diffusers")
    without = [key for keys in report.dropped.values() for key in keys]
    convert(tmp_path / "folder", tmp_path / "plain.safetensors")
    same(load(tmp_path / "plain.safetensors"), {k: t for k, t in tensors.items() if k not in without})
    filled = convert(tmp_path / "folder", tmp_path / "filled.safetensors", donor=path).filled
    assert set(filled) == set(without)
    assert (tmp_path / "filled.safetensors").read_bytes() == path.read_bytes()
    unused = ("resblocks.23.", "model.text_projection") if family == "sd2" else ()
    trained = {k for k in without if place(k).component not in ("schedule", "ema") and "logit_scale" not in k}
    assert all(any(word in key for word in unused) for key in trained)
    assert scan(tmp_path / "folder").fingerprints == scan(path).fingerprints


@pytest.mark.parametrize("family", FAMILIES)
def test_diffusers_and_transformers_load_the_folder_with_the_checkpoints_values(family, make_checkpoint, tmp_path):
    diffusers, transformers = pytest.importorskip("diffusers"), pytest.importorskip("transformers")
    path, tensors = make_checkpoint("a", family, dtype="fp32")
    folder = tmp_path / "folder"
    report = convert(path, folder, to="diffusers")
    unet, loading = diffusers.UNet2DConditionModel.from_pretrained(folder, subfolder="unet", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(unet.conv_in.weight, tensors["model.diffusion_model.input_blocks.0.0.weight"])
    assert torch.equal(unet.conv_out.bias, tensors["model.diffusion_model.out.2.bias"])
    vae, loading = diffusers.AutoencoderKL.from_pretrained(folder, subfolder="vae", output_loading_info=True)
    assert not any(loading[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    query = tensors["first_stage_model.encoder.mid.attn_1.q.weight"]
    assert torch.equal(vae.encoder.mid_block.attentions[0].to_q.weight, query[:, :, 0, 0])
    count = sum(p.numel() for p in [*unet.parameters(), *vae.parameters()])
    assert count == sum(t.numel() for k, t in tensors.items() if place(k).component in ("unet", "vae"))
    for name, encoder in (("text_encoder", "CLIPTextModel"), ("text_encoder_2", "CLIPTextModelWithProjection")):
        if (folder / name).is_dir():
            model, loading = getattr(transformers, encoder).from_pretrained(folder / name, output_loading_info=True)
            assert not loading["missing_keys"] and not loading["mismatched_keys"]
            token = next(p for n, p in model.named_parameters() if "token_embedding" in n)
            assert any(t.shape == token.shape and torch.equal(t, token) for k, t in tensors.items() if "token_emb" in k)
    index = json.loads((folder / "model_index.json").read_text())
    assert {name for name in index if (folder / name).is_dir()} == {p.name for p in folder.iterdir() if p.is_dir()}
    assert "diffusers.tokenizers" in codes(report.notes)


def test_a_pipeline_of_the_folder_paints_what_the_single_file_paints(make_checkpoint, tmp_path):
    diffusers = pytest.importorskip("diffusers")
    path, _ = make_checkpoint("a", dtype="fp32")
    convert(path, tmp_path / "folder", to="diffusers")
    parts = [
        diffusers.UNet2DConditionModel.from_pretrained(tmp_path / "folder", subfolder="unet"),
        diffusers.UNet2DConditionModel.from_single_file(
            path, config=str(tmp_path / "folder"), subfolder="unet", local_files_only=True
        ),
    ]
    ours, theirs = (unet.state_dict() for unet in parts)
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    noise, text = torch.randn(1, 4, 8, 8), torch.randn(1, 5, 32)
    with torch.no_grad():
        left, right = (unet(noise, 7, text).sample for unet in parts)
    # The weights are the same to the bit; where they lie in memory decides about a last digit of the sums.
    assert torch.isfinite(left).all()
    torch.testing.assert_close(left, right, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "pipeline"), [(9, "StableDiffusionInpaintPipeline"), (8, "StableDiffusionInstructPix2PixPipeline")]
)
def test_variants_get_their_own_pipeline(channels, pipeline, make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a", in_channels=channels)
    convert(path, tmp_path / "folder", to="diffusers")
    assert json.loads((tmp_path / "folder/model_index.json").read_text())["_class_name"] == pipeline
    assert json.loads((tmp_path / "folder/unet/config.json").read_text())["in_channels"] == channels


def test_the_scheduler_says_how_the_model_predicts_and_a_single_file_keeps_it(make_checkpoint, tmp_path):
    markers = {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}
    path, _ = make_checkpoint("a", "sdxl", change=lambda t: t.update(markers))
    convert(path, tmp_path / "folder", to="diffusers")
    config = json.loads((tmp_path / "folder/scheduler/scheduler_config.json").read_text())
    assert config["prediction_type"] == "v_prediction" and config["rescale_betas_zero_snr"] is True
    assert open_checkpoint(tmp_path / "folder").prediction == "v"
    convert(tmp_path / "folder", tmp_path / "back.safetensors")
    assert open_checkpoint(tmp_path / "back.safetensors").prediction == "v"


def test_a_single_file_of_a_folder_says_that_it_predicts_flow(make_checkpoint, tmp_path):
    path, _ = make_checkpoint("a", "sdxl")
    convert(path, tmp_path / "folder", to="diffusers")
    scheduler = tmp_path / "folder/scheduler/scheduler_config.json"
    scheduler.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler"}))
    convert(tmp_path / "folder", tmp_path / "flow.safetensors")
    with open_checkpoint(tmp_path / "flow.safetensors") as found:
        assert found.prediction == "flow"


def test_an_unmarked_sd2_is_written_with_a_warning(make_checkpoint, tmp_path):
    report = convert(make_checkpoint("a", "sd2")[0], tmp_path / "folder", to="diffusers")
    assert "diffusers.prediction_guessed" in codes(report.notes)


def test_a_unet_alone_becomes_a_folder_with_a_unet_alone(make_checkpoint, tmp_path):
    _, tensors = make_checkpoint("a", "sdxl")
    unet = {k: t for k, t in tensors.items() if place(k).component == "unet"}
    save_file(unet, tmp_path / "unet.safetensors")
    report = convert(tmp_path / "unet.safetensors", tmp_path / "folder", to="diffusers")
    assert not (tmp_path / "folder/model_index.json").exists() and not (tmp_path / "folder/vae").exists()
    assert "diffusers.absent" in codes(report.notes)
    assert set(open_checkpoint(tmp_path / "folder").tensors) == set(unet)


def test_what_diffusers_could_not_load_is_refused(make_checkpoint, tmp_path):
    def drop(tensors):
        del tensors[UNET_WEIGHT]

    def widen(tensors):
        tensors["model.diffusion_model.out.2.weight"] = torch.zeros(4, 17, 3, 3)

    whole, tensors = make_checkpoint("whole")
    lacking, _ = make_checkpoint("lacking", change=drop)
    with raising("diffusers.lacking", CheckpointError, [str(lacking), "unet", "1"]):
        convert(lacking, tmp_path / "folder", to="diffusers")
    convert(lacking, tmp_path / "folder", to="diffusers", donor=whole)
    assert torch.equal(open_checkpoint(tmp_path / "folder").torch(UNET_WEIGHT), tensors[UNET_WEIGHT])
    with pytest.raises(CheckpointError, match="sd1"):
        convert(make_checkpoint("wide", change=widen)[0], tmp_path / "other", to="diffusers")
    with pytest.raises(CheckpointError, match="EDM"):
        edm, _ = make_checkpoint("edm", "sdxl", change=lambda t: t.update(edm_mean=torch.zeros(4)))
        convert(edm, tmp_path / "other", to="diffusers")


def test_a_donor_of_another_architecture_or_shape_is_refused(make_checkpoint, tmp_path):
    path, tensors = make_checkpoint("a")
    nine, wider = make_checkpoint("nine", in_channels=9)
    first = "model.diffusion_model.input_blocks.0.0.weight"
    shapes = [str(list(each[first].shape)) for each in (tensors, wider)]
    for donor, about in (
        (make_checkpoint("x", "sdxl")[0], ["SDXL", "SD1"]),
        (nine, [str(path), first, *shapes]),
    ):
        with raising("", CheckpointError, [str(donor), *about]):
            convert(path, tmp_path / "out.safetensors", donor=donor)
