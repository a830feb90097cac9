"""Conventions: which number of somebody's weight vector does a block label read?

Tools agree on the numbered blocks and disagree on everything else. A `Convention` is one tool's reading:

>>> CONVENTIONS["supermerger"].slots("sdxl", 20)[:3]
('BASE', 'IN00', 'IN01')
>>> CONVENTIONS["supermerger"].slot_of("LABEL_EMB", "sdxl")        # it borrows IN00's number
(1, 'IN00')
>>> CONVENTIONS["merge-block-weighted"].slot_of("LABEL_EMB", "sdxl")
(0, 'BASE')

A weight is the share of model B: 0 is all A, the first model, and 1 is all B.
A vector without a BASE slot says nothing about the text encoders; in the tools it comes from, their weight is a number
of its own ("base alpha"). Here it is the argument `base`; where nobody gives it, they stay with A.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .architecture import FAMILY_NAMES, Family
from .blocks import TEXT_ENCODERS, TEXT_LABELS, UNET_LABELS
from .errors import LabelError, nearest

Slots = tuple[str, ...]

LAST = "last OUTnn"

IN_9, IN_12 = tuple(f"IN{i:02d}" for i in range(9)), tuple(f"IN{i:02d}" for i in range(12))
OUT_9, OUT_12 = tuple(f"OUT{i:02d}" for i in range(9)), tuple(f"OUT{i:02d}" for i in range(12))
MIDDLE_3 = ("M00.0", "M00.1", "M00.2")
_NUMBERED = (*IN_12, "M00", *OUT_12)

MBW_26 = ("BASE", *IN_12, "M00", *OUT_12)
MBW_20 = ("BASE", *IN_9, "M00", *OUT_9)
# LoRA block weight vectors: the labels that a LoRA (attention only) trains; a LoCon (convolutions too) has those above.
LBW_17 = ("BASE", "IN01", "IN02", "IN04", "IN05", "IN07", "IN08", "M00", *OUT_12[3:])
LBW_12 = ("BASE", "IN04", "IN05", "IN07", "IN08", "M00", *OUT_9[:6])
_SD1_MBW = (MBW_26, MBW_26[1:])
_XL_MBW = (MBW_20, MBW_20[1:], (*MBW_20, "VAE"))
_XL_AUTOMB = ((*IN_9, "LABEL_EMB", "M00", "OUT", *OUT_9, "TIME_EMBED"),)
_AUTOMB_LOG = ((*IN_12, "M00", "OUT", *OUT_12, "TIME_EMBED"),)
_AUTOMB_RECIPE = ((*IN_12, "M00", *OUT_12, "OUT", "TIME_EMBED"),)
_COMFY_SD1 = (("TIME_EMBED", "LABEL_EMB", *IN_12, *MIDDLE_3, *OUT_12, "OUT"),)
_COMFY_XL = (("TIME_EMBED", "LABEL_EMB", *IN_9, *MIDDLE_3, *OUT_9, "OUT"),)

# The vectors that a tool writes for each architecture, the usual one first. The refiner is numbered like SD1.
LAYOUTS: dict[str, dict[str, tuple[Slots, ...]]] = {
    "mbw": {"sd1": _SD1_MBW, "sd2": _SD1_MBW, "sdxl": _XL_MBW, "sdxl_refiner": _SD1_MBW},
    "automb": {"sd1": _AUTOMB_LOG, "sd2": _AUTOMB_LOG, "sdxl": _XL_AUTOMB},
    "automb-recipe": {"sd1": _AUTOMB_RECIPE, "sd2": _AUTOMB_RECIPE, "sdxl": _XL_AUTOMB},
    "comfyui": {"sd1": _COMFY_SD1, "sd2": _COMFY_SD1, "sdxl": _COMFY_XL},
    "lbw": {"sd1": (LBW_17, MBW_26), "sd2": (LBW_17, MBW_26), "sdxl": (LBW_12, MBW_20)},
}


@dataclass(frozen=True, slots=True)
class Follows:
    """The slots that labels without a slot of their own read. None: none, the label stays with A. LAST: the last OUTnn."""

    time_embed: str | None
    label_emb: str | None
    out: str | None
    vae: str | None


@dataclass(frozen=True, slots=True)
class Reading:
    """What a vector says.

    Attributes:
        weights: share of B for every UNET label of the architecture and its text encoders; None: stays with A.
        vae: what the tool would do with the VAE. Unetscope copies the VAE from the first model unless the user names
            it, so this is not a weight like the others. None: the tool takes it from A.
    """

    weights: dict[str, float | None]
    vae: float | None


@dataclass(frozen=True, slots=True)
class Convention:
    """One tool's way to read a weight vector.

    Attributes:
        name: as recipes and the command line write it.
        about: one line for people.
        layout: which of `LAYOUTS` its vectors have.
        sd: where slotless labels go in SD1 and SD2.
        xl: where slotless labels go in SDXL and its refiner.
        inverted: its numbers are shares of A, not of B.
        missing: for strengths of LoRAs: the weight of numbered blocks that a shorter vector leaves out. What is no
            block of such vectors (TIME_EMBED, LABEL_EMB, OUT, VAE) then has 1: these tools apply the LoRA there as it is.
    """

    name: str
    about: str
    layout: str
    sd: Follows
    xl: Follows
    inverted: bool = False
    missing: float | None = None

    def lengths(self, family: Family) -> tuple[int, ...]:
        """Lengths of the vectors that fit an architecture, the usual one first; empty when the tool knows none."""
        return tuple(len(slots) for slots in LAYOUTS[self.layout].get(family, ()))

    def slots(self, family: Family, length: int) -> Slots:
        """The slot names of a vector, in order.

        Raises:
            LabelError: no vector of this length exists for this architecture; the message lists those that do.
        """
        for slots in LAYOUTS[self.layout].get(family, ()):
            if len(slots) == length:
                return slots
        raise LabelError(self._misfit(family, length))

    def follows(self, label: str, family: Family) -> str | None:
        """The slot that a label reads when it has none of its own: `BASE`, `IN00`, `OUT11`, ... or None.

        Numbered blocks follow nobody (None), text encoders follow BASE.
        """
        if label in TEXT_LABELS:
            return "BASE"
        row = self.xl if family in ("sdxl", "sdxl_refiner") else self.sd
        slot = {"TIME_EMBED": row.time_embed, "LABEL_EMB": row.label_emb, "OUT": row.out, "VAE": row.vae}.get(label)
        return UNET_LABELS[family][-2] if slot == LAST else slot

    def slot_of(self, label: str, family: Family, length: int | None = None) -> tuple[int, str] | None:
        """Which number of the vector a label reads, its own or a borrowed one: (index, slot name).

        None when it reads none: it stays with A, or the architecture has no such label, or the tool no such vector.
        `length` picks one of several vectors; without it, the usual one.
        """
        if label not in (*UNET_LABELS[family], *TEXT_ENCODERS[family], "VAE") or not self.lengths(family):
            return None
        slots = self.slots(family, length or self.lengths(family)[0])
        for slot in (label, f"{label}.0", self.follows(label, family)):
            if slot in slots:
                return slots.index(slot), slot
        return None

    def read(self, vector: Sequence[float], family: Family, base: float | None = None, scale: float = 1.0) -> Reading:
        """The weight of every label.

        Args:
            vector: numbers in this convention's order.
            family: the architecture.
            base: weight of the BASE slot, in place of the vector's own number or, where it has none, of 0.
            scale: multiplies every weight of the vector (but not `base`).

        Raises:
            LabelError: wrong length, a number that is not finite, or parts of the middle block that differ.
        """
        slots = self.slots(family, len(vector))
        if not all(math.isfinite(x) for x in vector):
            raise LabelError(
                f"A weight vector may hold finite numbers only, found {next(x for x in vector if not math.isfinite(x))}."
            )
        values = {slot: scale * (1.0 - x if self.inverted else x) for slot, x in zip(slots, vector, strict=True)}
        if base is not None or "BASE" not in values:
            values["BASE"] = 0.0 if base is None else float(base)
        if MIDDLE_3[0] in values:
            values["M00"] = _middle(values)

        def weight(label: str) -> float | None:
            if label in values or self.missing is None or label in TEXT_LABELS:
                return values[label] if label in values else values.get(self.follows(label, family))
            return scale * (self.missing if label in _NUMBERED else 1.0)

        labels = (*TEXT_ENCODERS[family], *UNET_LABELS[family])
        return Reading({label: weight(label) for label in labels}, weight("VAE"))

    def _misfit(self, family: Family, length: int) -> str:
        fits = self.lengths(family)
        if not fits:
            return f"Convention {self.name!r} has no weight vector for {FAMILY_NAMES[family]}; take 'supermerger'."
        message = (
            f"A weight vector of {length} values does not fit {FAMILY_NAMES[family]} in convention {self.name!r}, "
            f"which has {_either(fits)} values"
        )
        if family == "sdxl" and self.layout == "mbw" and length in (25, 26):
            return (
                f"{message}; it is one for SD1: keep its {'BASE, ' if length == 26 else ''}IN00-IN08, M00 and "
                "OUT00-OUT08 (a preset given by name is reduced so by itself)."
            )
        others = [c.name for c in CONVENTIONS.values() if length in c.lengths(family)]
        return message + (f"; {length} values fit convention {' or '.join(map(repr, others))}." if others else ".")


def _middle(values: dict[str, float]) -> float:
    parts = [values[slot] for slot in MIDDLE_3]
    if len(set(parts)) > 1:
        raise LabelError(
            f"The vector's three middle block values differ ({', '.join(f'{x:g}' for x in parts)}), but M00 has one "
            "weight; make them equal and name the parts in lines such as 'key:*.middle_block.1.*: 0.3'."
        )
    return parts[0]


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))


# With slots of their own there is nothing to borrow; the VAE is taken from A.
_OWN = Follows(None, None, None, None)
_SM = Follows(time_embed="IN00", label_emb="IN00", out=LAST, vae="BASE")
_SM_OLD = Follows(time_embed=None, label_emb=None, out=LAST, vae="BASE")
_MBW = Follows(time_embed="IN00", label_emb="BASE", out=LAST, vae="BASE")
_MECHA_SD = Follows(time_embed="BASE", label_emb="BASE", out=LAST, vae="BASE")
_MECHA_XL = Follows(time_embed="BASE", label_emb="BASE", out=LAST, vae="VAE")

DEFAULT_CONVENTION = "supermerger"
CONVENTIONS: dict[str, Convention] = {
    c.name: c
    for c in (
        Convention("supermerger", "supermerger; most shared recipes come from it", "mbw", _SM, _SM),
        Convention("supermerger-old", "earlier supermerger, which left SDXL's embeddings at A", "mbw", _SM, _SM_OLD),
        Convention("merge-block-weighted", "bbc-mc's original extension, and sd-meh", "mbw", _MBW, _MBW),
        Convention("sd-mecha", "sd-mecha's block configurations", "mbw", _MECHA_SD, _MECHA_XL),
        Convention("automb", "AutoMBW, order of its log and CSV", "automb", _OWN, _OWN),
        Convention("automb-recipe", "AutoMBW, order of its recipe line", "automb-recipe", _OWN, _OWN),
        Convention("comfyui", "ComfyUI's model merge nodes; 1 is all of A", "comfyui", _OWN, _OWN, inverted=True),
        Convention("lbw", "LoRA block weight; blocks without a number have 0", "lbw", _OWN, _OWN, missing=0.0),
        Convention("lbw-kohya", "the same as kohya reads it: they have 1", "lbw", _OWN, _OWN, missing=1.0),
    )
}


def convention_named(name: str) -> Convention:
    """A convention by its name, in any case; raises LabelError with the nearest names."""
    try:
        return CONVENTIONS[str(name).strip().casefold().replace("_", "-")]
    except KeyError:
        raise LabelError(
            f"Unknown convention {name!r}{nearest(name, CONVENTIONS)}; known are {', '.join(CONVENTIONS)}."
        ) from None


# The vectors of the LoRA block weight conventions by what they are meant for.
LBW_SLOTS: dict[str, dict[str, Slots]] = {
    "lora": {"sd1": LBW_17, "sd2": LBW_17, "sdxl": LBW_12},
    "locon": {"sd1": MBW_26, "sd2": MBW_26, "sdxl": MBW_20},
}


def lbw_index(label: str, family: Family, kind: str = "lora") -> int | None:
    """Which number of a LoRA block weight vector a label reads, or None when it has none.

    `kind` is `lora` (17 values for SD1 and SD2, 12 for SDXL) or `locon` (26, 20). Text encoders read BASE.
    """
    slots = LBW_SLOTS[kind].get(family, ())
    slot = "BASE" if label in TEXT_ENCODERS[family] else label
    return slots.index(slot) if slot in slots else None
