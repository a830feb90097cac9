"""Colours of values: a sequential palette that colour-blind people can read, its scales, and the ink on top of it.

The palette is viridis, the same that the plots use; grey means no value, hatching means missing or mismatched.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ..checkpoints.errors import UnetscopeError

ScaleKind = Literal["log", "linear"]

# Seventeen evenly spaced colours of viridis; between them, straight lines.
_HEX = """440154 48186a 472d7b 424086 3b528b 33638d 2c728e 26828e 21918c 1fa088 28ae80 3fbc73 5ec962 84d44b addc30
d8e219 fde725"""
VIRIDIS = [tuple(int(c[i : i + 2], 16) for i in (0, 2, 4)) for c in _HEX.split()]


def colour(fraction: float) -> str:
    """The palette's colour at 0 (low, dark) to 1 (high, bright), as `#rrggbb`."""
    at = min(max(fraction, 0.0), 1.0) * (len(VIRIDIS) - 1)
    low = min(int(at), len(VIRIDIS) - 2)
    rgb = (a + (b - a) * (at - low) for a, b in zip(VIRIDIS[low], VIRIDIS[low + 1], strict=True))
    return "#" + "".join(f"{round(c):02x}" for c in rgb)


def luminance(fill: str) -> float:
    """Relative luminance (WCAG 2) of `#rrggbb`, 0 to 1."""
    channels = (int(fill[i : i + 2], 16) / 255 for i in (1, 3, 5))
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def ink_is_dark(fill: str) -> bool:
    """Whether black text has more contrast than white text on a fill; the better of the two is never below 4.5."""
    lum = luminance(fill)
    return (lum + 0.05) / 0.05 > 1.05 / (lum + 0.05)


@dataclass(frozen=True, slots=True)
class ColourScale:
    """Turns values into fractions of the palette. `low` and `high` get its ends; what is outside is clipped."""

    kind: ScaleKind
    low: float
    high: float

    def fraction(self, value: float) -> float:
        if self.high <= self.low:
            return 0.5
        if self.kind == "linear":
            return min(max((value - self.low) / (self.high - self.low), 0.0), 1.0)
        if value <= self.low:
            return 0.0
        return min((math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low)), 1.0)

    def ticks(self) -> list[float]:
        """Values to print along the legend: both ends, and between them powers of ten or even steps."""
        if self.high <= self.low:
            return [self.low]
        if self.kind == "linear":
            return [self.low + (self.high - self.low) * i / 4 for i in range(5)]
        first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
        step = max(1, math.ceil((last - first + 1) / 5))
        powers = [10.0**e for e in range(first, last + 1, step)]
        inside = [p for p in powers if 0.12 < self.fraction(p) < 0.88] or [math.sqrt(self.low * self.high)]
        return [self.low, *inside, self.high]


def scale_for(values: Iterable[float], kind: ScaleKind, value_range: tuple[float, float] | None = None) -> ColourScale:
    """The scale of some values; `value_range` fixes its ends.

    A log scale begins at the smallest positive value; zeros and negative values get the lowest colour.

    Raises:
        UnetscopeError: for an unknown kind, or a range that is empty or (on a log scale) not positive.
    """
    if kind not in ("log", "linear"):
        raise UnetscopeError(f"there is no colour scale {kind!r}; use 'log' or 'linear'")
    if value_range is not None:
        low, high = map(float, value_range)
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise UnetscopeError(f"the value range {low:g} to {high:g} is empty; give the lower end first")
        if kind == "log" and low <= 0:
            raise UnetscopeError(
                f"a log scale cannot begin at {low:g}; give a positive lower end, or take the linear scale"
            )
        return ColourScale(kind, low, high)
    finite = [v for v in values if math.isfinite(v)]
    if kind == "log":
        finite = [v for v in finite if v > 0] or [1.0]
    finite = finite or [0.0, 1.0]
    return ColourScale(kind, min(finite), max(finite))
