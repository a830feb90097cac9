"""The same models in the words of diffusers and transformers: keyword arguments that build them."""

from __future__ import annotations

from typing import Any

from .families import TOKENS, VOCABULARY, Family, TextEncoder, Widths, model
from .schedule import STEPS

TEXT_FOLDERS = ("text_encoder", "text_encoder_2")


def unet_config(family: Family, widths: Widths = "real", in_channels: int = 4) -> dict[str, Any]:
    """Arguments of `diffusers.UNet2DConditionModel`."""
    spec = model(family, widths).unet
    config = {
        "sample_size": spec.sample,
        "in_channels": in_channels,
        "out_channels": 4,
        "block_out_channels": list(spec.channels),
        "layers_per_block": 2,
        "down_block_types": ["CrossAttnDownBlock2D" if depth else "DownBlock2D" for depth in spec.depths],
        "up_block_types": ["CrossAttnUpBlock2D" if depth else "UpBlock2D" for depth in reversed(spec.depths)],
        "attention_head_dim": list(spec.heads),  # diffusers' name for the number of heads
        "cross_attention_dim": spec.context,
        "transformer_layers_per_block": [depth or 1 for depth in (*spec.depths[:-1], spec.mid_depth)],
        "use_linear_projection": spec.linear,
        "norm_num_groups": spec.groups,
    }
    if spec.pooled:
        config["addition_embed_type"] = "text_time"
        config["addition_time_embed_dim"] = spec.size_width
        config["projection_class_embeddings_input_dim"] = spec.label_inputs
    return config


def vae_config(family: Family, widths: Widths = "real") -> dict[str, Any]:
    """Arguments of `diffusers.AutoencoderKL`."""
    spec = model(family, widths).vae
    levels = len(spec.channels)
    return {
        "in_channels": 3,
        "out_channels": 3,
        "latent_channels": 4,
        "block_out_channels": list(spec.channels),
        "layers_per_block": 2,
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "norm_num_groups": spec.groups,
        "sample_size": spec.sample,
        "scaling_factor": spec.scaling,
    }


def text_configs(family: Family, widths: Widths = "real") -> dict[str, dict[str, Any]]:
    """Arguments of `transformers.CLIPTextConfig` by the folder that a diffusers pipeline keeps the encoder in.

    CLIP_L and CLIP_H are `CLIPTextModel`, CLIP_G is `CLIPTextModelWithProjection`.
    """
    encoders = model(family, widths).text
    # The refiner's only text encoder is the second one of its pipeline.
    folders = TEXT_FOLDERS[1:] if family == "sdxl_refiner" else TEXT_FOLDERS
    return {folder: _text_config(spec) for folder, spec in zip(folders, encoders, strict=False)}


def _text_config(spec: TextEncoder) -> dict[str, Any]:
    return {
        "vocab_size": VOCABULARY,
        "max_position_embeddings": TOKENS,
        "hidden_size": spec.width,
        "intermediate_size": 4 * spec.width,
        # SD2 reads the last layer but one, and diffusers leaves the last out.
        "num_hidden_layers": spec.layers - (spec.label == "CLIP_H"),
        "num_attention_heads": spec.heads,
        "hidden_act": "gelu" if spec.open_clip else "quick_gelu",
        "projection_dim": spec.width,
        "bos_token_id": 0,
        "eos_token_id": 2,
        "pad_token_id": 1,
    }


def scheduler_config(prediction: str = "epsilon") -> dict[str, Any]:
    """Arguments of `diffusers.DDIMScheduler`; `prediction` is `epsilon` or `v`."""
    return {
        "num_train_timesteps": STEPS,
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "clip_sample": False,
        "set_alpha_to_one": False,
        "steps_offset": 1,
        "prediction_type": "v_prediction" if prediction == "v" else "epsilon",
    }
