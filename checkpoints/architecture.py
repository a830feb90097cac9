"""What a set of tensors is: SD1, SD2, SDXL, one of their variants, a part of one, or something else.

Recognition goes by key structure and ranks, so a checkpoint with narrow channels is recognised as well.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["sd1", "sd2", "sdxl", "sdxl_refiner"]
What = Literal["checkpoint", "component", "lora", "controlnet", "other"]


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a file is.

    Attributes:
        family: `sd1`, `sd2`, `sdxl`, `sdxl_refiner`, or None when it is none of them.
        what: `checkpoint` (it has a UNET and more), `component` (a UNET, VAE or text encoder alone), `lora`,
            `controlnet` or `other`.
        variant: `base`, `inpainting` (9 input channels), `instruct-pix2pix` (8), `depth` (5) or `unusual input`.
        parts: the components that are there (`unet`, `clip_l`, `vae`...).
        name: one line for people, e.g. `SDXL checkpoint, inpainting`.
    """

    family: Family | None
    what: What
    variant: str = "base"
    parts: tuple[str, ...] = ()
    name: str = ""
