"""BK-SDM: UNETs of four levels with one residual block a level in the encoder and two in the decoder, as kin of SD1 and SD2."""

from __future__ import annotations

from dataclasses import replace

from ..family import Family
from .unet import Unet

_BASE_BLOCKS = """
    TIME_EMBED   time_embed
    IN00-07      input_blocks.{n}
    M00          middle_block
    OUT00-07     output_blocks.{n}
    OUT          out
"""
_SMALL_BLOCKS = """
    TIME_EMBED   time_embed
    IN00-07      input_blocks.{n}
    OUT00-07     output_blocks.{n}
    OUT          out
"""
_TINY_BLOCKS = """
    TIME_EMBED   time_embed
    IN00-05      input_blocks.{n}
    OUT00-05     output_blocks.{n}
    OUT          out
"""


def base(parent: Family) -> Family:
    """Fewer residual blocks."""
    return _kin(parent, "Base", blocks=_BASE_BLOCKS, resnets=1)


def small(parent: Family) -> Family:
    """Base without the middle block."""
    return _kin(parent, "Small", blocks=_SMALL_BLOCKS, resnets=1, mid_depth=None)


def tiny(parent: Family) -> Family:
    """Small without the level that has no attention."""
    real, narrow = _three_levels(parent.real), _three_levels(parent.narrow)
    return _kin(parent, "Tiny", blocks=_TINY_BLOCKS, real=real, narrow=narrow)


def _three_levels(sizes: Unet) -> Unet:
    first = {name: getattr(sizes, name)[:3] for name in ("channels", "depths", "heads")}
    return replace(sizes, resnets=1, mid_depth=None, **first)


def _kin(parent: Family, size: str, **changes) -> Family:
    return parent.kin(
        f"{parent.id}_bk_{size.casefold()}", f"BK-SDM {size} ({parent.title})", **changes
    ).with_own_vector()
