"""What the Merge page does to block weights, as plain functions: label -> weight in, label -> weight out."""

from __future__ import annotations

import math
import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

from ..checkpoints.errors import RecipeError
from ..checkpoints.families import Family, family_of
from ..checkpoints.families.conventions import DEFAULT_CONVENTION, convention_named
from ..checkpoints.families.parts.mbw import MIDDLE_3

Weights = dict[str, float]
Curve = Literal["linear", "cosine"]
_STEPS_BACK = 100


def weighted_labels(family: str | Family) -> tuple[str, ...]:
    """The labels that have a weight, in network order: text encoders, then the UNET. The VAE is chosen apart from them."""
    record = family_of(family)
    return (*record.text_encoders, *record.labels)


def even(family: str | Family, value: float) -> Weights:
    """The same weight everywhere."""
    return dict.fromkeys(weighted_labels(family), float(value))


def from_text(text: str, convention: str, family: str | Family) -> Weights:
    """Weights from what people paste: a number, a vector of any convention, a preset's name, or lines `IN04-IN08: 0.7`.

    Raises:
        RecipeError: it is none of these, does not fit the architecture, or weighs kinds of layers or keys, which the diagram
            cannot show.
    """
    from ..merge.block_weights import BlockWeights
    from ..merge.weights_text import plain_from_text

    resolved = BlockWeights.parse(plain_from_text(text), convention).resolve(family)
    if inside := resolved.changed_inside():
        raise RecipeError(
            f"These weights differ inside {', '.join(inside[:4])}{'...' if len(inside) > 4 else ''}, by layer or key; the diagram "
            "has one weight a block. Merge them as a recipe (load it as text below)."
        )
    by_label = resolved.by_label()
    return {label: by_label.get(label, 0.0) for label in weighted_labels(family)}


def vector_of(
    weights: Mapping[str, float], convention: str, family: str | Family
) -> tuple[list[float], tuple[str, ...]]:
    """The vector that says these weights in a convention, and the labels that it gets wrong for want of a slot.

    Raises:
        RecipeError: the convention has no vector for this architecture.
    """
    reader = convention_named(convention)
    if not reader.lengths(family):
        raise RecipeError(
            f"Convention {convention!r} has no weight vector for this architecture; take {DEFAULT_CONVENTION!r}."
        )
    base = next((weights.get(label, 0.0) for label in family_of(family).text_encoders), 0.0)
    slots = reader.slots(family, reader.lengths(family)[0])

    def value(slot: str) -> float:
        if slot == "BASE":
            return base
        return weights.get("M00" if slot in MIDDLE_3 else slot, 0.0)

    vector = [1 - value(slot) if reader.inverted else value(slot) for slot in slots]
    read = reader.read(vector, family).weights
    wrong = [x for x in weighted_labels(family) if not math.isclose(read[x] or 0.0, weights.get(x, 0.0), abs_tol=1e-9)]
    return vector, tuple(wrong)


def gradient(
    weights: Mapping[str, float], labels: Collection[str], first: float, last: float, curve: Curve, family: str | Family
) -> Weights:
    """Weights that run from `first` to `last` over these labels, in network order; the others stay."""
    from ..merge.block_weights import Gradient

    chosen = [label for label in weighted_labels(family) if label in labels]
    run = Gradient((first, last), curve)
    return dict(weights) | {label: run.at(i / max(1, len(chosen) - 1)) for i, label in enumerate(chosen)}


def mirrored(weights: Mapping[str, float], family: str | Family) -> Weights:
    """OUT blocks take the weight of the IN block whose skip connection they receive."""
    partners = {label: family_of(family).skip_partner(label) for label in weights}
    return dict(weights) | {partner: weights[label] for label, partner in partners.items() if partner}


def randomised(
    weights: Mapping[str, float], labels: Collection[str], low: float, high: float, seed: int, family: str | Family
) -> Weights:
    """Even random weights of two decimals between `low` and `high` for these labels; the same seed, the same weights.

    Every label has its own random number, so that what else is chosen does not change it.
    """
    out = dict(weights)
    for label in weighted_labels(family):
        if label in labels:
            out[label] = round(random.Random(f"{seed} {label}").uniform(low, high), 2)
    return out


def with_value(weights: Mapping[str, float], labels: Collection[str], value: float) -> Weights:
    """The same weight for these labels; the others stay."""
    return dict(weights) | {label: float(value) for label in labels if label in weights}


def to_lines(weights: Mapping[str, float]) -> float | dict[str, float]:
    """Weights as a recipe says them: one number when all are equal, else every label in a line of its own."""
    values = set(weights.values())
    return values.pop() if len(values) == 1 else dict(weights)


@dataclass(frozen=True)
class Undo:
    """Weights and the way back: each change adds a step, undo and redo walk along them."""

    past: tuple[Weights, ...] = ()
    now: Weights | None = None
    future: tuple[Weights, ...] = ()

    def changed(self, weights: Weights) -> Undo:
        """After a change; what was undone before it is gone."""
        if self.now is None or weights == self.now:
            return Undo(self.past, dict(weights), self.future)
        return Undo((*self.past, self.now)[-_STEPS_BACK:], dict(weights))

    def back(self) -> Undo:
        """One change earlier; itself when there is none."""
        if not self.past or self.now is None:
            return self
        return Undo(self.past[:-1], self.past[-1], (self.now, *self.future))

    def forward(self) -> Undo:
        """One undone change later; itself when there is none."""
        if not self.future or self.now is None:
            return self
        return Undo((*self.past, self.now), self.future[0], self.future[1:])
