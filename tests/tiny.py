"""Small checkpoints with the real keys, as other libraries write and read them."""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from unetscope.checkpoints.families import layout

TORCH = {"fp16": torch.float16, "bf16": torch.bfloat16, "fp32": torch.float32, "fp8_e4m3": torch.float8_e4m3fn}


@lru_cache(maxsize=24)
def _tensors(family: str, seed: int, dtype: str, scale: float, in_channels: int) -> dict[str, torch.Tensor]:
    """Random weights under every key of a family's narrow layout; integers and schedules as the layout says."""
    rng = np.random.default_rng(seed)
    out = {}
    for key, spec in layout(family, widths="narrow", in_channels=in_channels).items():
        if spec.dtype == "I64":
            out[key] = torch.arange(int(np.prod(spec.shape))).reshape(spec.shape)
        else:
            values = np.array(rng.standard_normal(spec.shape, dtype=np.float32) * scale, np.float32)
            schedule = not key.startswith(("model.", "first_stage", "cond_stage", "conditioner"))
            out[key] = torch.from_numpy(values).to(torch.float32 if schedule else TORCH[dtype])
    return out


def tensors_of(
    family: str, seed: int, dtype: str = "fp16", scale: float = 0.05, in_channels: int = 4
) -> dict[str, torch.Tensor]:
    """A set of such weights that may be changed."""
    return {k: t.clone() for k, t in _tensors(family, seed, dtype, scale, in_channels).items()}


def load(path: Path) -> dict[str, torch.Tensor]:
    """A file as the safetensors library reads it."""
    return load_file(path)


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def leftovers(folder: Path) -> list[str]:
    """Files under construction that a run left behind."""
    return [name for name in os.listdir(folder) if "unetscope-partial" in name]
