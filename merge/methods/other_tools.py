"""How other tools say a merge method: their names for it, and what their parameters are here. `exchange` reads and writes by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Supermerger:
    """A mode of supermerger.

    Attributes:
        mode: as its menu has it (`Weight sum`).
        calculation: its `calcmode`.
        fixed: parameters of ours with which the two are the same.
        blocks: parameters that have block weights there.
        chosen: Include and Exclude can be said: alpha 0 leaves a tensor as it is in the first model.
        note: where the two differ.
    """

    mode: str
    calculation: str = "normal"
    fixed: Mapping[str, Any] = field(default_factory=dict)
    blocks: tuple[str, ...] = ("alpha", "beta")
    chosen: bool = True
    note: str = ""


@dataclass(frozen=True)
class Mergekit:
    """One of mergekit's methods.

    Attributes:
        base: whether `base_model` is the first input; `ignored`: it is a model like the others, where it is listed.
        weighted: models have a `weight`.
        numbers: mergekit's name -> ours and mergekit's default (None: it asks for a value), of what holds for all models here.
        fixed: parameters that the method's name implies.
        normalize: what `normalize` does, and its default: `share` is our `normalise`; `mean` averages where signs are elected;
            `divide` divides the weights by their sum.
        rescale: the default of `rescale`, by l1, of methods that have it.
        left_out: parameter -> the value at which leaving it out changes nothing.
        without_effect: parameters that mergekit takes and does not read.
        half_widths: parameters of ours that are twice mergekit's number, and 0 where the density is 1.
        place: two models with weights are meant by one parameter of ours, the place between them.
        without_base: the method, and parameters of it, that are meant where there is no base.
        on_changes: with a base, the method is applied to the models' differences from it, and the result added to it.
        scaled: a single model may have a `scale`.
        note: where the two differ.
    """

    base: Literal["required", "optional", "ignored"] = "required"
    weighted: bool = True
    numbers: Mapping[str, tuple[str, float | None]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    normalize: tuple[Literal["share", "mean", "divide"], bool] | None = None
    rescale: bool | None = None
    left_out: Mapping[str, Any] = field(default_factory=dict)
    without_effect: tuple[str, ...] = ()
    half_widths: tuple[str, ...] = ()
    place: str = ""
    without_base: tuple[str, Mapping[str, Any]] | None = None
    on_changes: bool = False
    scaled: bool = False
    note: str = ""


@dataclass(frozen=True)
class Mecha:
    """One of sd-mecha's methods.

    Attributes:
        name: sd-mecha's; empty where it has none, and the method is written with others.
        takes: its arguments in order, models and numbers; `*models` are all that are left.
        numbers: its name -> ours and its default.
        fixed: parameters of ours with which the two are the same.
        blocks: its numbers may be block weights.
        also: older names for it.
        read, write: how a node becomes a step, and a step nodes: `plain`: as this record says; empty: not at all; else the name
            of a translation in `exchange`.
        note: where the two differ.
    """

    name: str = ""
    takes: str = ""
    numbers: Mapping[str, tuple[str, float]] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    blocks: bool = True
    also: tuple[str, ...] = ()
    read: str = "plain"
    write: str = "plain"
    note: str = ""
