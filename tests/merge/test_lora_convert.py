"""LoRAs renamed: the names of every style, written out by hand, and the changes that they make."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_loras import SD1, changes, shape_of, write_lora
from told import raising

from unetscope.checkpoints.errors import OutputError
from unetscope.checkpoints.lora import open_lora
from unetscope.merge import MergeError
from unetscope.merge.lora import convert_lora, merge_loras
from unetscope.merge.lora.uses import LoraUse

NAMES = {
    "kohya": {
        "lora_unet_mid_block_attentions_0_proj_in.lora_down.weight",
        "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight",
        "lora_unet_mid_block_attentions_0_proj_in.alpha",
        "lora_te_text_model_encoder_layers_3_mlp_fc1.lora_down.weight",
    },
    "single-file": {
        "lora_unet_middle_block_1_proj_in.lora_down.weight",
        "lora_unet_middle_block_1_proj_in.alpha",
        "lora_unet_output_blocks_11_1_transformer_blocks_0_ff_net_0_proj.lora_up.weight",
        "lora_te_text_model_encoder_layers_3_mlp_fc1.lora_down.weight",
    },
    "diffusers": {
        "unet.mid_block.attentions.0.proj_in.lora.down.weight",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.lora.up.weight",
        "text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_linear_layer.down.weight",
    },
    "peft": {
        "unet.mid_block.attentions.0.proj_in.lora_A.weight",
        "unet.up_blocks.3.attentions.2.transformer_blocks.0.ff.net.0.proj.lora_B.weight",
        "text_encoder.text_model.encoder.layers.3.mlp.fc1.lora_A.weight",
    },
}


def deltas(path) -> dict[str, np.ndarray]:
    with open_lora(path) as lora:
        return {key: module.delta() for key, module in lora.modules.items()}


@pytest.mark.one_by_one
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("style", list(NAMES))
def test_there_and_back_again_the_bytes_are_the_same(tmp_path, family, style):
    source = write_lora(tmp_path / "a.safetensors", family, rank=4, alpha=4.0)
    there, back = tmp_path / "there.safetensors", tmp_path / "back.safetensors"
    report = convert_lora(source, there, to=style)
    with open_lora(there) as lora:
        assert lora.style == style and lora.family == family and not lora.unknown
    assert (report.style, report.ranks) == (style, (4, 4))
    if family == "sd1":
        assert set(load_file(there)) >= NAMES[style]
    convert_lora(there, back, to="kohya" if family == "sd1" else "single-file")
    one, other = load_file(source), load_file(back)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name].float(), other[name].float()) for name in one)


@pytest.mark.parametrize("style", list(NAMES))
def test_the_change_is_the_same_in_every_style_whatever_alpha_is(tmp_path, style):
    source = write_lora(tmp_path / "a.safetensors", rank=4, alpha=0.5)
    convert_lora(source, tmp_path / "out.safetensors", to=style)
    wanted, found = changes(load_file(source)), deltas(tmp_path / "out.safetensors")
    assert wanted.keys() == found.keys()
    for key, change in wanted.items():
        assert np.linalg.norm(found[key] - change) <= 1e-3 * np.linalg.norm(change)
    alphas = [n for n in load_file(tmp_path / "out.safetensors") if n.endswith(".alpha")]
    assert len(alphas) == (len(SD1) if style in ("kohya", "single-file") else 0)


def test_values_dtypes_and_metadata_stay_but_for_digests(tmp_path):
    said = {"ss_base_model_version": "sd_v1", "sshs_model_hash": "12", "note": "mine"}
    source = write_lora(tmp_path / "a.safetensors", dtype=torch.bfloat16, metadata=said)
    convert_lora(source, tmp_path / "out.safetensors", to="single-file")
    assert {t.dtype for t in load_file(tmp_path / "out.safetensors").values()} == {torch.bfloat16}
    with safe_open(tmp_path / "out.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt", "ss_base_model_version": "sd_v1", "note": "mine"}


def test_other_kinds_keep_their_factors_where_the_style_has_names_for_them(tmp_path):
    name, key = next(iter(SD1.items()))
    out, into = shape_of("sd1", key)
    parts = {"w1_a": (out, 2), "w1_b": (2, into), "w2_a": (out, 2), "w2_b": (2, into)}
    tensors = {f"{name}.hada_{k}": torch.randn(s) for k, s in parts.items()} | {f"{name}.alpha": torch.tensor(1.0)}
    source = tmp_path / "hada.safetensors"
    save_file(tensors, source)
    convert_lora(source, tmp_path / "out.safetensors", to="single-file")
    renamed = load_file(tmp_path / "out.safetensors")
    new = "lora_unet_input_blocks_1_1_transformer_blocks_0_attn1_to_q"
    assert {n.replace(name, new): raw.tolist() for n, raw in tensors.items()} == {
        n: t.tolist() for n, t in renamed.items()
    }
    with pytest.raises(MergeError, match="is changed by loha, which only kohya and single-file style have the same"):
        convert_lora(source, tmp_path / "peft.safetensors", to="peft")


def test_a_third_factor_is_kept_or_refused(tmp_path):
    name, rng = "lora_unet_down_blocks_0_resnets_0_conv1", np.random.default_rng(0)
    out, into, *kernel = shape_of("sd1", "model.diffusion_model.input_blocks.1.0.in_layers.2.weight")
    sides = {"up": (out, 2, 1, 1), "mid": (2, 2, *kernel), "down": (2, into, 1, 1)}
    parts = {k: rng.standard_normal(s).astype(np.float32) for k, s in sides.items()}
    source = tmp_path / "cp.safetensors"
    save_file({f"{name}.lora_{k}.weight": torch.from_numpy(v) for k, v in parts.items()}, source)
    convert_lora(source, tmp_path / "out.safetensors", to="single-file")
    assert "lora_unet_input_blocks_1_0_in_layers_2.lora_mid.weight" in load_file(tmp_path / "out.safetensors")
    with pytest.raises(MergeError, match=r"has a third factor \(lora_mid\)"):
        convert_lora(source, tmp_path / "peft.safetensors", to="peft")
    merge_loras([LoraUse(source)], tmp_path / "folded.safetensors", dtype="fp32")
    folded = load_file(tmp_path / "folded.safetensors")
    up, down = (folded[f"{name}.lora_{k}.weight"].double().numpy() for k in ("up", "down"))
    wanted = np.einsum("oa,abhw,bi->oihw", parts["up"][..., 0, 0], parts["mid"], parts["down"][..., 0, 0])
    assert np.allclose(np.einsum("or,rihw->oihw", up[..., 0, 0], down), wanted, atol=1e-5)


def test_mistakes_are_one_sentence(tmp_path):
    source = write_lora(tmp_path / "a.safetensors")
    with pytest.raises(MergeError, match=r"LoRA.*'difusers'.*'diffusers'"):
        convert_lora(source, tmp_path / "out.safetensors", to="difusers")
    with raising("output.is_input", OutputError):
        convert_lora(source, source, to="peft", overwrite=True)
