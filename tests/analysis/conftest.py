"""Checkpoints of a few small tensors, written by the safetensors library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from unetscope.checkpoints import Checkpoint, open_checkpoint

UNET = "model.diffusion_model."
# A key of each sort -> shape. One tensor is longer than a block of columns, one has an odd size.
SHAPES = {
    UNET + "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight": (200, 170),
    UNET + "input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": (16, 768),
    UNET + "input_blocks.1.1.proj_in.weight": (16, 16, 1, 1),
    UNET + "input_blocks.1.0.in_layers.2.weight": (7, 5, 3, 3),
    UNET + "input_blocks.1.0.in_layers.2.bias": (7,),
    UNET + "middle_block.1.transformer_blocks.0.ff.net.2.weight": (13, 17),
    UNET + "out.2.weight": (4, 8, 3, 3),
    "cond_stage_model.transformer.text_model.encoder.layers.0.self_attn.q_proj.weight": (9, 9),
    "first_stage_model.decoder.conv_in.weight": (6, 4, 3, 3),
    "alphas_cumprod": (10,),
}
TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp64": torch.float64}


def random_tensors(seed: int, scale: float = 0.1) -> dict[str, np.ndarray]:
    """fp64 values for every key; the schedule is the same for all seeds."""
    rng = np.random.default_rng(seed)
    tensors = {key: rng.standard_normal(shape) * scale for key, shape in SHAPES.items()}
    return tensors | {"alphas_cumprod": np.linspace(1, 0.01, 10)}


@pytest.fixture
def random_model():
    return random_tensors


@pytest.fixture
def write_model(tmp_path) -> Callable[..., tuple[Checkpoint, dict[str, np.ndarray]]]:
    """`write_model('a', tensors, 'fp16')` -> the opened checkpoint, and its stored values as fp64."""
    opened: list[Checkpoint] = []

    def write(name: str, tensors: dict[str, np.ndarray], dtype: str = "fp16", extra=None):
        stored = {key: torch.from_numpy(np.ascontiguousarray(v)).to(TORCH[dtype]) for key, v in tensors.items()}
        stored |= extra or {}
        save_file(stored, tmp_path / f"{name}.safetensors")
        opened.append(open_checkpoint(tmp_path / f"{name}.safetensors"))
        return opened[-1], {key: tensor.to(torch.float64).numpy() for key, tensor in stored.items()}

    yield write
    for checkpoint in opened:
        checkpoint.close()
