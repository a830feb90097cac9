"""Relatives of LoRA as PEFT saves them, a folder with a config next to the weights, against the weights that PEFT merges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from unetscope.checkpoints.lora import open_lora

peft = pytest.importorskip("peft")

UNET = "model.diffusion_model."
# Module in diffusers -> canonical key, and a layer in its place.
PLACES = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k": (
        UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight",
        lambda: torch.nn.Linear(32, 16),
    ),
    "down_blocks.1.resnets.0.conv1": (
        UNET + "input_blocks.4.0.in_layers.2.weight",
        lambda: torch.nn.Conv2d(16, 32, 3, padding=1),
    ),
    "down_blocks.0.downsamplers.0.conv": (
        UNET + "input_blocks.3.0.op.weight",
        lambda: torch.nn.Conv2d(16, 16, 3, padding=1),
    ),
}
LAST = ["to_k", "conv1", "conv"]
CONFIGS = {
    "LoRA": lambda: peft.LoraConfig(r=3, lora_alpha=5, target_modules=LAST, init_lora_weights=False),
    "LoHa": lambda: peft.LoHaConfig(r=3, alpha=5, target_modules=LAST, init_weights=False),
    "LoHa with cores": lambda: peft.LoHaConfig(
        r=3, alpha=5, target_modules=LAST, init_weights=False, use_effective_conv2d=True
    ),
    "LoKr": lambda: peft.LoKrConfig(r=3, alpha=5, target_modules=LAST, init_weights=False),
    "LoKr of four factors": lambda: peft.LoKrConfig(
        r=1, alpha=5, target_modules=LAST, init_weights=False, decompose_both=True, decompose_factor=4
    ),
    "LoKr with cores": lambda: peft.LoKrConfig(
        r=1, alpha=5, target_modules=LAST, init_weights=False, use_effective_conv2d=True, decompose_factor=4
    ),
    "LoKr of whole matrices": lambda: peft.LoKrConfig(r=300, alpha=5, target_modules=LAST, init_weights=False),
    "alphas by pattern": lambda: peft.LoHaConfig(
        r=3, alpha=5, target_modules=LAST, init_weights=False, rank_pattern={"to_k": 2}, alpha_pattern={"conv1": 9}
    ),
    "(IA)^3": lambda: peft.IA3Config(target_modules=LAST, feedforward_modules=[]),
    "(IA)^3 before the layers": lambda: peft.IA3Config(target_modules=LAST, feedforward_modules=LAST),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("config", CONFIGS)
def test_the_change_is_that_of_the_weights_that_peft_merges(tmp_path, config, place):
    key, layer = PLACES[place]
    torch.manual_seed(2)
    model = torch.nn.Module()
    *parents, last = place.split(".")
    inside = model
    for name in parents:
        inside.add_module(name, torch.nn.Module())
        inside = getattr(inside, name)
    inside.add_module(last, layer())
    before = getattr(inside, last).weight.detach().clone()
    wrapped = peft.get_peft_model(model, CONFIGS[config]())
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "ia3" in name:
                parameter.copy_(torch.rand(parameter.shape) + 0.5)
    wrapped.save_pretrained(tmp_path)
    after = dict(wrapped.merge_and_unload().named_parameters())[f"{place}.weight"].detach()
    with open_lora(tmp_path / "adapter_model.safetensors", shapes={key: tuple(before.shape)}) as lora:
        assert lora.unknown == []
        found = lora.modules[key].delta(before.numpy())
    change = (after - before).numpy()
    assert np.abs(change).max() > 1e-4
    np.testing.assert_allclose(found, change, atol=1e-6)
