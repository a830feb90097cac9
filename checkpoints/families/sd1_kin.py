"""Kin of SD1: BK-SDM (Nota, 2023), UNETs with fewer blocks that were distilled from it, and Zero123, which turns the view."""

from __future__ import annotations

from functools import partial

from .parts import bk_sdm, unet
from .parts.part import Spec
from .sd1 import SD1
from .signs import next_to

SD1_BK_BASE = bk_sdm.base(SD1)
SD1_BK_SMALL = bk_sdm.small(SD1)
SD1_BK_TINY = bk_sdm.tiny(SD1)

# Columbia University, 2023. It reads the picture to turn next to the noise, and an image encoder instead of a text encoder.
ZERO123 = SD1.kin(
    "zero123",
    "Zero123",
    known_by=next_to("cc_projection."),
    tensors=partial(unet.unet, in_channels=8),
    variants={8: "base"},
    components=tuple(held for held in SD1.components if not held.part.text),
    extras=("cc_projection.", "cond_stage_model."),
    # The picture's embedding and the four numbers of the turn, projected to what cross-attention reads.
    leftovers=(*SD1.leftovers, ("cc_projection.weight", Spec((768, 772))), ("cc_projection.bias", Spec((768,)))),
    pipeline=None,
)
