"""Inspections against files whose contents the test decides."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from places import place
from safetensors.torch import load_file, save_file

from unetscope.checkpoints import CheckpointError
from unetscope.library.inspection import inspect


def test_components_dtypes_and_labels_add_up_to_the_file(make_checkpoint):
    path, tensors = make_checkpoint("a", "sdxl")
    found = inspect(path)
    expected = {}
    for key, tensor in tensors.items():
        count, parameters = expected.get(place(key).label, (0, 0))
        expected[place(key).label] = (count + 1, parameters + tensor.numel())
    assert {label: (a.tensors, a.parameters) for label, a in found.labels.items()} == expected
    assert sum(a.bytes for a in found.components.values()) == sum(t.nbytes for t in tensors.values())
    assert sum(a.bytes for a in found.dtypes.values()) == found.total.bytes
    assert found.components["unet"].dtypes == {"F16": found.components["unet"].tensors}
    assert found.dtypes["I64"].parameters == 77
    assert found.size == path.stat().st_size and found.format == "safetensors"
    assert list(found.labels)[:4] == ["CLIP_L", "CLIP_G", "TIME_EMBED", "LABEL_EMB"]


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl", "sdxl_refiner"])
def test_a_whole_checkpoint_lacks_nothing_and_holds_no_junk(family, make_checkpoint):
    found = inspect(make_checkpoint("a", family)[0])
    assert found.architecture.family == family
    assert (found.missing, found.absent, found.junk, found.truncation, found.history) == ({}, (), (), None, None)


def test_missing_and_junk_keys_and_the_ema_copy_are_named(make_checkpoint):
    gone = "model.diffusion_model.input_blocks.4.1.proj_in.weight"

    def change(tensors):
        del tensors[gone]
        del tensors["cond_stage_model.transformer.text_model.embeddings.position_ids"]
        tensors["optimizer.step"] = torch.zeros(3)
        tensors["model_ema.diffusion_modelout2weight"] = torch.zeros(10)

    found = inspect(make_checkpoint("a", change=change)[0])
    # position_ids is a buffer: a file is whole without it.
    assert found.missing == {"unet": (gone,)}
    assert found.junk == ("optimizer.step",)
    assert found.ema.tensors == 3 and found.ema.parameters == 12


def test_a_checkpoint_without_its_vae_says_so(make_checkpoint):
    def change(tensors):
        return {k: t for k, t in tensors.items() if not k.startswith("first_stage_model.")}

    assert inspect(make_checkpoint("a", "sdxl", change=change)[0]).absent == ("vae",)


def test_variant_and_prediction_say_what_told_them(make_checkpoint):
    path, _ = make_checkpoint("a", in_channels=9, change=lambda t: t.update(v_pred=torch.zeros(())))
    found = inspect(path)
    assert found.architecture.variant == "inpainting"
    assert (found.prediction, found.prediction_from) == ("v", "key v_pred")


def test_a_truncated_file_is_looked_at_and_said_to_be_truncated(make_checkpoint):
    path, tensors = make_checkpoint("a")
    data = path.read_bytes()
    cut = path.with_name("cut.safetensors")
    cut.write_bytes(data[: len(data) // 2])
    found = inspect(cut)
    assert found.architecture.family == "sd1"
    assert found.truncation.promised_bytes == len(data) and found.truncation.present_bytes == len(data) // 2
    assert found.truncation.whole_tensors + found.truncation.damaged_tensors == len(tensors)
    assert found.truncation.damaged_tensors > 0 and "50.0%" in str(found.truncation)


def test_a_file_cut_inside_its_header_is_refused(make_checkpoint):
    path, _ = make_checkpoint("a")
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="truncated"):
        inspect(path)


def test_a_lora_shows_its_parts_ranks_and_training(tmp_path):
    tensors = {}
    text = "lora_te_text_model_encoder_layers_0_mlp_fc1"
    for module in ("lora_unet_input_blocks_1_1_proj_in", "lora_unet_input_blocks_2_1_proj_in", text):
        rank = 4 if "te_" in module else 16
        tensors[f"{module}.lora_down.weight"] = torch.zeros(rank, 8)
        tensors[f"{module}.lora_up.weight"] = torch.zeros(8, rank)
        tensors[f"{module}.alpha"] = torch.tensor(4.0)
    tensors["lora_te_text_model_x.alpha"] = torch.tensor(1.0)
    path = tmp_path / "lora.safetensors"
    tags = {"10_a": {"ink": 2, "paper": 7}, "5_b": {"ink": 9}}
    said = {"ss_network_dim": "16", "ss_base_model_version": "sd_v1", "ss_tag_frequency": json.dumps(tags)}
    save_file(tensors, path, said)
    found = inspect(path)
    assert found.architecture.what == "lora"
    adapter = found.adapter
    assert (adapter.style, adapter.family, adapter.problem) == ("single-file", "sd1", "")
    assert adapter.modules == {"unet": 2, "text encoder": 1}
    assert (adapter.ranks, adapter.alphas, adapter.kinds) == ({4: 1, 16: 2}, {4.0: 3}, {"lora": 3})
    assert adapter.labels == {"CLIP_L": 1, "IN01": 1, "IN02": 1}
    assert adapter.said == {"base": "sd_v1", "rank": "16"}
    assert list(adapter.tags.items()) == [("ink", 11), ("paper", 7)]
    assert adapter.unknown == ("lora_te_text_model_x.alpha",) and not adapter.needs_base
    assert found.junk == () and found.missing == {}


def test_a_lora_of_a_kind_that_is_not_supported_is_still_looked_at(tmp_path):
    name = "lora_unet_down_blocks_0_attentions_0_proj_in"
    save_file({f"{name}.oft_blocks": torch.zeros(2, 4, 4)}, tmp_path / "oft.safetensors")
    found = inspect(tmp_path / "oft.safetensors")
    assert found.architecture.what == "lora" and "OFT, which is not supported" in found.adapter.problem
    assert json.loads(json.dumps(found.to_plain()))["adapter"]["modules"] == {}


def test_json_holds_everything_whole(make_checkpoint):
    recipe = {"type": "webui", "primary_model_hash": "ab" * 32, "interp_method": "No interpolation"}
    metadata = {"format": "pt", "long": "x" * 100_000, "sd_merge_recipe": json.dumps(recipe)}
    path, tensors = make_checkpoint("a", metadata=metadata)
    plain = json.loads(json.dumps(inspect(path).to_plain()))
    assert plain["metadata"] == metadata
    assert plain["history"]["children"][0]["hash"] == "ab" * 32
    assert sum(row["tensors"] for row in plain["labels"]) == len(tensors)
    assert plain["architecture"]["family"] == "sd1" and plain["total"]["parameters"] > 0


def test_a_lone_component_is_compared_with_its_layout(make_checkpoint, tmp_path):
    _, tensors = make_checkpoint("a")
    vae = {k: t for k, t in tensors.items() if k.startswith("first_stage_model.")}
    vae.pop("first_stage_model.decoder.conv_in.bias")
    save_file(vae, tmp_path / "vae.safetensors")
    found = inspect(tmp_path / "vae.safetensors")
    assert found.architecture.what == "component" and found.absent == ()
    assert found.missing == {"vae": ("first_stage_model.decoder.conv_in.bias",)}


def test_looking_needs_neither_torch_nor_numba(make_checkpoint):
    path, _ = make_checkpoint("a")
    code = (
        "import sys; from unetscope.library.inspection import inspect; inspect(sys.argv[1]).to_plain(); "
        "print([m for m in ('torch', 'numba', 'pandas', 'rich', 'diffusers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_weights_are_not_read(make_checkpoint, monkeypatch):
    path, _ = make_checkpoint("a")
    reference = load_file(path)
    monkeypatch.setattr("unetscope.checkpoints.files.FileReader.read_into", None)
    assert inspect(path).total.parameters == sum(int(np.prod(t.shape)) for t in reference.values())
