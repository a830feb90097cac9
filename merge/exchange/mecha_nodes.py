"""What the nodes of an sd-mecha graph come to here."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Weights:
    """A model or step; some components of it may be another's."""

    name: str
    components: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Delta:
    """A step or LoRA that is a difference; `of` holds a and b where it is a - b."""

    name: str
    of: tuple[str, str] | None = None


@dataclass(frozen=True)
class Waiting:
    """A delta that our method can only make while it adds it to a base."""

    method: str
    deltas: tuple[Delta, ...]
    parameters: dict[str, Any]


@dataclass(frozen=True)
class Mask:
    """A factor for b - c that depends on a, b and c."""

    method: str
    models: tuple[str, str, str]
    alpha: Any


@dataclass(frozen=True)
class Blocks:
    """Block weights, as our recipes write them."""

    weights: Any


@dataclass(frozen=True)
class Component:
    """One component of a model."""

    component: str
    name: str


@dataclass(frozen=True)
class Without:
    """A model without one component."""

    component: str
    name: str


class Refused(Exception):
    """A node that has no equivalent, with the reason."""
