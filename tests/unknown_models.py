"""Models of no known family: a row of numbered layers."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

LABELS = ["START", *(f"LAYERS{n:02d}" for n in range(4)), "END"]


def write_unknown(path: Path, seed: int = 0) -> Path:
    """A checkpoint of four layers, a few kilobytes large."""
    draw = torch.Generator().manual_seed(seed)
    shapes = {"x_in.weight": (8, 4), "head.weight": (4, 8)}
    for n in range(4):
        inside = {"attn.qkv": (24, 8), "attn.out": (8, 8), "mlp.fc1": (8, 8), "mlp.fc2": (8, 8), "norm": (8,)}
        shapes |= {f"layers.{n}.{name}.weight": shape for name, shape in inside.items()}
    save_file({name: torch.randn(shape, generator=draw) for name, shape in shapes.items()}, path)
    return path
