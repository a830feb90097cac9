"""Conventions: which number of somebody's weight vector does a block label read?

Tools agree on the numbered blocks and disagree on everything else. Which vectors a tool has for a family, slot by slot, stands in
the family's record (`Family.conventions`); a `Convention` says how the tool means its numbers, and reads them:

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from ..errors import RecipeError, nearest
from . import FAMILIES, Family, Slots, Vectors, family_of, is_text
from .parts.mbw import MBW_26, MIDDLE_3

_NUMBERED = MBW_26[1:]
_NONE = Vectors(())


@dataclass(frozen=True, slots=True)
class Reading:
    """What a vector says.

    Attributes:
        weights: share of B for every label of the denoiser and its text encoders; None: stays with A.
        vae: what the tool would do with the VAE. Unetscope copies the VAE from the first model unless the user names
            it, so this is not a weight like the others. None: the tool takes it from A.
        base: the number of the slot BASE.
    """

    weights: dict[str, float | None]
    vae: float | None
    base: float


@dataclass(frozen=True, slots=True)
class Convention:
    """One tool's way to read a weight vector.

    Attributes:
        name: as recipes and the command line write it.
        about: one line for people.
        layout: what kind of vector it is: tools of the same kind have the same slots (`mbw`, `lbw`...).
        inverted: its numbers are shares of A, not of B.
        missing: for strengths of LoRAs: the weight of numbered blocks that a shorter vector leaves out. What is no
            block of such vectors (TIME_EMBED, LABEL_EMB, OUT, VAE) then has 1: these tools apply the LoRA there as it is.
    """

    name: str
    about: str
    layout: str
    inverted: bool = False
    missing: float | None = None

    def vectors(self, family: str | Family) -> Vectors:
        """The tool's vectors for a family; none where the tool does not know it."""
        known = family_of(family).conventions
        return known.get(self.name) or known.get("*", _NONE)

    def lengths(self, family: str | Family) -> tuple[int, ...]:
        """Lengths of the vectors that fit a family, the usual one first; empty when the tool knows none."""
        return tuple(len(slots) for slots in self.vectors(family).slots)

    def slots(self, family: str | Family, length: int) -> Slots:
        """The slot names of a vector, in order.

        Raises:
            RecipeError: no vector of this length exists for this family; the message lists those that do.
        """
        for slots in self.vectors(family).slots:
            if len(slots) == length:
                return slots
        raise RecipeError(self._misfit(family_of(family), length), code="vector.length")

    def follows(self, label: str, family: str | Family) -> str | None:
        """The slot that a label reads when it has none of its own: `BASE`, `IN00`, `OUT11`, ... or None.

        Numbered blocks follow nobody (None), text encoders follow BASE.
        """
        return "BASE" if is_text(label) else self.vectors(family).follows.get(label) or None

    def slot_of(self, label: str, family: str | Family, length: int | None = None) -> tuple[int, str] | None:
        """Which number of the vector a label reads, its own or a borrowed one: (index, slot name).

        None when it reads none: it stays with A, or the family has no such label, or the tool no such vector.
        `length` picks one of several vectors; without it, the usual one.
        """
        if label not in family_of(family).all_labels or not self.lengths(family):
            return None
        slots = self.slots(family, length or self.lengths(family)[0])
        for slot in (label, f"{label}.0", self.follows(label, family)):
            if slot in slots:
                return slots.index(slot), slot
        return None

    def read(
        self, vector: Sequence[float], family: str | Family, base: float | None = None, scale: float = 1.0
    ) -> Reading:
        """The weight of every label.

        Args:
            vector: numbers in this convention's order.
            family: whose labels are read.
            base: weight of the BASE slot, in place of the vector's own number or, where it has none, of 0.
            scale: multiplies every weight of the vector (but not `base`).

        Raises:
            RecipeError: wrong length, a number that is not finite, or parts of the middle block that differ (`in_parts`).
        """
        slots = self.slots(family, len(vector))
        if not all(math.isfinite(x) for x in vector):
            wrong = next(x for x in vector if not math.isfinite(x))
            raise RecipeError(f"A weight vector may hold finite numbers only, found {wrong}", code="vector.not_finite")
        values = {slot: scale * (1.0 - x if self.inverted else x) for slot, x in zip(slots, vector, strict=True)}
        if base is not None or "BASE" not in values:
            values["BASE"] = 0.0 if base is None else float(base)
        if MIDDLE_3.keys() & values.keys():
            values["M00"] = _middle(values)

        def weight(label: str) -> float | None:
            if label in values or self.missing is None or is_text(label):
                return values[label] if label in values else values.get(self.follows(label, family))
            return scale * (self.missing if label in _NUMBERED else 1.0)

        labels = (*family_of(family).text_encoders, *family_of(family).labels)
        return Reading({label: weight(label) for label in labels}, weight("VAE"), values["BASE"])

    def in_parts(
        self, vector: Sequence[float], family: str | Family, scale: float = 1.0
    ) -> tuple[Sequence[float], dict[str, list[tuple[str, float]]]]:
        """A vector with one number for each block, and what it says of parts of blocks.

        Returns:
            the vector, with the mean where parts of a block differ; and of those blocks regular expressions of keys with the
            weight (share of B) of each part.

        Raises:
            RecipeError: wrong length.
        """
        slots = self.slots(family, len(vector))
        at = {slots.index(slot): pattern for slot, pattern in MIDDLE_3.items() if slot in slots}
        given = [vector[i] for i in at]
        if len(set(given)) <= 1:
            return vector, {}
        mean = math.fsum(given) / len(given)
        parts = [(pattern, scale * (1.0 - vector[i] if self.inverted else vector[i])) for i, pattern in at.items()]
        return [mean if i in at else x for i, x in enumerate(vector)], {"M00": parts}

    def _misfit(self, family: Family, length: int) -> str:
        fits = self.lengths(family)
        if not fits:
            usual = _usual(family)
            instead = f"take {usual!r}" if usual else "no other has one: give weights by block (BLOCK: 0.5)"
            return f"Convention {self.name!r} has no weight vector for {family.title}; {instead}"
        if self.name not in family.conventions:  # every tool's is one number for each block
            slots = self.vectors(family).slots[0]
            return (
                f"A weight vector of {length} values does not fit {family.title}, which has {_either(fits)}: "
                f"one for each block from {slots[0]} to {slots[-1]}"
            )
        message = (
            f"A weight vector of {length} values does not fit {family.title} in convention {self.name!r}, "
            f"which has {_either(fits)} values"
        )
        if shorter := self._of_more_blocks(family, length):
            ins = [slot for slot in shorter if slot.startswith("IN")]
            outs = [slot for slot in shorter if slot.startswith("OUT")]
            return (
                f"{message}; it is one for SD1: keep its {'BASE, ' if 'BASE' in shorter else ''}{ins[0]}-{ins[-1]}, M00 and "
                f"{outs[0]}-{outs[-1]} (a preset given by name is reduced so by itself)"
            )
        others = [c.name for c in CONVENTIONS.values() if length in c.lengths(family)]
        return message + (f"; {length} values fit convention {' or '.join(map(repr, others))}" if others else "")

    def _of_more_blocks(self, family: Family, length: int) -> Slots:
        """The slots to keep of a vector that is one for more blocks than the family has; empty where it is none."""
        longer = next((slots for slots in (MBW_26, _NUMBERED) if len(slots) == length), ())
        own = self.vectors(family).slots
        kept = own[0 if "BASE" in longer else 1] if longer and self.layout == "mbw" and len(own) > 1 else ()
        return kept if set(kept) <= set(longer) else ()


def lengths_of(convention: Convention) -> list[int]:
    """The lengths of a tool's vectors, of the families that it knows."""
    tools = (family for family in FAMILIES.values() if convention.name in family.conventions)
    return list(dict.fromkeys(length for family in tools for length in convention.lengths(family)))


def _usual(family: Family) -> str | None:
    """A convention that has vectors for a family, the default one if it has; None where none has."""
    having = [name for name in (DEFAULT_CONVENTION, *CONVENTIONS) if CONVENTIONS[name].lengths(family)]
    return next(iter(having), None)


def _middle(values: dict[str, float]) -> float:
    parts = [values[slot] for slot in MIDDLE_3]
    if len(set(parts)) > 1:
        raise RecipeError(
            f"The vector's three middle block values differ ({', '.join(f'{x:g}' for x in parts)}), but M00 has one "
            "weight; make them equal and name the parts in lines such as 'key:*.middle_block.1.*: 0.3'",
            code="vector.middle",
        )
    return parts[0]


def _either(numbers: Sequence[int]) -> str:
    return " or ".join(filter(None, (", ".join(map(str, numbers[:-1])), str(numbers[-1]))))


DEFAULT_CONVENTION = "supermerger"
# The tools that several families have vectors of; a record may bring one more.
_TOOLS: dict[str, Convention] = {
    c.name: c
    for c in (
        Convention("supermerger", "supermerger; most shared recipes come from it", "mbw"),
        Convention("supermerger-old", "earlier supermerger, which left SDXL's embeddings at A", "mbw"),
        Convention("merge-block-weighted", "bbc-mc's original extension, and sd-meh", "mbw"),
        Convention("sd-mecha", "sd-mecha's block configurations", "mbw"),
        Convention("automb", "AutoMBW, order of its log and CSV", "automb"),
        Convention("automb-recipe", "AutoMBW, order of its recipe line", "automb-recipe"),
        Convention("comfyui", "ComfyUI's model merge nodes; 1 is all of A", "comfyui", inverted=True),
        Convention("lbw", "LoRA block weight; blocks without a number have 0", "lbw", missing=0.0),
        Convention("lbw-kohya", "the same as kohya reads it: they have 1", "lbw", missing=1.0),
    )
}


@cache
def _known(version: int) -> dict[str, Convention]:
    """The tools, then those that only one family's record names."""
    brought = {
        tool: Convention(tool, vectors.about or f"block weights of {family.title}", tool, vectors.inverted)
        for family in FAMILIES.values()
        for tool, vectors in family.conventions.items()
        if tool not in _TOOLS and tool != "*"
    }
    return _TOOLS | brought


class _Conventions(Mapping[str, Convention]):
    """Every convention by its name."""

    def __getitem__(self, name: str) -> Convention:
        return _known(FAMILIES.version)[name]

    def __iter__(self) -> Iterator[str]:
        return iter(_known(FAMILIES.version))

    def __len__(self) -> int:
        return len(_known(FAMILIES.version))


CONVENTIONS = _Conventions()


def convention_named(name: str) -> Convention:
    """A convention by its name, in any case; raises RecipeError with the nearest names."""
    try:
        return CONVENTIONS[str(name).strip().casefold().replace("_", "-")]
    except KeyError:
        raise RecipeError(
            f"Unknown convention {name!r}{nearest(name, CONVENTIONS)}; known are {', '.join(CONVENTIONS)}"
        ) from None


def lbw_slots(length: int) -> Slots:
    """The slots of a LoRA's block weight vector of that length, in whatever family has one; empty where none has."""
    rows = (slots for family in FAMILIES.values() if family.lora for slots in family.lora.slots.values())
    return next((slots for slots in rows if len(slots) == length), ())


def lbw_index(label: str, family: str | Family, kind: str = "lora") -> int | None:
    """Which number of a LoRA block weight vector a label reads, or None when it has none.

    `kind` is `lora` (17 values for SD1 and SD2, 12 for SDXL) or `locon` (26, 20). Text encoders read BASE.
    """
    record = family_of(family)
    slots = record.lora.slots.get(kind, ()) if record.lora else ()
    slot = "BASE" if label in record.text_encoders else label
    return slots.index(slot) if slot in slots else None
