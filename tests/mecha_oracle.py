"""sd-mecha as the tests ask it: in fp32 from start to end, and, where whole files would tell no more, on few tensors.

It walks its whole graph for every tensor, and of a checkpoint's 1,145 most take the same way: what a weight is decided by is
the label, and the kind of layer. Whole files are compared in `test_parity_sd_mecha`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import sd_mecha
import torch
from places import layer_kind, place
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


@dataclass(frozen=True)
class Models:
    """Checkpoints of one family for us, and of the same names for sd-mecha, with two tensors of each label and of each kind."""

    whole: tuple[Path, ...]
    thin: tuple[Path, ...]

    def thinned(self, text: str) -> str:
        """A recipe of the whole files as one of the others."""
        for whole, thin in zip(self.whole, self.thin, strict=True):
            text = text.replace(str(whole), str(thin))
        return text


def _few(tensors: dict[str, torch.Tensor]) -> set[str]:
    """The first and the last tensor of each label, and of each component's kinds of layer."""
    labels = {key: place(key).label for key in tensors}
    kinds = {key: (place(key).component, layer_kind(key)) for key in tensors}
    found: set[str] = set()
    for sorts in (labels, kinds):
        found.update({sort: key for key, sort in sorts.items()}.values())
        found.update({sort: key for key, sort in reversed(sorts.items())}.values())
    return found


def write_models(folder: Path, family: str, names: str) -> Models:
    """Random weights, another seed for each name."""
    (folder / "thin").mkdir()
    for seed, name in enumerate(names):
        tensors = tensors_of(family, seed)
        save_file(tensors, folder / f"{name}.safetensors", {"format": "pt"})
        few = {key: tensors[key] for key in _few(tensors)}
        save_file(few, folder / "thin" / f"{name}.safetensors", {"format": "pt"})
    whole = tuple(folder / f"{name}.safetensors" for name in names)
    return Models(whole, tuple(path.parent / "thin" / path.name for path in whole))


def assert_same_weights(out: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    """Equal within a tolerance wherever sd-mecha merges as we do.

    It averages integer buffers and writes them as floats, so only floating point weights are compared.
    """
    compared = {k for k, t in expected.items() if place(k).component in COMPARED and out[k].is_floating_point()}
    for key in compared:
        assert (out[key].double() - expected[key].double()).abs().max() <= tolerance, key
    assert len(compared) > 80
    assert {place(k).label for k in compared} == {place(k).label for k in out if place(k).component in COMPARED}
