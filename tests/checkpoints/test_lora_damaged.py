"""LoRAs that are damaged, incomplete or none at all are refused in one sentence that names file and module."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from unetscope.checkpoints import CheckpointError, open_checkpoint
from unetscope.checkpoints.demo import write_demo_lora
from unetscope.checkpoints.lora import lora_checkpoint, open_lora

N = "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn2_to_k"
CONV = "lora_unet_down_blocks_0_resnets_0_conv1"
Z = torch.zeros
DAMAGED = {
    "a rank that differs": ({f"{N}.lora_up.weight": Z(16, 4), f"{N}.lora_down.weight": Z(3, 32)}, "expected 4 rows"),
    "an up factor alone": ({f"{N}.lora_up.weight": Z(16, 4)}, "expected the tensor 'down' next to up, found none"),
    "a rank of 0": ({f"{N}.lora_up.weight": Z(16, 0), f"{N}.lora_down.weight": Z(0, 32)}, "rank of at least 1"),
    "a kernel of another size": (
        {f"{CONV}.lora_up.weight": Z(16, 4, 1, 1), f"{CONV}.lora_down.weight": Z(4, 16, 5, 5)},
        r"inputs times the kernel \[3, 3\]",
    ),
    "a factor of one axis": ({f"{N}.lora_up.weight": Z(16), f"{N}.lora_down.weight": Z(16)}, "at least two axes"),
    "an alpha of many numbers": (
        {f"{N}.lora_up.weight": Z(16, 4), f"{N}.lora_down.weight": Z(4, 32), f"{N}.alpha": Z(4)},
        "expected one number as alpha",
    ),
    "an alpha alone": ({f"{N}.alpha": Z(())}, "no tensors to go with"),
    "halves of a LoHa that differ": (
        {
            f"{N}.hada_w1_a": Z(16, 2),
            f"{N}.hada_w1_b": Z(2, 32),
            f"{N}.hada_w2_a": Z(16, 2),
            f"{N}.hada_w2_b": Z(2, 31),
        },
        "halves of equal shape",
    ),
    "half a LoKr": ({f"{N}.lokr_w1": Z(4, 4)}, "'lokr_w2_a'"),
    "a magnitude of another width": (
        {f"{N}.lora_up.weight": Z(16, 4), f"{N}.lora_down.weight": Z(4, 32), f"{N}.dora_scale": Z(7, 1)},
        "magnitude for each of 16 outputs or 32 inputs",
    ),
    "an (IA)^3 of another width": ({f"{N}.weight": Z(7), f"{N}.on_input": Z(())}, "a factor for each of the outputs"),
    "a bias where there is none": (
        {f"{N}.lora_up.weight": Z(16, 4), f"{N}.lora_down.weight": Z(4, 32), f"{N}.diff_b": Z(16)},
        "changes a bias, but .* has none",
    ),
    "a weight larger than any": (
        {f"{N}.lora_up.weight": Z(1 << 15, 1), f"{N}.lora_down.weight": Z(1, 1 << 15)},
        "larger than any of these models",
    ),
    "a module under two names": (
        {
            f"{name}.lora_{side}.weight": Z(4, 4)
            for name in (N, "lora_unet_input_blocks_1_1_transformer_blocks_0_attn2_to_k")
            for side in ("up", "down")
        },
        "are the same tensor of it twice",
    ),
    "OFT": ({f"{N}.oft_blocks": Z(2, 4, 4)}, "belongs to OFT, which is not supported"),
    "GLoRA": ({f"{N}.a1.weight": Z(2, 4)}, "belongs to GLoRA, which is not supported"),
    "another architecture": (
        {"lora_unet_double_blocks_0_img_attn_qkv.lora_up.weight": Z(4, 4)},
        "expected a LoRA for sd1, sd2, sdxl, found one for another architecture, a Flux checkpoint",
    ),
    "a module of no known model without its factors": (
        {"lora_unet_rooms_0_door.alpha": Z(())},
        r"expected a LoRA for sd1, sd2, sdxl, found layers that none of these has: 1 layer, lora_unet_rooms_0_door$",
    ),
}
# A model with a text encoder like ours, and one that nobody here has heard of.
FOREIGN = {
    "found one for another architecture, a Flux checkpoint": (
        "double_blocks_0_img_attn_qkv",
        "te1_text_model_encoder_layers_0_mlp_fc1",
    ),
    "found layers that none of these has": ("rooms_0_door", "te1_text_model_encoder_layers_0_mlp_fc1"),
}


@pytest.mark.parametrize("said", FOREIGN)
def test_another_architecture_is_said_where_names_show_it(tmp_path, said):
    unet, text = FOREIGN[said]
    names = {f"lora_unet_{unet}": (4, 4), f"lora_{text}": (3072, 768)}
    tensors = {f"{n}.lora_up.weight": Z(o, 4) for n, (o, _) in names.items()}
    tensors |= {f"{n}.lora_down.weight": Z(4, i) for n, (_, i) in names.items()}
    path = tmp_path / "a.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=f"expected a LoRA for sd1, {said}.*: 1 layer, lora_unet_{unet}$"):
        open_lora(path, family="sd1")
    with open_lora(path) as lora:  # by its own names
        assert set(lora.layers) == set(names) and lora.unknown == []
        assert lora.architecture.family is None and ("Flux" in lora.architecture.name) == ("double" in unet)
    with open_checkpoint(path, to_look=True) as seen:
        assert seen.architecture.what == "lora" and seen.architecture.family is None


@pytest.mark.parametrize("case", DAMAGED)
def test_what_is_wrong_is_said_in_a_sentence(tmp_path, case):
    tensors, message = DAMAGED[case]
    path = tmp_path / "damaged.safetensors"
    save_file(tensors, path)
    with pytest.raises(CheckpointError, match=message) as caught:
        open_lora(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path):
    path = write_demo_lora(tmp_path / "a.safetensors", "sd1")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        open_lora(path)


def test_names_that_fit_no_key_are_reported(tmp_path):
    tensors = {f"{N}.lora_up.weight": Z(16, 4), f"{N}.lora_down.weight": Z(4, 32)}
    strangers = ("lora_unet_nowhere.lora_up.weight", "lora_unet_nowhere.lora_down.weight", "what")
    save_file(tensors | {name: Z(2, 2) for name in strangers}, tmp_path / "a.safetensors")
    with open_lora(tmp_path / "a.safetensors") as lora:
        assert len(lora.modules) == 1 and sorted(lora.unknown) == sorted(strangers)


@pytest.mark.parametrize("text", ["[1]", "{", '{"unet.r": 0}', '{"unet.r": "x", "unet.lora_alpha": 1}'])
def test_an_adapter_config_that_cannot_be_read_is_refused(tmp_path, text):
    name = "unet.down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
    tensors = {f"{name}.lora_B.weight": Z(16, 4), f"{name}.lora_A.weight": Z(4, 32)}
    save_file(tensors, tmp_path / "a.safetensors", {"lora_adapter_metadata": text})
    with pytest.raises(CheckpointError, match="adapter config"):
        open_lora(tmp_path / "a.safetensors")


def test_a_checkpoint_is_no_lora_and_is_called_what_it_is(make_checkpoint):
    for family, name in (("sd1", "SD1 checkpoint"), ("sdxl", "SDXL checkpoint")):
        path, _ = make_checkpoint(family, family)
        with pytest.raises(CheckpointError, match=f"LoRA.*{name}"):
            open_lora(path)


@pytest.mark.one_by_one
@pytest.mark.parametrize("kind", ["lora", "loha", "lokr", "full"])
@pytest.mark.parametrize(("theirs", "ours"), [("sdxl", "sd1"), ("sd2", "sd1"), ("sd1", "sd2"), ("sd2", "sdxl")])
def test_a_lora_for_another_family_than_the_bases_is_refused_as_that(tmp_path, make_checkpoint, theirs, ours, kind):
    path = write_demo_lora(tmp_path / "a.safetensors", theirs, kind=kind)
    base, _ = make_checkpoint("base", ours)
    names = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}
    said = f"is a .*LoRA for {names[theirs]}, but .* is {names[ours]} checkpoint; use a LoRA for {names[ours]}"
    with open_checkpoint(base) as opened, pytest.raises(CheckpointError, match=said):
        lora_checkpoint(path, opened)
