"""What is known of a LoRA's tensors by their names: the answer of `recognition`."""

from __future__ import annotations

from dataclasses import dataclass, field

from ..families import Family
from .names import Style, Target
from .roles import Role


@dataclass
class Members:
    """A module's tensors: role -> the name in the file; `spelling` is the module's name there."""

    spelling: str
    tensors: dict[Role, str] = field(default_factory=dict)


@dataclass
class Recognised:
    """The answer: modules in the order of the file, the names that no module fits, and those of PEFT's adapters."""

    family: str | Family
    style: Style
    modules: dict[Target, Members]
    unknown: list[str]
    adapters: tuple[str, ...] = ()
