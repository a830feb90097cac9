"""A request: one image to make, with its prompt, its seed and the settings that the field calls a payload."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class ImageRequest:
    """One image of a panel.

    Attributes:
        name: unique in its panel, fit for a file's name (`castle-1`: payload and seed).
        prompt, negative_prompt, seed, steps, cfg_scale, width, height, sampler_name: as in A1111's txt2img.
        weight: how much the image counts in a trial's score.
        extra: other txt2img fields, which only a web UI understands.
    """

    name: str
    prompt: str
    seed: int
    negative_prompt: str = ""
    steps: int = 20
    cfg_scale: float = 7.0
    width: int = 512
    height: int = 512
    sampler_name: str = "Euler a"
    weight: float = 1.0
    extra: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def picture_hash(image: Image) -> str:
    """What tells whether two requests became the very same picture."""
    import xxhash

    return xxhash.xxh3_64_hexdigest(image.tobytes())
