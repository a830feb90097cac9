"""Small checkpoints with the real keys, as other libraries write and read them."""

from __future__ import annotations

import os
from functools import cache, lru_cache
from pathlib import Path

import numpy as np
import torch
from places import layer_kind, place
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


@cache
def _few(family: str) -> set[str]:
    """The first and the last tensor of each label, and of each component's kinds of layer; all of M00 and OUT.

    Of a checkpoint's 1,145 tensors most take the same way: what a weight is decided by is the label, and the kind of layer.
    """
    keys = list(layout(family, widths="narrow"))
    labels = {key: place(key).label for key in keys}
    kinds = {key: (place(key).component, layer_kind(key)) for key in keys}
    found = {key for key in keys if labels[key] in ("M00", "OUT")}
    for sorts in (labels, kinds):
        found.update({sort: key for key, sort in sorts.items()}.values())
        found.update({sort: key for key, sort in reversed(sorts.items())}.values())
    return found


def tensors_of(
    family: str, seed: int, dtype: str = "fp16", scale: float = 0.05, in_channels: int = 4, thin: bool = False
) -> dict[str, torch.Tensor]:
    """A set of such weights that may be changed.

    A `thin` one has a tenth of the tensors, for what takes long with each of them; merges of such ones are allowed by
    `output: {allow_missing: true}`.
    """
    tensors = _tensors(family, seed, dtype, scale, in_channels)
    return {k: t.clone() for k, t in tensors.items() if not thin or k in _few(family)}


def load(path: Path) -> dict[str, torch.Tensor]:
    """A file as the safetensors library reads it."""
    return load_file(path)


def raw(tensor: torch.Tensor) -> bytes:
    """A tensor's bytes."""
    return tensor.contiguous().flatten().view(torch.uint8).numpy().tobytes()


def leftovers(folder: Path) -> list[str]:
    """Files under construction that a run left behind."""
    return [name for name in os.listdir(folder) if "unetscope-partial" in name]
