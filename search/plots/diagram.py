"""The model in the colours of the weights that a search found. Needs no matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..overview import Overview

if TYPE_CHECKING:
    from ...diagrams import Drawing


def best_diagram(overview: Overview, of: str, top: int, theme: str = "auto") -> Drawing | None:
    """The block diagram in the colours of the best trial's weights, a bar in each box for the range of the `top` best.

    Returns:
        the drawing, or None where there is nothing to colour.

    Raises:
        UnetscopeError: no box of the architecture has one of these weights.
    """
    from ...checkpoints.families.any import any_family
    from ...diagrams import draw
    from ...diagrams.architectures import drawn_families

    spread, (low, high) = overview.spread(of, top), overview.limits(of)
    if overview.family in drawn_families():
        drawn = overview.family
    else:
        drawn = any_family({key: tuple(shape) for key, shape in overview.layout.items()}) if overview.layout else None
    if not spread or drawn is None:
        return None
    few = min(top, len(overview.complete))
    return draw(
        drawn,
        values={label: one.best for label, one in spread.items()},
        badges={label: (one.high - one.low) / ((high - low) or 1.0) for label, one in spread.items()},
        title=f"{overview.name}: {of} of the best trial",
        units=f"weight; bar: range of the {few} best trials",
        scale="linear",
        value_range=(low, high) if high > low else None,
        theme=theme,
    )
