"""The UNETs that are drawn: their published diffusers configurations and the inputs they are traced with.

What a configuration leaves out has the default of diffusers' `UNet2DConditionModel`.
"""

from __future__ import annotations

_SD = {
    "in_channels": 4,
    "out_channels": 4,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
_XL = {
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 2,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
}

CONFIGS: dict[str, dict] = {
    "sd1": {**_SD, "sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768},
    "sd2": {
        **_SD,
        "sample_size": 96,
        "attention_head_dim": [5, 10, 20, 20],
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        **_XL,
        "sample_size": 128,
        "block_out_channels": [320, 640, 1280],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [5, 10, 20],
        "cross_attention_dim": 2048,
        "transformer_layers_per_block": [1, 2, 10],
        "projection_class_embeddings_input_dim": 2816,
    },
    "sdxl_refiner": {
        **_XL,
        "sample_size": 128,
        "block_out_channels": [384, 768, 1536, 1536],
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"],
        "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "attention_head_dim": [6, 12, 24, 24],
        "cross_attention_dim": 1280,
        "transformer_layers_per_block": 4,
        "projection_class_embeddings_input_dim": 2560,
    },
}

TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL", "sdxl_refiner": "SDXL refiner"}
FAMILIES = tuple(CONFIGS)

# Size conditions beside the pooled text: original size, crop and target size (SDXL); size, crop and score (refiner).
TIME_IDS = {"sdxl": 6, "sdxl_refiner": 5}


def input_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The inputs of a UNET by the name of what they are, with their shapes (batch of one)."""
    config = CONFIGS[family]
    size = config["sample_size"]
    shapes = {"latent": (1, config["in_channels"], size, size), "timestep": ()}
    shapes["text"] = (1, 77, config["cross_attention_dim"])
    if family in TIME_IDS:
        shapes |= {"pooled text": (1, 1280), "size": (1, TIME_IDS[family])}
    return shapes
