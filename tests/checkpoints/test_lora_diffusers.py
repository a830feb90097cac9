"""Whole LoRAs against diffusers' pipelines and PEFT: what one side writes, the other applies as the same change."""

from __future__ import annotations

import itertools
import re
from copy import deepcopy
from functools import cache

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from samples import others_long
from tiny import tensors_of

from unetscope.checkpoints.demo import write_demo_lora
from unetscope.checkpoints.families.diffusers import text_configs, unet_config
from unetscope.checkpoints.lora import open_lora
from unetscope.merge.lora import convert_lora, extract_lora

diffusers = pytest.importorskip("diffusers")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")
from diffusers.loaders import single_file_utils  # noqa: E402

COMPONENTS = ("unet", "text_encoder", "text_encoder_2")
CLIP = {
    ("sd1", "text_encoder"): "cond_stage_model.transformer.",
    ("sd2", "text_encoder"): "cond_stage_model.model.",
    ("sdxl", "text_encoder"): "conditioner.embedders.0.transformer.",
    ("sdxl", "text_encoder_2"): "conditioner.embedders.1.model.",
}


def in_diffusers(family: str, tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """A single file's tensors by component, as diffusers' own converters name and cut them."""
    out = {"unet": single_file_utils.convert_ldm_unet_checkpoint(dict(tensors), unet_config(family, "narrow"))}
    for name, config in text_configs(family, "narrow").items():
        prefix = CLIP[family, name]
        if prefix.endswith("transformer."):
            own = {key: tensor for key, tensor in tensors.items() if key.startswith(prefix)}
            converted = single_file_utils.convert_ldm_clip_checkpoint(own, prefix)
        else:
            with torch.device("meta"):
                model = transformers.CLIPTextModelWithProjection(transformers.CLIPTextConfig(**config))
            converted = single_file_utils.convert_open_clip_checkpoint(model, dict(tensors), prefix=prefix)
        out[name] = {key.removeprefix("text_model."): tensor for key, tensor in converted.items()}
    return out


@cache
def first(family: str) -> dict[str, torch.Tensor]:
    """The weights that every LoRA is added to; not to be changed."""
    return tensors_of(family, 1, "fp32")


@cache
def first_in_diffusers(family: str) -> dict[str, dict[str, torch.Tensor]]:
    return in_diffusers(family, first(family))


@cache
def first_models(family: str) -> dict[str, torch.nn.Module]:
    """Narrow models with these weights; copies of them go into pipelines."""
    parts = {"unet": diffusers.UNet2DConditionModel(**unet_config(family, "narrow"))}
    for name, config in text_configs(family, "narrow").items():
        projected = name == "text_encoder_2"
        kind = transformers.CLIPTextModelWithProjection if projected else transformers.CLIPTextModel
        parts[name] = kind(transformers.CLIPTextConfig(**config))
    for name, own in first_in_diffusers(family).items():
        state = parts[name].state_dict()
        parts[name].load_state_dict({key: own.get(key.removeprefix("text_model."), t) for key, t in state.items()})
    return parts


def pipeline(family: str):
    """A narrow pipeline with the first weights, without VAE and tokenizers."""
    parts = {name: deepcopy(model) for name, model in first_models(family).items()}
    scheduler = diffusers.DDIMScheduler(clip_sample=False, steps_offset=1)
    parts |= {"vae": None, "tokenizer": None, "scheduler": scheduler}
    if family == "sdxl":
        return diffusers.StableDiffusionXLPipeline(tokenizer_2=None, **parts)
    return diffusers.StableDiffusionPipeline(
        safety_checker=None, feature_extractor=None, requires_safety_checker=False, **parts
    )


def modules(pipe) -> dict[str, torch.nn.Module]:
    return {name: part for name in COMPONENTS if (part := getattr(pipe, name, None)) is not None}


def assert_moved(family: str, pipe, changes: dict[str, np.ndarray], tolerance: float = 1e-5) -> int:
    """The pipeline's weights are the first ones plus the changes, whose keys are canonical; how many of them moved."""
    tensors = first(family)
    assert changes.keys() <= tensors.keys()
    wanted = in_diffusers(
        family, {k: t + torch.from_numpy(changes[k]) if k in changes else t for k, t in tensors.items()}
    )
    before, moved = first_in_diffusers(family), 0
    for component, module in modules(pipe).items():
        for name, found in module.state_dict().items():
            key = name.removeprefix("text_model.").replace(".base_layer", "")
            if key in wanted[component] and found.is_floating_point():
                expected = wanted[component][key]
                torch.testing.assert_close(found, expected, rtol=0, atol=tolerance, msg=f"{component}.{key}")
                moved += not torch.equal(before[component][key], expected)
    return moved


# How many weights a LoRA of the attention changes: UNET, then text encoders.
COUNTS = {"sd1": 192 + 72, "sd2": 192 + 23 * 6, "sdxl": 722 + 72 + 192}
# diffusers knows single-file names of SDXL only.
READ = [(f, s) for f in COUNTS for s in ("kohya", "diffusers", "peft")] + [("sdxl", "single-file")]
# Each family once, and each style once.
SHORT = {("sd1", "kohya"), ("sd1", "diffusers"), ("sd1", "peft"), ("sd2", "peft"), ("sdxl", "single-file")}


def fused(path, family: str):
    """A pipeline into which diffusers has loaded and fused a LoRA."""
    pipe = pipeline(family)
    pipe.load_lora_weights(str(path))
    pipe.fuse_lora(components=list(modules(pipe)))
    pipe.unload_lora_weights()
    return pipe


def changes_of(path, tensors) -> dict[str, np.ndarray]:
    with open_lora(path) as lora:
        assert lora.unknown == []
        return {key: module.delta(tensors[key].numpy()) for key, module in lora.modules.items()}


@pytest.mark.parametrize(("family", "style"), others_long(READ, lambda *case: case in SHORT))
def test_a_lora_that_diffusers_loads_changes_the_weights_that_it_changes_here(tmp_path, family, style):
    alpha = 2.5 if style in ("kohya", "single-file") else None
    path = write_demo_lora(tmp_path / "a.safetensors", family, style=style, dtype="fp32", alpha=alpha)
    assert assert_moved(family, fused(path, family), changes_of(path, first(family))) == COUNTS[family]


@pytest.mark.parametrize(
    ("family", "style"), others_long((case for case in READ if case[0] != "sd2"), lambda *case: case in SHORT)
)
def test_diffusers_reads_what_is_converted_for_it(tmp_path, family, style):
    source = write_demo_lora(tmp_path / "a.safetensors", family, dtype="fp32", alpha=2.5)
    convert_lora(source, tmp_path / "b.safetensors", to=style)
    pipe = fused(tmp_path / "b.safetensors", family)
    assert assert_moved(family, pipe, changes_of(source, first(family))) == COUNTS[family]


# Of files whose alphas differ by layer diffusers 0.42 takes one alpha for all; these styles have none.
@pytest.mark.parametrize(
    ("family", "style"),
    others_long(itertools.product(COUNTS, ("diffusers", "peft")), lambda *case: case in SHORT),
)
def test_diffusers_adds_what_was_extracted(tmp_path, family, style):
    before, after = first(family), tensors_of(family, 2, "fp32")
    for name, tensors in (("base", before), ("tuned", after)):
        save_file(tensors, tmp_path / f"{name}.safetensors")
    out = tmp_path / "lora.safetensors"
    extract_lora(
        tmp_path / "tuned.safetensors", tmp_path / "base.safetensors", out, rank=5000, dtype="fp32", style=style
    )
    with open_lora(out) as lora:
        moved = {key: (after[key] - before[key]).numpy() for key in lora.modules}
    assert assert_moved(family, fused(out, family), moved) == COUNTS[family]


@pytest.mark.one_by_one
@pytest.mark.one_by_one
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
@pytest.mark.parametrize("options", ["plain", "use_rslora", "use_dora", "patterns"])
def test_what_diffusers_saves_of_a_training_is_read_with_its_scales(tmp_path, family, options):
    more = {"plain": {}, "patterns": {"rank_pattern": {"to_k": 2}, "alpha_pattern": {"to_k": 7, "k_proj": 5}}}
    pipe = pipeline(family)
    saved = {}
    for component, model in modules(pipe).items():
        targets = (
            ["to_q", "to_k", "to_out.0", "proj_in", "conv1"] if component == "unet" else ["q_proj", "k_proj", "fc1"]
        )
        torch.manual_seed(1)
        config = peft.LoraConfig(
            r=3, lora_alpha=4, target_modules=targets, init_lora_weights=False, **more.get(options, {options: True})
        )
        model.add_adapter(config)
        saved[f"{component}_lora_layers"] = peft.get_peft_model_state_dict(model)
        saved[f"{component}_lora_adapter_metadata"] = model.peft_config["default"].to_dict()
    type(pipe).save_lora_weights(tmp_path, **saved)
    for model in modules(pipe).values():
        for layer in model.modules():
            if isinstance(layer, peft.tuners.lora.LoraLayer):
                layer.merge()
    path = tmp_path / "pytorch_lora_weights.safetensors"
    with open_lora(path) as lora:
        assert lora.style == "peft" and lora.family == family
    assert assert_moved(family, pipe, changes_of(path, first(family)), 2e-5) > 100


def as_before_0_22(name: str) -> str:
    """A name of a LoRA of the attention as diffusers wrote it when attention had processors."""
    name = re.sub(r"(attn[12])\.(to_[qkv]|to_out)(\.0)?\.lora\.", r"\1.processor.\2_lora.", name)
    text = {"q_proj": "to_q", "k_proj": "to_k", "v_proj": "to_v", "out_proj": "to_out"}
    return re.sub(r"self_attn\.(\w+)\.lora_linear_layer\.", lambda found: f"self_attn.{text[found[1]]}_lora.", name)


def test_the_processors_of_old_files_are_read_as_diffusers_reads_them(tmp_path):
    path = write_demo_lora(tmp_path / "a.safetensors", "sd1", style="diffusers", dtype="fp32")
    attention = (".attn1.", ".attn2.", ".self_attn.")
    plain = {name: tensor for name, tensor in load_file(path).items() if any(part in name for part in attention)}
    named = {as_before_0_22(name): tensor for name, tensor in plain.items()}
    assert not named.keys() & plain.keys()
    save_file(plain, tmp_path / "plain.safetensors")
    save_file(named, tmp_path / "old.safetensors")
    tensors = first("sd1")
    changes = changes_of(tmp_path / "old.safetensors", tensors)
    for key, change in changes_of(tmp_path / "plain.safetensors", tensors).items():
        np.testing.assert_array_equal(changes[key], change)
    pipe = fused(tmp_path / "old.safetensors", "sd1")
    assert assert_moved("sd1", pipe, changes) == len(changes) == len(plain) // 2


@pytest.mark.parametrize("options", [{"algo": "lora"}, {"algo": "loha"}, {"algo": "lokr"}], ids=str)
def test_lycoris_wraps_any_model_under_its_own_prefix(tmp_path, options):
    lycoris = pytest.importorskip("lycoris")
    torch.manual_seed(4)
    pipe = pipeline("sd1")
    sizes = {"linear_dim": 2, "linear_alpha": 2.0, "conv_dim": 2, "conv_alpha": 2.0, "factor": 2}
    network = lycoris.create_lycoris(pipe.unet, 1.0, **sizes, **options)
    network.apply_to()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(torch.randn(parameter.shape) * 0.1)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, tmp_path / "a.safetensors")
    names = list(load_file(tmp_path / "a.safetensors"))
    assert all(name.startswith("lycoris_") for name in names)
    with open_lora(tmp_path / "a.safetensors") as lora:
        assert lora.family == "sd1" and len(lora.layers) == len({name.partition(".")[0] for name in names})
    network.restore()
    network.merge_to(1.0)
    assert assert_moved("sd1", pipe, changes_of(tmp_path / "a.safetensors", first("sd1")), 2e-5) > 100
