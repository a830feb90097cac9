"""The UNETs that are drawn, their names, and the inputs they are traced with."""

from __future__ import annotations

from ..checkpoints.blocks import UNET_LABELS
from ..checkpoints.errors import UnetscopeError, nearest
from ..checkpoints.layouts import unet_config

FAMILIES = tuple(UNET_LABELS)
TITLES = {"sd1": "Stable Diffusion 1", "sd2": "Stable Diffusion 2", "sdxl": "SDXL", "sdxl_refiner": "SDXL refiner"}

# Numbers beside the pooled text: original size, crop and target size (SDXL); size, crop and score (refiner).
TIME_IDS = {"sdxl": 6, "sdxl_refiner": 5}


class DrawingError(UnetscopeError):
    """A diagram cannot be drawn or saved as it was asked for."""


def family_named(name: str) -> str:
    """The family that a person means by `sd1`, `SDXL`, `sdxl-refiner`...

    Raises:
        DrawingError: for a name that is none.
    """
    known = name.strip().casefold().replace("-", "_")
    if known not in FAMILIES:
        raise DrawingError(f"there is no architecture {name!r}{nearest(name, FAMILIES)}; use {', '.join(FAMILIES)}")
    return known


def input_shapes(family: str) -> dict[str, tuple[int, ...]]:
    """The inputs of a UNET by the name of what they are, with their shapes (batch of one)."""
    config = unet_config(family)
    size = config["sample_size"]
    shapes = {"latent": (1, config["in_channels"], size, size), "timestep": ()}
    shapes["text"] = (1, 77, config["cross_attention_dim"])
    if family in TIME_IDS:
        shapes |= {"pooled text": (1, 1280), "size": (1, TIME_IDS[family])}
    return shapes
