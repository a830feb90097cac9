"""The complete single-file layouts of SD1, SD2, SDXL and its refiner: every key with its shape.

`layout` answers what a whole checkpoint holds; the configs build the same models with diffusers and transformers.
The tables are in `families.py`; `unet.py`, `vae.py` and `text.py` turn a row of them into named shapes.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from ..blocks import UNET_PREFIX, VAE_PREFIX
from ..tensors import Shape
from .configs import TEXT_FOLDERS, scheduler_config, text_configs, unet_config, vae_config
from .families import FAMILIES, TOKENS, Family, Widths, model
from .pipeline import write_pipeline_config
from .schedule import SCHEDULE_KEYS, STEPS, schedule
from .text import text_encoder
from .unet import unet
from .vae import vae

__all__ = [
    "FAMILIES",
    "SCHEDULE_KEYS",
    "TEXT_FOLDERS",
    "TOKENS",
    "Family",
    "Spec",
    "Widths",
    "is_buffer",
    "layout",
    "model",
    "schedule",
    "scheduler_config",
    "text_configs",
    "unet_config",
    "vae_config",
    "write_pipeline_config",
]


@dataclass(frozen=True, slots=True)
class Spec:
    """What a layout says of a tensor: its shape and the name of its dtype in a file saved at full precision."""

    shape: Shape
    dtype: str = "F32"


def layout(family: Family, *, widths: Widths = "real", in_channels: int = 4) -> dict[str, Spec]:
    """Every key of a family's published checkpoint, in the order of the training code's state dict.

    Args:
        family: `sd1`, `sd2`, `sdxl` or `sdxl_refiner`.
        widths: `real`, or `narrow` for the same keys with few channels.
        in_channels: of the first convolution: 4, or 9 (inpainting), 8 (instruct-pix2pix), 5 (depth).
    """
    return dict(_layout(family, widths, in_channels))


@cache
def _layout(family: Family, widths: Widths, in_channels: int) -> dict[str, Spec]:
    spec = model(family, widths)
    out: dict[str, Spec] = {}
    if spec.schedule:
        out |= {key: Spec((STEPS,)) for key in SCHEDULE_KEYS}
    out |= {UNET_PREFIX + name: Spec(shape) for name, shape in unet(spec.unet, in_channels)}
    if spec.schedule:
        # What is left of the averaged weights in published files.
        out |= {"model_ema.decay": Spec(()), "model_ema.num_updates": Spec((), "I32")}
    out |= {VAE_PREFIX + name: Spec(shape) for name, shape in vae(spec.vae)}
    for encoder in spec.text:
        for name, shape in text_encoder(encoder):
            out[encoder.prefix + name] = Spec(shape, "I64" if name.endswith("position_ids") else "F32")
    return out


def is_buffer(key: str) -> bool:
    """Whether a layout's key carries no trained weight: a file is whole without it."""
    top_level = key in SCHEDULE_KEYS or key.startswith("model_ema.")
    return top_level or key.endswith((".position_ids", ".logit_scale"))
