"""Kin of SDXL: smaller UNETs that were distilled from it (SSD-1B, Vega, KOALA), and Kolors, which reads another encoder's text."""

from __future__ import annotations

from dataclasses import replace

from .parts import unet
from .sdxl import SDXL
from .signs import starts

_KOALA_700M_BLOCKS = """
    TIME_EMBED   time_embed
    LABEL_EMB    label_emb
    IN00-05      input_blocks.{n}
    OUT00-05     output_blocks.{n}
    OUT          out
"""
_KOALA_1B_BLOCKS = """
    TIME_EMBED   time_embed
    LABEL_EMB    label_emb
    IN00-05      input_blocks.{n}
    M00          middle_block
    OUT00-05     output_blocks.{n}
    OUT          out
"""
_KOLORS_BLOCKS = """
    TIME_EMBED   time_embed
    LABEL_EMB    label_emb encoder_hid_proj
    IN00-08      input_blocks.{n}
    M00          middle_block
    OUT00-08     output_blocks.{n}
    OUT          out
"""

# SDXL's blocks with fewer transformer layers; a middle block of depth 0 is one residual block (Segmind, 2023).
SSD_1B = SDXL.kin("ssd_1b", "SSD-1B", depths=(0, ((2, 2), (2, 1, 1)), ((4, 4), (4, 4, 10))), mid_depth=0)
VEGA = SDXL.kin("vega", "Segmind Vega", depths=(0, 1, 2), mid_depth=0)

# One residual block a level in the encoder, two in the decoder (ETRI, 2023).
KOALA_700M = SDXL.kin(
    "koala_700m", "KOALA-700M", blocks=_KOALA_700M_BLOCKS, depths=(0, 2, 5), mid_depth=None, resnets=1
).with_own_vector()
KOALA_1B = SDXL.kin(
    "koala_1b", "KOALA-1B", blocks=_KOALA_1B_BLOCKS, depths=(0, 2, 6), mid_depth=6, resnets=1
).with_own_vector()

# Kwai, 2024. Its text encoder, ChatGLM3, is not part of its files.
KOLORS = SDXL.kin(
    "kolors",
    "Kolors",
    known_by=starts("encoder_hid_proj."),
    blocks=_KOLORS_BLOCKS,
    about=unet.ABOUT | {"LABEL_EMB": "embeds pooled text and image size, and projects the text (Kolors)"},
    real=replace(SDXL.real, pooled=4096, projected=4096),
    narrow=replace(SDXL.narrow, pooled=96, projected=96),
    components=tuple(held for held in SDXL.components if not held.part.text),
    pipeline=None,
)
