"""Checkpoints whose transformer blocks hold codes, as quantising programs store them, and what the codes stand for."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import tensors_of

Tensors = dict[str, torch.Tensor]


def chosen(tensors: Tensors) -> list[str]:
    """The matrices that are quantised."""
    return [k for k, t in tensors.items() if "transformer_blocks" in k and k.endswith(".weight") and t.dim() == 2]


def tag(form: str) -> torch.Tensor:
    """ComfyUI's note next to a weight."""
    return torch.tensor(list(json.dumps({"format": form}).encode()), dtype=torch.uint8)


def int8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.float().abs().max() / 127
    return (weight.float() / scale).round().clamp(-127, 127).to(torch.int8), scale


def fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    scale = weight.float().abs().max() / 448
    return (weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn), scale


def scaled_fp8(key: str, weight: torch.Tensor) -> Tensors:
    codes, scale = fp8(weight)
    base = key.removesuffix(".weight")
    return {key: codes, f"{base}.weight_scale": scale, f"{base}.comfy_quant": tag("float8_e4m3fn")}


def scaled_fp8_old(key: str, weight: torch.Tensor) -> Tensors:
    codes, scale = fp8(weight)
    return {key: codes, f"{key.removesuffix('.weight')}.scale_weight": scale.reshape(1)}


def int8_tensorwise(key: str, weight: torch.Tensor) -> Tensors:
    codes, scale = int8(weight)
    base = key.removesuffix(".weight")
    return {key: codes, f"{base}.weight_scale": scale, f"{base}.input_scale": torch.ones(())}


def nvfp4(key: str, weight: torch.Tensor) -> Tensors:
    rows, columns = weight.shape
    base = key.removesuffix(".weight")
    sides = {f"{base}.weight_scale": torch.ones(rows, max(columns // 16, 1)).to(torch.float8_e4m3fn)}
    return {key: torch.zeros(rows, columns // 2, dtype=torch.uint8), f"{base}.weight_scale_2": torch.ones(()), **sides}


def nf4(key: str, weight: torch.Tensor) -> Tensors:
    state = {"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": list(weight.shape)}
    return {
        key: torch.zeros(weight.numel() // 2, 1, dtype=torch.uint8),
        f"{key}.absmax": torch.ones(max(weight.numel() // 64, 1)),
        f"{key}.quant_map": torch.zeros(16),
        f"{key}.quant_state.bitsandbytes__nf4": torch.tensor(list(json.dumps(state).encode()), dtype=torch.uint8),
    }


def bare_int8(key: str, weight: torch.Tensor) -> Tensors:
    return {key: int8(weight)[0]}


# What makes the tensors of a weight -> the encoding that they are named by.
FORMS = {
    scaled_fp8: "scaled_fp8",
    scaled_fp8_old: "scaled_fp8",
    int8_tensorwise: "scaled_int8",
    nvfp4: "nvfp4",
    nf4: "bitsandbytes",
    bare_int8: "codes",
}


def write_quantised(path: Path, form, family: str = "sd1", seed: int = 1, metadata=None) -> Tensors:
    """A checkpoint in one of the forms; returns its tensors before they were quantised."""
    tensors = tensors_of(family, seed)
    stored: Tensors = {}
    picked = set(chosen(tensors))
    for key, tensor in tensors.items():
        stored |= form(key, tensor) if key in picked else {key: tensor}
    save_file({k: t.contiguous() for k, t in stored.items()}, path, {"format": "pt", **(metadata or {})})
    return tensors
