"""How a point gets its score: what an objective is, and the one that is a function of the user's own. `panel` makes images."""

from __future__ import annotations

import inspect
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ..checkpoints.errors import UnetscopeError, in_words
from .errors import OUT_OF_ORDER, SearchError
from .free import Template
from .records import TrialRecord
from .shots import Shot
from .study import Study
from .user_code import load_function

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass
class Measured:
    """What became of a point.

    Attributes:
        scores: shot name -> score.
        parts: shot name -> part of the reward -> raw score.
        score: the weighted mean of `scores`; None when it failed.
        pruned: whether the panel was not finished.
        seconds: `merge`, `generate`, `reward`.
        pictures: shot name -> hash of the picture.
        note: why it failed, or what was odd.
    """

    scores: dict[str, float] = field(default_factory=dict)
    parts: dict[str, dict[str, float]] = field(default_factory=dict)
    score: float | None = None
    pruned: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, str] = field(default_factory=dict)
    note: str = ""


Keep = Callable[[str, "Image"], None]


class Objective(ABC):
    """Gives points scores.

    Attributes:
        name: for reports.
        higher_is_better, is_preference, measures: as a reward's.
        caution: what its reward's says.
        needs_calibration: whether scores mean something only when all baselines are measured.
        shots: the panel; empty where there are no images.
    """

    name = "objective"
    higher_is_better = True
    is_preference = True
    measures = ""
    caution = ""
    needs_calibration = False
    shots: Sequence[Shot] = ()

    def check(self, template: Template) -> None:  # noqa: B027 (a function has nothing to check)
        """Refuse what could never work, before anything heavy loads."""

    def load(self) -> None:  # noqa: B027
        """Load what is heavy; called once."""

    def measure(
        self, template: Template, point: Mapping[str, Any], incumbent: TrialRecord | None, keep: Keep
    ) -> Measured:
        """Score a point; whatever goes wrong with it makes a failed trial, with the reason as its note.

        Args:
            template: makes the recipe.
            point: what fills it.
            incumbent: the best trial, to compare with; None where nothing is pruned.
            keep: gets every picture.

        Raises:
            SearchError: the generator or the reward is out of order (`OUT_OF_ORDER`), so that no other point would do better.
        """
        measured = Measured()
        try:
            self._measure(measured, template, point, incumbent, keep)
        except UnetscopeError as error:
            if error.code == OUT_OF_ORDER:
                raise SearchError(f"{error}; the search has stopped, --resume goes on", code=OUT_OF_ORDER) from None
            measured.score, measured.note = None, str(error)
        # An objective, a model or a driver may raise anything; one trial is lost, not the search.
        except Exception as error:
            measured.score, measured.note = None, in_words(error)
        return measured

    @abstractmethod
    def _measure(self, measured: Measured, template, point, incumbent, keep) -> None:
        """Fill `measured`."""

    def rescored(self, record: TrialRecord) -> dict[str, float]:
        """A trial's scores again, from the raw parts that were recorded."""
        return dict(record.scores)

    def calibrate(self, baselines: Sequence[TrialRecord]) -> list[str]:
        """Fix the scale of scores from the baselines; sentences about what is odd."""
        return []

    def close(self) -> None:  # noqa: B027
        """Give back what was loaded."""


class FunctionObjective(Objective):
    """A function of one's own: it gets {parameter: value}, and the recipe if it takes two arguments, and returns a score."""

    def __init__(self, function: Callable, name: str, higher_is_better: bool):
        self.function, self.name, self.higher_is_better = function, name, higher_is_better
        self._wants_recipe = _takes_two(function)

    def _measure(self, measured, template, point, incumbent, keep) -> None:
        begun = time.monotonic()
        more = [template.recipe(point)] if self._wants_recipe and template.roles else []
        value = self.function(dict(point), *more)
        measured.seconds["reward"] = time.monotonic() - begun
        try:
            score = float(value)
        except (TypeError, ValueError):
            raise SearchError(f"{self.name} must return a number, and returned {value!r:.80}") from None
        if not math.isfinite(score):
            raise SearchError(f"{self.name} returned {score}")
        measured.score = score


def make_objective(study: Study) -> Objective:
    """The objective that a study asks for; nothing heavy is loaded.

    Raises:
        SearchError: a function, generator, reward or payload that there is not.
    """
    if study.objective is not None:
        function = load_function(study.objective, study.folder, f"{study.where}: objective")
        return FunctionObjective(function, study.objective, study.direction != "minimise")
    from .panel import panel_objective

    return panel_objective(study, study.shots())


def _takes_two(function: Callable) -> bool:
    """Whether a function has a place for a second argument that it needs."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return False
    placed = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(placed) >= 2
