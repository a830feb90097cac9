"""Small LoRAs whose names are written out by hand, and the changes that they make, worked out from their tensors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from unetscope.checkpoints.families import layout

UNET = "model.diffusion_model."
CLIP = "cond_stage_model.transformer.text_model.encoder.layers."
CLIP_L = "conditioner.embedders.0.transformer.text_model.encoder.layers."
CLIP_G = "conditioner.embedders.1.model.transformer.resblocks."
# Name in the file -> canonical key; for q, k and v of OpenCLIP, the third of the rows as well.
SD1 = {
    "lora_unet_down_blocks_0_attentions_0_transformer_blocks_0_attn1_to_q": UNET
    + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_out_0": UNET
    + "input_blocks.4.1.transformer_blocks.0.attn2.to_out.0.weight",
    "lora_unet_mid_block_attentions_0_proj_in": UNET + "middle_block.1.proj_in.weight",
    "lora_unet_up_blocks_3_attentions_2_transformer_blocks_0_ff_net_0_proj": UNET
    + "output_blocks.11.1.transformer_blocks.0.ff.net.0.proj.weight",
    "lora_te_text_model_encoder_layers_3_mlp_fc1": CLIP + "3.mlp.fc1.weight",
}
SD1_CONV = {
    "lora_unet_down_blocks_0_resnets_0_conv1": UNET + "input_blocks.1.0.in_layers.2.weight",
    "lora_unet_down_blocks_0_downsamplers_0_conv": UNET + "input_blocks.3.0.op.weight",
}
SDXL = {
    "lora_unet_input_blocks_4_1_transformer_blocks_0_attn1_to_q": UNET
    + "input_blocks.4.1.transformer_blocks.0.attn1.to_q.weight",
    "lora_unet_middle_block_1_proj_in": UNET + "middle_block.1.proj_in.weight",
    "lora_unet_output_blocks_5_1_transformer_blocks_0_attn2_to_v": UNET
    + "output_blocks.5.1.transformer_blocks.0.attn2.to_v.weight",
    "lora_unet_output_blocks_0_1_transformer_blocks_0_ff_net_2": UNET
    + "output_blocks.0.1.transformer_blocks.0.ff.net.2.weight",
    "lora_te1_text_model_encoder_layers_3_self_attn_q_proj": CLIP_L + "3.self_attn.q_proj.weight",
    "lora_te2_text_model_encoder_layers_5_self_attn_k_proj": (CLIP_G + "5.attn.in_proj_weight", 1),
    "lora_te2_text_model_encoder_layers_5_mlp_fc2": CLIP_G + "5.mlp.c_proj.weight",
}
MODULES = {"sd1": SD1, "sdxl": SDXL}


def shape_of(family: str, place) -> tuple[int, ...]:
    """The shape of a module's weight in the narrow checkpoints of the tests."""
    key, third = place if isinstance(place, tuple) else (place, None)
    shape = tuple(layout(family, widths="narrow")[key].shape)
    return shape if third is None else (shape[0] // 3, *shape[1:])


def write_lora(
    path: Path, family: str = "sd1", *, modules=None, rank: int = 3, alpha: float | None = 1.5, seed: int = 0,
    dtype=torch.float16, metadata: dict[str, str] | None = None, size: float = 0.1,
) -> Path:  # fmt: skip
    """A LoRA (a LoCon for convolutions) in kohya's style for SD1, in single-file style for SDXL."""
    rng, tensors = np.random.default_rng(seed), {}
    for name, place in (modules or MODULES[family]).items():
        shape = shape_of(family, place)
        ones = (1,) * (len(shape) - 2)
        for end, sides in (("down", (rank, *shape[1:])), ("up", (shape[0], rank, *ones))):
            values = rng.standard_normal(sides) * size
            tensors[f"{name}.lora_{end}.weight"] = torch.from_numpy(values).to(dtype)
        if alpha is not None:
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
    save_file(tensors, path, metadata)
    return path


def changes(tensors: dict[str, torch.Tensor], family: str = "sd1", modules=None) -> dict[str, np.ndarray]:
    """Canonical key -> the change that a file's tensors make, float64: alpha / rank x up @ down."""
    out: dict[str, np.ndarray] = {}
    for name, place in (modules or MODULES[family]).items():
        if f"{name}.lora_down.weight" not in tensors:
            continue
        down, up = (tensors[f"{name}.lora_{end}.weight"].double().numpy() for end in ("down", "up"))
        rank = down.shape[0]
        alpha = float(tensors[f"{name}.alpha"]) if f"{name}.alpha" in tensors else rank
        delta = (alpha / rank * up.reshape(up.shape[0], rank) @ down.reshape(rank, -1)).reshape(
            up.shape[0], *down.shape[1:]
        )
        key, third = place if isinstance(place, tuple) else (place, None)
        if third is not None:
            whole = out.setdefault(key, np.zeros((3 * delta.shape[0], *delta.shape[1:])))
            whole[third * delta.shape[0] : (third + 1) * delta.shape[0]] += delta
        else:
            out[key] = delta
    return out
