"""The UNETs that are drawn, their names, and the inputs they are traced with."""

from __future__ import annotations

from ..checkpoints.errors import UnetscopeError, nearest
from ..checkpoints.families import FAMILIES, family_of
from ..checkpoints.families.diffusers import unet_config


def family_named(name: str) -> str:
    """The family that a person means by `sd1`, `SDXL`, `sdxl-refiner`...

    Raises:
        UnetscopeError: for a name that is none.
    """
    known = name.strip().casefold().replace("-", "_")
    if known not in drawn_families():
        there = drawn_families()
        raise UnetscopeError(f"there is no architecture {name!r}{nearest(name, there)}; use {', '.join(there)}")
    return known


def drawn_families() -> tuple[str, ...]:
    """The families that can be drawn without a file: those whose trace is shipped, and chains of a published layout."""
    return tuple(f.id for f in FAMILIES.values() if f.traced or (f.drawing == "chain" and f.tensors is not None))


def input_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The inputs of a UNET by the name of what they are, with their shapes (batch of one)."""
    config = unet_config(family)
    size = config["sample_size"]
    shapes = {"latent": (1, config["in_channels"], size, size), "timestep": ()}
    shapes["text"] = (1, 77, config["cross_attention_dim"])
    spec = family_of(family).real
    # Next to the pooled text: original size, crop and target size (SDXL); size, crop and score (refiner).
    if spec.pooled:
        shapes |= {"pooled text": (1, spec.pooled), "size": (1, spec.size_ids)}
    return shapes
