"""The four families as data: channels, depths and widths, as published, and narrow ones of the same structure.

A narrow model has every key and every block of the real one, with few channels: a demo checkpoint of a few MB that
diffusers builds, loads and runs (with 4 groups in its norms instead of 32: at least 4 channels a group, as in the real ones).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Family = Literal["sd1", "sd2", "sdxl", "sdxl_refiner"]
Widths = Literal["real", "narrow"]
VOCABULARY = 49408
TOKENS = 77


@dataclass(frozen=True, slots=True)
class Unet:
    """A UNET.

    Attributes:
        channels: per level, the finest first.
        depths: transformer layers per level; 0 where a level has no attention.
        mid_depth: transformer layers of the middle block.
        context: width of the text features that cross-attention reads.
        heads: attention heads per level.
        linear: whether `proj_in` and `proj_out` are linear (2-D) or 1x1 convolutions (4-D).
        pooled: width of the pooled text that LABEL_EMB reads; 0 without a LABEL_EMB.
        size_ids: how many numbers (sizes, crops, aesthetic score) LABEL_EMB reads beside it.
        size_width: width of the embedding of each of them.
        sample: height and width of the latent image that it was trained on.
    """

    channels: tuple[int, ...]
    depths: tuple[int, ...]
    mid_depth: int
    context: int
    heads: tuple[int, ...]
    linear: bool
    sample: int
    pooled: int = 0
    size_ids: int = 6
    size_width: int = 256
    groups: int = 32

    @property
    def label_inputs(self) -> int:
        """Width of what LABEL_EMB reads: pooled text and embedded sizes side by side."""
        return self.pooled + self.size_ids * self.size_width


@dataclass(frozen=True, slots=True)
class TextEncoder:
    """A text encoder: OpenAI's CLIP as transformers names it, or an OpenCLIP. The MLP is four times as wide."""

    label: Literal["CLIP_L", "CLIP_H", "CLIP_G"]
    prefix: str
    width: int
    layers: int
    heads: int

    @property
    def open_clip(self) -> bool:
        return self.label != "CLIP_L"


@dataclass(frozen=True, slots=True)
class Vae:
    """An autoencoder: channels per level, the finest first; two residual blocks a level; 4 latent channels."""

    channels: tuple[int, ...]
    scaling: float
    sample: int
    groups: int = 32


@dataclass(frozen=True, slots=True)
class Model:
    """A family: its UNET, text encoders and VAE, and whether its files hold the noise schedule."""

    unet: Unet
    text: tuple[TextEncoder, ...]
    vae: Vae
    schedule: bool


_REAL_VAE = (128, 256, 512, 512)
_SD_L, _SD_H = "cond_stage_model.transformer.", "cond_stage_model.model."
_XL_L, _XL_G = "conditioner.embedders.0.transformer.", "conditioner.embedders.1.model."
_REFINER_G = "conditioner.embedders.0.model."

REAL: dict[Family, Model] = {
    "sd1": Model(
        Unet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, context=768, heads=(8, 8, 8, 8), linear=False, sample=64),
        (TextEncoder("CLIP_L", _SD_L, 768, layers=12, heads=12),),
        Vae(_REAL_VAE, scaling=0.18215, sample=512),
        schedule=True,
    ),
    "sd2": Model(
        Unet((320, 640, 1280, 1280), (1, 1, 1, 0), 1, context=1024, heads=(5, 10, 20, 20), linear=True, sample=96),
        (TextEncoder("CLIP_H", _SD_H, 1024, layers=24, heads=16),),
        Vae(_REAL_VAE, scaling=0.18215, sample=768),
        schedule=True,
    ),
    "sdxl": Model(
        Unet((320, 640, 1280), (0, 2, 10), 10, context=2048, heads=(5, 10, 20), linear=True, sample=128, pooled=1280),
        (TextEncoder("CLIP_L", _XL_L, 768, layers=12, heads=12), TextEncoder("CLIP_G", _XL_G, 1280, layers=32, heads=20)),
        Vae(_REAL_VAE, scaling=0.13025, sample=1024),
        schedule=False,
    ),
    "sdxl_refiner": Model(
        Unet(
            (384, 768, 1536, 1536), (0, 4, 4, 0), 4, context=1280, heads=(6, 12, 24, 24), linear=True, sample=128,
            pooled=1280, size_ids=5,
        ),
        (TextEncoder("CLIP_G", _REFINER_G, 1280, layers=32, heads=20),),
        Vae(_REAL_VAE, scaling=0.13025, sample=1024),
        schedule=False,
    ),
}  # fmt: skip

# Levels that differ in the real model differ here: a residual block has a skip convolution exactly where its input and
# output widths differ. SDXL's two text encoders have different widths, by which diffusers tells them apart.
_NARROW_VAE = (16, 32, 48, 48)
_NARROW = {"groups": 4, "size_width": 32}

NARROW: dict[Family, Model] = {
    "sd1": Model(
        Unet((16, 32, 48, 48), (1, 1, 1, 0), 1, context=32, heads=(2, 2, 2, 2), linear=False, sample=8, **_NARROW),
        (TextEncoder("CLIP_L", _SD_L, 32, layers=12, heads=2),),
        Vae(_NARROW_VAE, scaling=0.18215, sample=64, groups=4),
        schedule=True,
    ),
    "sd2": Model(
        Unet((16, 32, 48, 48), (1, 1, 1, 0), 1, context=48, heads=(1, 2, 3, 3), linear=True, sample=8, **_NARROW),
        (TextEncoder("CLIP_H", _SD_H, 48, layers=24, heads=3),),
        Vae(_NARROW_VAE, scaling=0.18215, sample=64, groups=4),
        schedule=True,
    ),
    "sdxl": Model(
        Unet((16, 32, 48), (0, 2, 10), 10, context=80, heads=(1, 2, 3), linear=True, sample=8, pooled=48, **_NARROW),
        (TextEncoder("CLIP_L", _XL_L, 32, layers=12, heads=2), TextEncoder("CLIP_G", _XL_G, 48, layers=32, heads=3)),
        Vae(_NARROW_VAE, scaling=0.13025, sample=64, groups=4),
        schedule=False,
    ),
    "sdxl_refiner": Model(
        Unet(
            (16, 32, 48, 48), (0, 4, 4, 0), 4, context=48, heads=(1, 2, 3, 3), linear=True, sample=8,
            pooled=48, size_ids=5, **_NARROW,
        ),
        (TextEncoder("CLIP_G", _REFINER_G, 48, layers=32, heads=3),),
        Vae(_NARROW_VAE, scaling=0.13025, sample=64, groups=4),
        schedule=False,
    ),
}  # fmt: skip

FAMILIES: tuple[Family, ...] = tuple(REAL)


def model(family: Family, widths: Widths = "real") -> Model:
    """The shape of a family's model."""
    return (REAL if widths == "real" else NARROW)[family]
