"""Presets: weight vectors that have a name.

MBW presets are 26 numbers for SD1: BASE, IN00..IN11, M00, OUT00..OUT11. SDXL keeps IN00-IN08, M00 and OUT00-OUT08.
In the formulas i = 0..24 counts the UNET's blocks and t = i / 24 runs from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from math import cos, pi

from ..errors import RecipeError, nearest
from . import FAMILIES, Family, Slots, family_of
from .conventions import CONVENTIONS, DEFAULT_CONVENTION, lbw_slots
from .parts.mbw import LBW_17, MBW_26


def smooth(x: float) -> float:
    """3x^2 - 2x^3: from 0 to 1, flat at both ends."""
    return 3 * x**2 - 2 * x**3


def fold(x: float) -> float:
    """A triangle wave that folds any x >= 0 into 0..1: up to 1 at x = 1, down to 0 at x = 2, and so on."""
    return 1 - abs(1 - x % 2)


# fmt: off
_TRUE_HERMITE = (
    0, .199031876929012, .325761959876543, .424641927083333, .498456790123457,
    .549991560570988, .58203125, .597360869984568, .598765432098765, .589029947916667,
    .570939429012346, .547278886959876, .520833333333333, .49438777970679, .470727237654321,
    .45263671875, .442901234567901, .444305796682099, .459635416666667, .491675106095678,
    .543209876543211, .617024739583333, .715904706790124, .842634789737655, 1,
)
_FAKE_HERMITE = (
    0, .157576195987654, .28491512345679, .384765625, .459876543209877,
    .512996720679012, .546875, .564260223765432, .567901234567901, .560546875,
    .544945987654321, .523847415123457, .5, .476152584876543, .455054012345679,
    .439453125, .432098765432099, .435739776234568, .453125, .487003279320987,
    .540123456790124, .615234375, .71508487654321, .842423804012347, 1,
)
# The weight of block i, by name. BASE is 0 but in ALL_B.
_BLOCKS: dict[str, Callable[[int], float]] = {
    "GRAD_V": lambda i: abs(1 - i / 12),
    "GRAD_A": lambda i: 1 - abs(1 - i / 12),
    "FLAT_25": lambda i: 0.25,
    "FLAT_75": lambda i: 0.75,
    "WRAP08": lambda i: i < 4 or i > 20,
    "WRAP12": lambda i: i < 6 or i > 18,
    "WRAP14": lambda i: i < 7 or i > 17,
    "WRAP16": lambda i: i < 8 or i > 16,
    "MID12_50": lambda i: 0.5 * (5 <= i <= 18),
    "OUT07": lambda i: i >= 18,
    "OUT12": lambda i: i >= 13,
    "OUT12_5": lambda i: 0.5 if i == 12 else i > 12,
    "RING08_SOFT": lambda i: 0.5 if i in (5, 9, 15, 19) else 6 <= i <= 8 or 16 <= i <= 18,
    "RING08_5": lambda i: 6 <= i <= 9 or 15 <= i <= 18,
    "RING10_5": lambda i: 5 <= i <= 9 or 15 <= i <= 19,
    "RING10_3": lambda i: 6 <= i <= 10 or 14 <= i <= 18,
    "SMOOTHSTEP": lambda i: smooth(i / 24),
    "SMOOTHSTEP*2": lambda i: fold(2 * smooth(i / 24)),
    "SMOOTHSTEP*3": lambda i: fold(3 * smooth(i / 24)),
    "SMOOTHSTEP*4": lambda i: fold(4 * smooth(i / 24)),
    "SMOOTHSTEP/2": lambda i: smooth(fold(i / 12)),
    "SMOOTHSTEP/3": lambda i: smooth(fold(i / 8)),
    "SMOOTHSTEP/4": lambda i: smooth(fold(i / 6)),
    "COSINE": lambda i: (1 + cos(pi * i / 24)) / 2,
    "TRUE_CUBIC_HERMITE": lambda i: _TRUE_HERMITE[i],
    "FAKE_CUBIC_HERMITE": lambda i: _FAKE_HERMITE[i],
    "ALL_A": lambda i: 0.0,
    "ALL_B": lambda i: 1.0,
}
# 1 - X for every block, under the names that shared recipes use.
_REVERSED = {
    "REVERSE-SMOOTHSTEP": "SMOOTHSTEP",
    "R_SMOOTHSTEP*2": "SMOOTHSTEP*2",
    "R_SMOOTHSTEP*3": "SMOOTHSTEP*3",
    "R_SMOOTHSTEP*4": "SMOOTHSTEP*4",
    "R_SMOOTHSTEP/2": "SMOOTHSTEP/2",
    "R_SMOOTHSTEP/3": "SMOOTHSTEP/3",
    "R_SMOOTHSTEP/4": "SMOOTHSTEP/4",
    "REVERSE_COSINE": "COSINE",
    "TRUE_REVERSE_CUBIC_HERMITE": "TRUE_CUBIC_HERMITE",
    "FAKE_REVERSE_CUBIC_HERMITE": "FAKE_CUBIC_HERMITE",
}
# LoRA block weight presets: BASE, IN01, IN02, IN04, IN05, IN07, IN08, M00, OUT03..OUT11.
_LBW: dict[str, tuple[float, ...]] = {
    "NONE":   (0,) * 17,
    "ALL":    (1,) * 17,
    "ALL0.5": (0.5,) * 17,
    "INS":    (1,  1, 1, 1, 0, 0, 0,  0,  0, 0, 0, 0, 0, 0, 0, 0, 0),
    "IND":    (1,  0, 0, 0, 1, 1, 1,  0,  0, 0, 0, 0, 0, 0, 0, 0, 0),
    "INALL":  (1,  1, 1, 1, 1, 1, 1,  0,  0, 0, 0, 0, 0, 0, 0, 0, 0),
    "MIDD":   (1,  0, 0, 0, 1, 1, 1,  1,  1, 1, 1, 1, 0, 0, 0, 0, 0),
    "OUTD":   (1,  0, 0, 0, 0, 0, 0,  0,  1, 1, 1, 1, 0, 0, 0, 0, 0),
    "OUTS":   (1,  0, 0, 0, 0, 0, 0,  0,  0, 0, 0, 0, 1, 1, 1, 1, 1),
    "OUTALL": (1,  0, 0, 0, 0, 0, 0,  0,  1, 1, 1, 1, 1, 1, 1, 1, 1),
}
# fmt: on


def _fold_name(name: str) -> str:
    """One spelling for all of REVERSE-X, REVERSE_X, R_X and TRUE_REVERSE_X, in any case."""
    words = str(name).strip().upper().replace("-", "_").split("_")
    turned = [word for word in words if word not in ("R", "REVERSE")]
    return ("R_" if len(turned) < len(words) else "") + "_".join(turned)


@cache
def _by_folded_name() -> dict[str, str]:
    return {_fold_name(name): name for name in preset_names()}


def preset_names() -> tuple[str, ...]:
    """The names of all MBW presets."""
    return (*_BLOCKS, *_REVERSED)


def is_preset(name: str) -> bool:
    """Whether there is an MBW preset of this name, in any case and spelling."""
    return _fold_name(name) in _by_folded_name()


def preset_base(name: str) -> float:
    """What a preset says of the text encoders."""
    return _by_slot(name)["BASE"]


def preset_families() -> list[Family]:
    """The families whose blocks presets are made for, those with all of them first."""
    fitting = [family for family in FAMILIES.values() if has_presets(family) and not family.parent]
    return sorted(fitting, key=lambda family: -len(_slots(family)))


def _slots(family: Family) -> Slots:
    vectors = CONVENTIONS[DEFAULT_CONVENTION].vectors(family).slots
    return vectors[0] if vectors else ()


def has_presets(family: Family) -> bool:
    """Whether presets are made for a family's blocks: those of a UNET."""
    return bool(_slots(family)) and set(_slots(family)) <= set(MBW_26)


def preset(name: str, family: str | Family) -> tuple[float, ...]:
    """A preset's vector, BASE first: 26 numbers for SD1, SD2 and the refiner, 20 for SDXL.

    The name may be in any case; `REVERSE-X`, `REVERSE_X` and `R_X` are the same.

    Raises:
        RecipeError: no preset has this name; the message has the nearest names. The family's blocks are not those of a UNET,
            which presets are made for.
    """
    by_slot = _by_slot(name)
    record = family_of(family)
    if not has_presets(record):
        raise RecipeError(f"Preset {name} is one for the blocks of a UNET; {record.title} has other blocks")
    return tuple(by_slot[slot] for slot in _slots(record))


def _by_slot(name: str) -> dict[str, float]:
    """Every slot's weight in a preset for four levels.

    Raises:
        RecipeError: no preset has this name.
    """
    known = _by_folded_name().get(_fold_name(name))
    if known is None:
        hint = nearest(name, preset_names()) or f"; known are {', '.join(preset_names())}"
        raise RecipeError(f"Unknown preset {name!r}{hint}")
    weight = _BLOCKS[_REVERSED.get(known, known)]
    blocks = [float(weight(i)) for i in range(25)]
    if known in _REVERSED:
        blocks = [1 - x for x in blocks]
    return dict(zip(MBW_26, (float(known == "ALL_B"), *blocks), strict=True))


def lbw_preset_names() -> tuple[str, ...]:
    """The names of all LoRA block weight presets."""
    return tuple(_LBW)


def is_lbw_preset(name: str) -> bool:
    """Whether there is a LoRA block weight preset of this name, in any case."""
    return str(name).strip().upper() in _LBW


def lbw_preset(name: str, length: int = 17, missing: float = 0.0) -> tuple[float, ...]:
    """A LoRA block weight preset, BASE first.

    Args:
        name: in any case.
        length: 17 (SD1 LoRA), or 26 (SD1 LoCon), whose nine further blocks get `missing`. NONE and ALL are constant, so
            they exist for SDXL too (12 and 20); the others name SD1 blocks and have no meaning there.
        missing: weight of blocks that the preset does not speak of.

    Raises:
        RecipeError: unknown name, or a length that the preset does not have.
    """
    known = str(name).strip().upper()
    if known not in _LBW:
        raise RecipeError(f"Unknown LoRA preset {name!r}{nearest(name, _LBW)}; known are {', '.join(_LBW)}")
    slots = lbw_slots(length)
    if len(set(_LBW[known])) == 1 and slots:
        return (float(_LBW[known][0]),) * length
    if length not in (17, 26):
        raise RecipeError(f"LoRA preset {known} exists with 17 or 26 values (SD1), not with {length}")
    by_slot = dict(zip(LBW_17, _LBW[known], strict=True))
    return tuple(float(by_slot.get(slot, missing)) for slot in slots)
