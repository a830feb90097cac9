"""The parts of a study that are settings: who proposes points, what ends a search, what is pruned, what is confirmed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_core import PydanticCustomError

from ..checkpoints.errors import nearest
from ..checkpoints.settings import Settings
from .errors import SearchError

OptimiserName = Literal["gp", "cmaes", "tpe", "qmc", "random"]
OPTIMISERS: tuple[str, ...] = ("gp", "cmaes", "tpe", "qmc", "random")

# As those of the web UI and of numpy's old generators: 32 bits.
LARGEST_SEED = 2**32 - 1


def _only_numbers(value: Any) -> Any:
    if isinstance(value, bool | str):
        raise PydanticCustomError("float_type", "must be a number")
    return value


def _a_seed(value: int) -> int:
    if value > LARGEST_SEED:
        raise PydanticCustomError("seed", "seeds go up to {largest} (2^32 - 1)", {"largest": f"{LARGEST_SEED:,}"})
    return value


# `true` is no 1, and "3" no 3.
Positive = Annotated[int, Field(ge=1, strict=True)]
Count = Annotated[int, Field(ge=0, strict=True)]
Seed = Annotated[int, Field(ge=0, strict=True), AfterValidator(_a_seed)]
Number = Annotated[float, BeforeValidator(_only_numbers)]


class OptimiserSettings(Settings):
    """Who proposes points.

    Attributes:
        name: `gp` (Gaussian process), `cmaes`, `tpe`, `qmc` (Sobol points) or `random`.
        seed: the same seed and scores give the same proposals, with one worker and no interruption.
        start: how many points are spread over what is free before the optimiser learns from scores; cmaes, qmc and random spread
            their own.
        start_points: how they are spread: `latin` (a Latin hypercube) or `uniform`.
    """

    name: OptimiserName = "gp"
    seed: Count = 0
    start: Count = 10
    start_points: Literal["latin", "uniform"] = "latin"


class Stop(Settings):
    """What ends a search before its budget.

    Attributes:
        patience: after so many proposals in a row without a better score; baselines and start points do not count.
        hours: of this run of the command.
        target: when a score is at least as good.
        stuck: when so many trials in a row have the same score, or the same images, though their points differ; 0 never.
        failures: when so many trials in a row fail; 0 never.
    """

    patience: Positive | None = None
    hours: Annotated[Number, Field(gt=0)] | None = None
    target: Number | None = None
    stuck: Count = 5
    failures: Count = 3


class Pruning(Settings):
    """Trials that are worse than the best one on the same images are not finished.

    Attributes:
        p: the signed-rank test's level; larger gives up sooner.
        after: images that every trial makes.
    """

    p: Annotated[Number, Field(gt=0, lt=0.5)] = 0.1
    after: Annotated[int, Field(ge=2, strict=True)] = 4


class Confirm(Settings):
    """The best trials again, on prompts and seeds that the search never saw.

    Attributes:
        top: how many.
        payloads: held-out prompts, in the forms of the study's; left out, the same prompts with other seeds.
        seeds: held-out seeds.
        confidence: of the intervals, all of them together.
    """

    top: Positive = 3
    payloads: Any = None
    seeds: list[Seed] = Field(default_factory=lambda: [90001, 90002, 90003, 90004], min_length=1)
    confidence: Annotated[Number, Field(gt=0.5, lt=1)] = 0.95


def named_optimiser(value: Any) -> Any:
    """A name alone means its defaults.

    Raises:
        SearchError: there is no such optimiser.
    """
    if isinstance(value, Mapping) and "name" in value and value["name"] not in OPTIMISERS:
        value = value["name"]
    if isinstance(value, str):
        if value not in OPTIMISERS:
            raise SearchError(
                f"optimiser: there is no {value!r}{nearest(value, OPTIMISERS)}; there are {', '.join(OPTIMISERS)}"
            )
        return {"name": value}
    return value


def switched(value: Any) -> Any:
    """`true` means the defaults, `false` means not at all."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value
