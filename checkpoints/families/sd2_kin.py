"""Kin of SD2: unCLIP (Stability AI, 2023), which reads a picture's embedding too, and BK-SDM (Nota, 2023) with fewer blocks."""

from __future__ import annotations

from dataclasses import replace

from .parts import bk_sdm, unet
from .parts.part import Spec
from .sd2 import SD2
from .signs import next_to, starts

_BLOCKS = """
    TIME_EMBED   time_embed
    LABEL_EMB    label_emb
    IN00-11      input_blocks.{n}
    M00          middle_block
    OUT00-11     output_blocks.{n}
    OUT          out
"""

# The embedding of CLIP-H's image encoder and that of its noise level, side by side.
SD2_UNCLIP = SD2.kin(
    "sd2_unclip",
    "SD2 unCLIP",
    known_by=starts("label_emb.") | next_to("noise_augmentor."),
    predicts="v",
    blocks=_BLOCKS,
    about=unet.ABOUT | {"LABEL_EMB": "embeds the image embedding (unCLIP)"},
    real=replace(SD2.real, pooled=2048, size_ids=0),
    narrow=replace(SD2.narrow, pooled=96, size_ids=0),
    extras=("noise_augmentor.", "embedder."),
    leftovers=(*SD2.leftovers, *((f"noise_augmentor.data_{name}", Spec((1, 1024))) for name in ("mean", "std"))),
    pipeline=None,
)

SD2_BK_BASE = bk_sdm.base(SD2)
SD2_BK_SMALL = bk_sdm.small(SD2)
SD2_BK_TINY = bk_sdm.tiny(SD2)
