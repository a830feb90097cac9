"""A free number or choice of a study: its name, where it may go, and which blocks it moves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from .validation import Finite, Text

# Free parameter -> value: a number, or the name of a choice.
Point = Mapping[str, float | str]


@dataclass(frozen=True)
class FreeParameter:
    """One free number or choice.

    Attributes:
        name: as a merger would read it: `mix.alpha.IN04`, `mix.weights.anime.M00`, `mix.method`.
        low, high: the ends of a number; both are allowed values.
        step: the number is `low` plus a multiple of it; None where every number will do.
        choices: the names of a choice's values; empty for a number.
        of: the number or choice of the recipe that it is a part of: `mix.alpha`.
        labels: the canonical block labels that it moves as a whole; empty where it moves no whole block.

    Example:
        >>> FreeParameter("mix.alpha", low=0, high=1, step=0.25).nearest(0.4)
        0.5
    """

    name: Text
    low: Finite = 0.0
    high: Finite = 1.0
    step: Finite | None = None
    choices: tuple[Text, ...] = ()
    of: Text = ""
    labels: tuple[Text, ...] = ()

    @property
    def is_choice(self) -> bool:
        return bool(self.choices)

    def nearest(self, value: float) -> float | None:
        """The allowed number that is nearest to `value`; None when that is outside of the ends."""
        if self.is_choice or not self.low - 1e-12 <= value <= self.high + 1e-12:
            return None
        return self.at((value - self.low) / (self.high - self.low) if self.high > self.low else 0.0)

    def at(self, share: float) -> float:
        """The allowed number at a share, 0 to 1, of the way from `low` to `high`."""
        value = self.low + share * (self.high - self.low)
        if self.step:
            value = on_grid(self.low, self.high, self.step, round((value - self.low) / self.step))
        return min(max(value, self.low), self.high)

    def to_plain(self) -> dict[str, Any]:
        plain = asdict(self)
        return plain | {"choices": list(self.choices), "labels": list(self.labels)}


def on_grid(low: float, high: float, step: float, index: int) -> float:
    """`low` plus `index` steps, without the noise of binary fractions: 0.3, not 0.30000000000000004."""
    last = math.floor((high - low) / step + 1e-9)
    return round(low + min(max(index, 0), last) * step, 10)
