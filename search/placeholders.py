"""Placeholders in plain data: what `{free: [0, 1]}` and `{choose: [...]}` become when a recipe is read, and how they are filled."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from .errors import SearchError
from .parameters import FreeParameter, Point, on_grid

_FREE_WORDS = ("free", "step", "per")


@dataclass(frozen=True)
class Placeholder:
    """Where a parameter's value goes.

    Attributes:
        parameter: its name.
        whole: the value is a whole number.
        values: of a choice: its names and what they stand for.
    """

    parameter: str
    whole: bool = False
    values: tuple[tuple[str, Any], ...] = ()

    def value(self, point: Point) -> Any:
        given = point[self.parameter]
        if self.values:
            return dict(self.values)[given]
        return int(given) if self.whole else float(given)


def filled(data: Any, point: Point) -> Any:
    """Plain data with every placeholder filled."""
    if isinstance(data, Placeholder):
        return data.value(point)
    if isinstance(data, Mapping):
        return {name: filled(x, point) for name, x in data.items()}
    return [filled(x, point) for x in data] if isinstance(data, list) else data


def placeholders(data: Any) -> Iterator[Placeholder]:
    """Every placeholder in data, in its order."""
    if isinstance(data, Placeholder):
        yield data
    elif isinstance(data, Mapping | list):
        for value in data.values() if isinstance(data, Mapping) else data:
            yield from placeholders(value)


def is_free(value: Any) -> bool:
    return isinstance(value, Mapping) and "free" in value


def is_choice(value: Any) -> bool:
    return isinstance(value, Mapping) and "choose" in value


def choice(value: Mapping, where: str, found: list[FreeParameter], of: str = "") -> Placeholder:
    """The placeholder of `{choose: [...]}`; its parameter is added to `found`.

    Raises:
        SearchError: it is not a list of two or more different names, numbers or switches.
    """
    values = value["choose"]
    if unknown := [x for x in value if x != "choose"]:
        raise SearchError(f"{where}: {unknown[0]!r:.80} has no meaning next to choose")
    if not isinstance(values, list) or not all(isinstance(x, str | Real) for x in values):
        raise SearchError(f"{where}: choose needs a list of names, numbers or switches, found {values!r:.80}")
    names = [str(x) if isinstance(x, str) else str(x).lower() for x in values]
    if len(set(names)) < 2 or len(set(names)) < len(names):
        raise SearchError(f"{where}: choose needs two or more values, all different, found {values!r:.80}")
    found.append(FreeParameter(where, choices=tuple(names), of=of or where))
    return Placeholder(where, values=tuple(zip(names, values, strict=True)))


def free_number(value: Mapping, where: str, found: list[FreeParameter], of: str, whole: bool = False) -> Placeholder:
    """The placeholder of `{free: [low, high], step: ...}`; its parameter is added to `found`.

    Raises:
        SearchError: the ends are not two numbers, the lower first; the step does not fit between them.
    """
    low, high = _ends(value["free"], where)
    step = value.get("step")
    if step is not None:
        if not _is_number(step) or not 0 < step <= high - low:
            raise SearchError(
                f"{where}: the step must be a number above 0 that fits into {low:g} to {high:g}, found {step!r:.80}"
            )
        step = float(step)
        high = on_grid(low, high, step, 1 << 60)
    if whole and not (low.is_integer() and high.is_integer() and step and step.is_integer()):
        raise SearchError(f"{where}: is a whole number; its ends and step must be whole too")
    found.append(FreeParameter(where, low, high, step, of=of))
    return Placeholder(where, whole=whole)


def only_free_words(value: Mapping, where: str, per: bool = False) -> None:
    """Refuse what has no meaning next to `free`.

    Raises:
        SearchError: naming it.
    """
    known = _FREE_WORDS if per else _FREE_WORDS[:2]
    if unknown := [x for x in value if x not in known]:
        hint = "; one number has no blocks" if unknown[0] == "per" else ""
        raise SearchError(f"{where}: {unknown[0]!r:.80} has no meaning next to free here{hint}")


def _ends(value: Any, where: str) -> tuple[float, float]:
    if not isinstance(value, list) or len(value) != 2 or not all(_is_number(x) for x in value) or value[0] >= value[1]:
        raise SearchError(f"{where}: free needs two numbers, the lower first, such as [0, 1]; found {value!r:.80}")
    return float(value[0]), float(value[1])


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)
