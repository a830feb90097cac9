"""Values to colour a diagram by: which box gets which number, and how the box is painted.

Values are keyed by label (`IN05`, `BASE` for all text encoders), by module path (`down_blocks.1.resnets.0`, or its
single-file prefix) or by tensor key. A box takes its own value; else the mean of the finer ones inside it, weighted by
parameters; else that of the coarser box around it. None and NaN say that something is missing or did not match.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ..checkpoints.errors import UnetscopeError, nearest
from ..checkpoints.families import is_text
from ..checkpoints.text import number
from .palette import ColourScale, ScaleKind, colour, ink_is_dark, scale_for

Numbers = Mapping[str, float | None]


@dataclass(frozen=True, slots=True)
class Paint:
    """How a box looks: class or fill of its rectangle, class of the group around its text, the printed value."""

    box: str
    fill: str
    group: str
    printed: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """A part of a box that may have a value of its own: the names that it goes by, and its number of parameters."""

    names: tuple[str, ...]
    params: int


class Values:
    """The numbers of one diagram on one scale. Without numbers every box is painted by its kind."""

    def __init__(self, numbers: Numbers | None, scale: ColourScale | None = None):
        self.given = numbers is not None
        self.numbers = {str(name): _number(name, value) for name, value in (numbers or {}).items()}
        self.scale = scale
        self.used: set[str] = set()

    @property
    def finite(self) -> list[float]:
        return [v for v in self.numbers.values() if v is not None and math.isfinite(v)]

    def has_missing(self) -> bool:
        return any(v is None for v in self.numbers.values())

    def paint(
        self,
        kind: str,
        names: Sequence[str],
        members: Iterable[Member] = (),
        around: Sequence[str] = (),
        lost: bool = False,
    ) -> Paint:
        """How to paint a box.

        Args:
            kind: the class of an uncoloured box (`k-res`...).
            names: the names that the box itself goes by.
            members: what is inside it.
            around: names of the boxes around it, the nearest first.
            lost: the checkpoint lacks it.
        """
        found, value = self._find(names, members, around)
        if lost or (found and value is None):
            return Paint("", "url(#hatched)", "on-page", "missing")
        if not self.given:
            return Paint(kind, "", "on-page")
        if not found:
            return Paint("none", "", "on-page")
        fill = colour(self.scale.fraction(value))
        return Paint("", fill, "on-light" if ink_is_dark(fill) else "on-dark", number(value), value)

    def _find(
        self, names: Sequence[str], members: Iterable[Member], around: Sequence[str]
    ) -> tuple[bool, float | None]:
        if not self.numbers:
            return False, None
        if (name := self._first(names)) is not None:
            return True, self.numbers[name]
        total, weight, lost = 0.0, 0, False
        for member in members:
            if (name := self._first(member.names)) is not None:
                value = self.numbers[name]
                lost |= value is None
                if value is not None:
                    total, weight = total + value * max(member.params, 1), weight + max(member.params, 1)
        if weight or lost:
            # Infinities of both signs have no mean.
            return True, total / weight if weight and not math.isnan(total) else None
        name = self._first(around)
        return (True, self.numbers[name]) if name is not None else (False, None)

    def _first(self, names: Sequence[str]) -> str | None:
        name = next((n for n in names if n in self.numbers), None)
        if name is not None:
            self.used.add(name)
        return name

    def check(self, drawn: Iterable[str]) -> None:
        """Raise UnetscopeError when there are values and none of them belongs to this diagram."""
        if self.numbers and not self.used:
            name = next(iter(self.numbers))
            raise UnetscopeError(
                f"none of the {len(self.numbers)} values belongs to this diagram: {name[:80]!r} is not a label, module or key"
                f" of it{nearest(name[:80], drawn)}"
            )


def label_names(label: str) -> tuple[str, ...]:
    """The names by which a value of a block may go: BASE stands for the text encoders, MID for M00."""
    if is_text(label):
        return (label, "BASE")
    return (label, "MID") if label == "M00" else (label,)


def shared_scale(
    several: Iterable[Numbers | None], kind: ScaleKind, value_range: tuple[float, float] | None = None
) -> ColourScale:
    """One scale for the values of one or more diagrams."""
    return scale_for((v for numbers in several for v in Values(numbers).finite), kind, value_range)


def _number(name: object, value: object) -> float | None:
    if value is None:
        return None
    try:
        number_ = float(value)
    except (TypeError, ValueError):
        raise UnetscopeError(f"the value of {str(name)[:80]!r} is {str(value)[:40]!r}; a number is needed") from None
    return None if math.isnan(number_) else number_
