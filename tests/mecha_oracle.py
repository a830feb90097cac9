"""sd-mecha as the tests ask it: in fp32 from start to end, and, where whole files would tell no more, on few tensors.

It walks its whole graph for every tensor. Whole files are compared in `test_parity_sd_mecha`.
"""

from __future__ import annotations

from pathlib import Path

import sd_mecha
import torch
from places import place
from safetensors.torch import save_file
from tiny import tensors_of

COMPARED = ("unet", "clip_l", "clip_g", "vae")


class _Silent(sd_mecha.merging.tqdm_original):
    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **{**options, "disable": True})


# What sd-mecha looks for in its inputs, its output and its own methods is not what is compared here.
_OPTIONS = {
    "merge_dtype": torch.float32,
    "output_dtype": torch.float32,
    "threads": 0,
    "tqdm": _Silent,
    "check_finite_output": False,
    "check_extra_keys": False,
    "omit_non_finite_inputs": False,
    "validate_mm_contract": False,
}


def merged(node) -> dict[str, torch.Tensor]:
    """sd-mecha's result of a recipe of its own: nodes, or their text."""
    node = sd_mecha.deserialize(node) if isinstance(node, str) else node
    return {k: v for k, v in sd_mecha.merge(node, **_OPTIONS).items() if isinstance(v, torch.Tensor)}


def write_models(folder: Path, family: str, names: str) -> tuple[Path, ...]:
    """Thin checkpoints of random weights, another seed for each name; even of M00 they have a few tensors only."""
    paths = tuple(folder / f"{name}.safetensors" for name in names)
    for seed, path in enumerate(paths):
        tensors = tensors_of(family, seed, thin=True)
        for key in [key for key in tensors if place(key).label == "M00"][3:-3]:
            del tensors[key]
        save_file(tensors, path, {"format": "pt"})
    return paths


def assert_same_weights(out: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Equal within a tolerance wherever sd-mecha merges as we do.

    It averages integer buffers and writes them as floats, so only floating point weights are compared.
    """
    compared = {k for k, t in expected.items() if place(k).component in COMPARED and out[k].is_floating_point()}
    for key in compared:
        assert (out[key].double() - expected[key].double()).abs().max() <= tolerance, key
    assert len(compared) > 80
    assert {place(k).label for k in compared} == {place(k).label for k in out if place(k).component in COMPARED}
